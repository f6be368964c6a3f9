// What a program means, as a tree.
#pragma once
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "lang/token.h"

namespace tally {

struct Node;
using NodePtr = std::unique_ptr<Node>;
using Nodes = std::vector<NodePtr>;

struct Literal { std::variant<std::nullptr_t, bool, double, std::string> value; };
struct Name { std::string name; };
struct Unary { TokenKind sign; NodePtr operand; };
struct Binary { TokenKind sign; NodePtr left, right; };
struct Logical { bool is_and; NodePtr left, right; };
struct Assign { std::string name; NodePtr value; };
struct AssignIndex { NodePtr target, index, value; };
struct Index { NodePtr target, index; };
struct Call { NodePtr callee; Nodes arguments; };
struct ListLiteral { Nodes items; };
struct MapLiteral { std::vector<std::pair<NodePtr, NodePtr>> members; };
struct Let { std::string name; NodePtr value; };
struct Block { Nodes statements; };
struct If { NodePtr condition, then, otherwise; };
struct While { NodePtr condition, body; };
struct For { std::string name; NodePtr list, body; };
struct Return { NodePtr value; };
struct Function { std::string name; std::vector<std::string> parameters; NodePtr body; };
struct ExpressionStatement { NodePtr value; };

struct Node {
    using Held = std::variant<Literal, Name, Unary, Binary, Logical, Assign, AssignIndex, Index, Call, ListLiteral,
                              MapLiteral, Let, Block, If, While, For, Return, Function, ExpressionStatement>;
    Held held;
    Position position;
};

template <class T>
NodePtr make_node(T held, Position position) {
    return std::make_unique<Node>(Node{Node::Held(std::move(held)), position});
}

// Calls `visit` for each direct child that is there.
template <class Visit>
void for_each_child(Node& node, Visit visit);
std::size_t count_nodes(Node& node);

// As an expression of nested lists, for tests and --ast.
std::string print_ast(const Node& node);
// Computes what is constant. Returns how many nodes were replaced.
int fold_constants(NodePtr& node);

struct ChildVisitor {
    template <class Visit>
    static void all(Node& node, Visit&& visit) {
        const auto one = [&](NodePtr& child) { if (child) visit(child); };
        const auto many = [&](Nodes& children) { for (auto& child : children) one(child); };
        std::visit([&](auto& held) {
            using T = std::decay_t<decltype(held)>;
            if constexpr (std::is_same_v<T, Unary>) one(held.operand);
            else if constexpr (std::is_same_v<T, Binary> || std::is_same_v<T, Logical>) one(held.left), one(held.right);
            else if constexpr (std::is_same_v<T, AssignIndex>) one(held.target), one(held.index), one(held.value);
            else if constexpr (std::is_same_v<T, Index>) one(held.target), one(held.index);
            else if constexpr (std::is_same_v<T, Call>) one(held.callee), many(held.arguments);
            else if constexpr (std::is_same_v<T, ListLiteral>) many(held.items);
            else if constexpr (std::is_same_v<T, MapLiteral>) for (auto& [k, v] : held.members) one(k), one(v);
            else if constexpr (std::is_same_v<T, Block>) many(held.statements);
            else if constexpr (std::is_same_v<T, If>) one(held.condition), one(held.then), one(held.otherwise);
            else if constexpr (std::is_same_v<T, While>) one(held.condition), one(held.body);
            else if constexpr (std::is_same_v<T, For>) one(held.list), one(held.body);
            else if constexpr (std::is_same_v<T, Function>) one(held.body);
            else if constexpr (std::is_same_v<T, Assign> || std::is_same_v<T, Let> || std::is_same_v<T, Return> ||
                               std::is_same_v<T, ExpressionStatement>) one(held.value);
        }, node.held);
    }
};

template <class Visit>
void for_each_child(Node& node, Visit visit) { ChildVisitor::all(node, visit); }

}  // namespace tally
