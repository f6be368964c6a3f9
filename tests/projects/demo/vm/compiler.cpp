#include "vm/compiler.h"

#include <algorithm>

#include "lang/diagnostics.h"

namespace tally {
namespace {

class Compiler {
public:
    Compiler(Heap& heap, bool is_program) : heap_(heap), is_program_(is_program) {}

    void statement(const Node& node) {
        position_ = node.position;
        std::visit([&](const auto& held) { emit(held); }, node.held);
    }

    void program(const Block& block) {
        for (std::size_t i = 0; i < block.statements.size(); i++) {
            const Node& node = *block.statements[i];
            const auto* last = std::get_if<ExpressionStatement>(&node.held);
            if (last && i + 1 == block.statements.size()) {
                expression(*last->value);
                put(Opcode::leave);
                return;
            }
            statement(node);
        }
        finish();
    }

    void finish() {
        put(Opcode::nothing);
        put(Opcode::leave);
    }

    Chunk take() { return std::move(chunk_); }

    void add_local(const std::string& name) {
        if (locals_.size() > 250) fail("too many local names");
        locals_.push_back({name, depth_});
    }

    void enter() { depth_++; }

private:
    struct Local {
        std::string name;
        int depth;
    };

    Heap& heap_;
    bool is_program_;
    Chunk chunk_;
    std::vector<Local> locals_;
    int depth_ = 0;
    Position position_;

    [[noreturn]] void fail(const std::string& what) const { throw SourceError(what, position_); }
    void put(Opcode opcode) { chunk_.put(opcode, position_); }
    void put_with_byte(Opcode opcode, std::size_t byte) {
        put(opcode);
        chunk_.put_byte(static_cast<std::uint8_t>(byte), position_);
    }
    void put_with_two(Opcode opcode, std::size_t number) {
        put(opcode);
        chunk_.put_two(number, position_);
    }

    std::size_t constant(Value value) {
        const auto found = std::find(chunk_.constants.begin(), chunk_.constants.end(), value);
        if (found != chunk_.constants.end()) return static_cast<std::size_t>(found - chunk_.constants.begin());
        chunk_.constants.push_back(value);
        return chunk_.constants.size() - 1;
    }

    std::size_t name_constant(const std::string& name) { return constant(Value(heap_.make(Text{name}))); }

    std::size_t jump(Opcode opcode) {
        put_with_two(opcode, 0);
        return chunk_.code.size() - 2;
    }

    void land(std::size_t jump) { chunk_.set_two(jump, chunk_.code.size() - jump - 2, position_); }

    void loop_to(std::size_t start) {
        put(Opcode::loop);
        chunk_.put_two(chunk_.code.size() + 2 - start, position_);
    }

    // -1 for a global one.
    int find_local(const std::string& name) const {
        for (std::size_t i = locals_.size(); i > 0; i--) {
            if (locals_[i - 1].name == name) return static_cast<int>(i - 1);
        }
        return -1;
    }

    void scope(const Node& body) {
        depth_++;
        if (const auto* block = std::get_if<Block>(&body.held)) {
            for (const auto& inner : block->statements) statement(*inner);
        } else {
            statement(body);
        }
        depth_--;
        while (!locals_.empty() && locals_.back().depth > depth_) {
            put(Opcode::pop);
            locals_.pop_back();
        }
    }

    void expression(const Node& node) {
        const Position outer = std::exchange(position_, node.position);
        std::visit([&](const auto& held) { emit(held); }, node.held);
        position_ = outer;
    }

    void declare(const std::string& name) {
        if (depth_ > 0) add_local(name);
        else put_with_two(Opcode::define_global, name_constant(name));
    }

    void emit(const Literal& literal) {
        if (const auto* number = std::get_if<double>(&literal.value)) put_with_two(Opcode::constant, constant(Value(*number)));
        else if (const auto* text = std::get_if<std::string>(&literal.value)) put_with_two(Opcode::constant, name_constant(*text));
        else if (const auto* truth = std::get_if<bool>(&literal.value)) put(*truth ? Opcode::yes : Opcode::no);
        else put(Opcode::nothing);
    }

    void emit(const Name& name) {
        const int local = find_local(name.name);
        if (local >= 0) put_with_byte(Opcode::get_local, static_cast<std::size_t>(local));
        else put_with_two(Opcode::get_global, name_constant(name.name));
    }

    void emit(const Assign& assign) {
        expression(*assign.value);
        const int local = find_local(assign.name);
        if (local >= 0) put_with_byte(Opcode::set_local, static_cast<std::size_t>(local));
        else put_with_two(Opcode::set_global, name_constant(assign.name));
    }

    void emit(const Unary& unary) {
        expression(*unary.operand);
        put(unary.sign == TokenKind::minus ? Opcode::negate : Opcode::invert);
    }

    void emit(const Binary& binary) {
        // a > b is !(a <= b), so that the operands are computed in the order of the text.
        expression(*binary.left);
        expression(*binary.right);
        switch (binary.sign) {
            case TokenKind::plus: return put(Opcode::add);
            case TokenKind::minus: return put(Opcode::subtract);
            case TokenKind::star: return put(Opcode::multiply);
            case TokenKind::slash: return put(Opcode::divide);
            case TokenKind::percent: return put(Opcode::remainder);
            case TokenKind::equal: return put(Opcode::equal);
            case TokenKind::not_equal: put(Opcode::equal); return put(Opcode::invert);
            case TokenKind::less: return put(Opcode::less);
            case TokenKind::less_equal: return put(Opcode::less_equal);
            case TokenKind::greater: put(Opcode::less_equal); return put(Opcode::invert);
            case TokenKind::greater_equal: put(Opcode::less); return put(Opcode::invert);
            default: fail("unknown sign");
        }
    }

