#include <cmath>
#include <optional>

#include "lang/ast.h"

namespace tally {
namespace {

const double* number_in(const NodePtr& node) {
    const auto* literal = std::get_if<Literal>(&node->held);
    return literal ? std::get_if<double>(&literal->value) : nullptr;
}

const std::string* text_in(const NodePtr& node) {
    const auto* literal = std::get_if<Literal>(&node->held);
    return literal ? std::get_if<std::string>(&literal->value) : nullptr;
}

std::optional<Literal> folded(const Binary& node) {
    if (const auto *a = text_in(node.left), *b = text_in(node.right); a && b && node.sign == TokenKind::plus) {
        return Literal{*a + *b};
    }
    const auto *a = number_in(node.left), *b = number_in(node.right);
    if (!a || !b) return std::nullopt;
    switch (node.sign) {
        case TokenKind::plus: return Literal{*a + *b};
        case TokenKind::minus: return Literal{*a - *b};
        case TokenKind::star: return Literal{*a * *b};
        // A division by zero is the running program's error, with its place.
        case TokenKind::slash: return *b == 0 ? std::nullopt : std::optional(Literal{*a / *b});
        case TokenKind::percent: return *b == 0 ? std::nullopt : std::optional(Literal{std::fmod(*a, *b)});
        case TokenKind::less: return Literal{*a < *b};
        case TokenKind::less_equal: return Literal{*a <= *b};
        default: return std::nullopt;
    }
}

}  // namespace

int fold_constants(NodePtr& node) {
    int count = 0;
    for_each_child(*node, [&](NodePtr& child) { count += fold_constants(child); });
    std::optional<Literal> result;
    if (const auto* binary = std::get_if<Binary>(&node->held)) {
        result = folded(*binary);
    } else if (const auto* unary = std::get_if<Unary>(&node->held)) {
        if (const auto* number = number_in(unary->operand); number && unary->sign == TokenKind::minus) {
            result = Literal{-*number};
        }
    }
    if (!result) return count;
    node = make_node(std::move(*result), node->position);
    return count + 1;
}

}  // namespace tally
