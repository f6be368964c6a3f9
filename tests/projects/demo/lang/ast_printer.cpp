#include <sstream>

#include "lang/ast.h"
#include "text/json_value.h"
#include "text/number.h"

namespace tally {
namespace {

struct Printer {
    std::ostringstream out;

    void one(const NodePtr& node) {
        out << ' ';
        if (node) print(*node);
        else out << "()";
    }
    void many(const Nodes& nodes) {
        for (const auto& node : nodes) one(node);
    }
    void print(const Node& node) { std::visit(*this, node.held); }

    void operator()(const Literal& literal) {
        if (const auto* number = std::get_if<double>(&literal.value)) out << format_number(*number);
        else if (const auto* text = std::get_if<std::string>(&literal.value)) out << write_json(Json(*text));
        else if (const auto* truth = std::get_if<bool>(&literal.value)) out << (*truth ? "true" : "false");
        else out << "nothing";
    }
    void operator()(const Name& name) { out << name.name; }
    void operator()(const Unary& unary) { out << '(' << name_of(unary.sign), one(unary.operand), out << ')'; }
    void operator()(const Binary& node) { out << '(' << name_of(node.sign), one(node.left), one(node.right), out << ')'; }
    void operator()(const Logical& node) { out << (node.is_and ? "(and" : "(or"), one(node.left), one(node.right), out << ')'; }
    void operator()(const Assign& node) { out << "(= " << node.name, one(node.value), out << ')'; }
    void operator()(const AssignIndex& node) { out << "([]=", one(node.target), one(node.index), one(node.value), out << ')'; }
    void operator()(const Index& node) { out << "([]", one(node.target), one(node.index), out << ')'; }
    void operator()(const Call& node) { out << "(call", one(node.callee), many(node.arguments), out << ')'; }
    void operator()(const ListLiteral& node) { out << "(list", many(node.items), out << ')'; }
    void operator()(const MapLiteral& node) {
        out << "(map";
        for (const auto& [key, value] : node.members) one(key), one(value);
        out << ')';
    }
    void operator()(const Let& node) { out << "(let " << node.name, one(node.value), out << ')'; }
    void operator()(const Block& node) { out << "(do", many(node.statements), out << ')'; }
    void operator()(const If& node) { out << "(if", one(node.condition), one(node.then), one(node.otherwise), out << ')'; }
    void operator()(const While& node) { out << "(while", one(node.condition), one(node.body), out << ')'; }
    void operator()(const For& node) { out << "(for " << node.name, one(node.list), one(node.body), out << ')'; }
    void operator()(const Return& node) { out << "(return", one(node.value), out << ')'; }
    void operator()(const Function& node) {
        out << "(fn " << node.name << " (";
        for (std::size_t i = 0; i < node.parameters.size(); i++) out << (i > 0 ? " " : "") << node.parameters[i];
        out << ')';
        one(node.body);
        out << ')';
    }
    void operator()(const ExpressionStatement& node) { print(*node.value); }
};

}  // namespace

std::string print_ast(const Node& node) {
    Printer printer;
    printer.print(node);
    return printer.out.str();
}

}  // namespace tally