    void emit(const Logical& logical) {
        expression(*logical.left);
        if (logical.is_and) {
            const auto end = jump(Opcode::jump_if_false);
            put(Opcode::pop);
            expression(*logical.right);
            return land(end);
        }
        const auto other = jump(Opcode::jump_if_false);
        const auto end = jump(Opcode::jump);
        land(other);
        put(Opcode::pop);
        expression(*logical.right);
        land(end);
    }

    void emit(const Index& index) {
        expression(*index.target);
        expression(*index.index);
        put(Opcode::get_index);
    }

    void emit(const AssignIndex& assign) {
        expression(*assign.target);
        expression(*assign.index);
        expression(*assign.value);
        put(Opcode::set_index);
    }

    void emit(const Call& call) {
        if (call.arguments.size() > 250) fail("too many arguments");
        expression(*call.callee);
        for (const auto& argument : call.arguments) expression(*argument);
        put_with_byte(Opcode::call, call.arguments.size());
    }

    void emit(const ListLiteral& list) {
        for (const auto& item : list.items) expression(*item);
        put_with_two(Opcode::make_list, list.items.size());
    }

    void emit(const MapLiteral& map) {
        for (const auto& [key, value] : map.members) {
            expression(*key);
            expression(*value);
        }
        put_with_two(Opcode::make_map, map.members.size());
    }

    void emit(const Let& let) {
        expression(*let.value);
        declare(let.name);
    }

    void emit(const Block& block) {
        depth_++;
        for (const auto& inner : block.statements) statement(*inner);
        depth_--;
        while (!locals_.empty() && locals_.back().depth > depth_) {
            put(Opcode::pop);
            locals_.pop_back();
        }
    }

    void emit(const If& node) {
        expression(*node.condition);
        const auto otherwise = jump(Opcode::jump_if_false);
        put(Opcode::pop);
        scope(*node.then);
        const auto end = jump(Opcode::jump);
        land(otherwise);
        put(Opcode::pop);
        if (node.otherwise) scope(*node.otherwise);
        land(end);
    }

    void emit(const While& node) {
        const auto start = chunk_.code.size();
        expression(*node.condition);
        const auto end = jump(Opcode::jump_if_false);
        put(Opcode::pop);
        scope(*node.body);
        loop_to(start);
        land(end);
        put(Opcode::pop);
    }

    // As if written with a counter: two hidden names that no program can spell hold the list and the counter.
    void emit(const For& node) {
        depth_++;
        put_with_two(Opcode::get_global, name_constant("items"));
        expression(*node.list);
        put_with_byte(Opcode::call, 1);
        add_local("(list)");
        put_with_two(Opcode::constant, constant(Value(0.0)));
        add_local("(counter)");
        const auto list = static_cast<std::size_t>(find_local("(list)"));
        const auto counter = static_cast<std::size_t>(find_local("(counter)"));
        const auto start = chunk_.code.size();
        put_with_byte(Opcode::get_local, counter);
        put_with_two(Opcode::get_global, name_constant("length"));
        put_with_byte(Opcode::get_local, list);
        put_with_byte(Opcode::call, 1);
        put(Opcode::less);
        const auto end = jump(Opcode::jump_if_false);
        put(Opcode::pop);
        depth_++;
        put_with_byte(Opcode::get_local, list);
        put_with_byte(Opcode::get_local, counter);
        put(Opcode::get_index);
        add_local(node.name);
        scope(*node.body);
        depth_--;
        put(Opcode::pop);
        locals_.pop_back();
        put_with_byte(Opcode::get_local, counter);
        put_with_two(Opcode::constant, constant(Value(1.0)));
        put(Opcode::add);
        put_with_byte(Opcode::set_local, counter);
        put(Opcode::pop);
        loop_to(start);
        land(end);
        put(Opcode::pop);
        depth_--;
        for (int i = 0; i < 2; i++) {
            put(Opcode::pop);
            locals_.pop_back();
        }
    }

    void emit(const Return& node) {
        if (is_program_) fail("return outside of a function");
        if (node.value) expression(*node.value);
        else put(Opcode::nothing);
        put(Opcode::leave);
    }

    void emit(const Function& node) {
        if (depth_ > 0) fail("functions are defined at the top");
        Compiler inner(heap_, false);
        inner.enter();
        for (const auto& parameter : node.parameters) inner.add_local(parameter);
        inner.statement(*node.body);
        inner.finish();
        FunctionObject function{node.name, static_cast<int>(node.parameters.size()), inner.take()};
        put_with_two(Opcode::constant, constant(Value(heap_.make(std::move(function)))));
        declare(node.name);
    }

    void emit(const ExpressionStatement& node) {
        expression(*node.value);
        put(Opcode::pop);
    }
};

}  // namespace

Object* compile(const Node& program, Heap& heap) {
    Compiler compiler(heap, true);
    compiler.program(std::get<Block>(program.held));
    return heap.make(FunctionObject{"program", 0, compiler.take()});
}

}  // namespace tally
