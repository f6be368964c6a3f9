#include "vm/machine.h"

#include <cmath>

#include "lang/ast.h"
#include "lang/diagnostics.h"
#include "lang/parser.h"
#include "vm/compiler.h"

namespace tally {

static constexpr std::size_t deepest = 1000;

Machine::Machine() {
    define_builtins(*this);
    define_list_builtins(*this);
    define_text_builtins(*this);
}

void Machine::define(const std::string& name, int arity, Native call) {
    globals_[name] = Value(heap_.make(NativeObject{name, arity, std::move(call)}));
}

Value Machine::run(std::string_view source) {
    NodePtr program = parse(source);
    fold_constants(program);
    stack_.clear();
    frames_.clear();
    pinned_.clear();
    return call(Value(compile(*program, heap_)), {});
}

Value Machine::call(const Value& callee, const std::vector<Value>& arguments) {
    const std::size_t depth = frames_.size();
    stack_.push_back(callee);
    stack_.insert(stack_.end(), arguments.begin(), arguments.end());
    begin_call(arguments.size());
    return frames_.size() > depth ? run_until(depth) : pop();
}

Value Machine::run_until(std::size_t depth) {
    while (frames_.size() > depth) {
        collect_if_due();
        step();
    }
    return pop();
}

void Machine::fail(const std::string& what) const {
    Position position;
    if (!frames_.empty()) {
        const Frame& frame = frames_.back();
        const auto& positions = frame.function->chunk.positions;
        if (!positions.empty()) position = positions[frame.at > 0 ? frame.at - 1 : 0];
    }
    throw SourceError(what, position);
}

Value Machine::pop() {
    Value value = stack_.back();
    stack_.pop_back();
    return value;
}

void Machine::collect_if_due() {
    if (!heap_.is_due()) return;
    heap_.collect([this](Heap& heap) {
        for (const auto& value : stack_) heap.mark(value);
        for (const auto& value : pinned_) heap.mark(value);
        for (const auto& [name, value] : globals_) heap.mark(value);
    });
}

// The callee stays below its arguments while it runs: that keeps its code alive.
void Machine::begin_call(std::size_t count) {
    const Value callee = stack_[stack_.size() - count - 1];
    if (auto* function = callee.as<FunctionObject>()) {
        if (static_cast<std::size_t>(function->arity) != count) {
            fail(function->name + " takes " + std::to_string(function->arity) + " arguments");
        }
        if (frames_.size() >= deepest) fail("calls are nested too deeply");
        frames_.push_back({function, 0, stack_.size() - count});
        return;
    }
    auto* native = callee.as<NativeObject>();
    if (!native) fail(std::string(callee.type_name()) + " cannot be called");
    if (native->arity >= 0 && static_cast<std::size_t>(native->arity) != count) {
        fail(native->name + " takes " + std::to_string(native->arity) + " arguments");
    }
    const std::vector<Value> arguments(stack_.end() - static_cast<std::ptrdiff_t>(count), stack_.end());
    const std::size_t pinned = pinned_.size();
    Value result;
    try {
        result = native->call(*this, arguments);
    } catch (const SourceError&) {
        throw;
    } catch (const std::exception& error) {
        fail(error.what());
    }
    pinned_.resize(pinned);
    stack_.resize(stack_.size() - count - 1);
    stack_.push_back(result);
}

Value& Machine::global(std::size_t name) {
    const auto& constant = frames_.back().function->chunk.constants[name];
    const auto found = globals_.find(constant.as<Text>()->value);
    if (found == globals_.end()) fail("nothing is called " + constant.text());
    return found->second;
}

void Machine::binary(Opcode opcode) {
    const Value right = pop(), left = pop();
    if (opcode == Opcode::equal) return stack_.push_back(Value(left == right));
    if (opcode == Opcode::add) {
        if (const auto *a = left.as<Text>(), *b = right.as<Text>(); a && b) return stack_.push_back(text(a->value + b->value));
    }
    if (const auto *a = left.as<Text>(), *b = right.as<Text>(); a && b) {
        if (opcode == Opcode::less) return stack_.push_back(Value(a->value < b->value));
        if (opcode == Opcode::less_equal) return stack_.push_back(Value(a->value <= b->value));
    }
    const double *a = left.number(), *b = right.number();
    if (!a || !b) fail(std::string(left.type_name()) + " and " + right.type_name() + " do not go together here");
    switch (opcode) {
        case Opcode::add: return stack_.push_back(Value(*a + *b));
        case Opcode::subtract: return stack_.push_back(Value(*a - *b));
        case Opcode::multiply: return stack_.push_back(Value(*a * *b));
        case Opcode::divide:
            if (*b == 0) fail("division by zero");
            return stack_.push_back(Value(*a / *b));
        case Opcode::remainder:
            if (*b == 0) fail("division by zero");
            return stack_.push_back(Value(std::fmod(*a, *b)));
        case Opcode::less: return stack_.push_back(Value(*a < *b));
        case Opcode::less_equal: return stack_.push_back(Value(*a <= *b));
        default: fail("unknown instruction");
    }
}

static std::size_t position_in(const List& list, const Value& index) {
    const double* number = index.number();
    if (!number || *number < 0 || *number >= static_cast<double>(list.items.size())) {
        throw std::out_of_range("no item " + index.text() + " in a list of " + std::to_string(list.items.size()));
    }
    return static_cast<std::size_t>(*number);
}

static Value get_index(const Value& target, const Value& index) {
    if (const List* list = target.as<List>()) return list->items[position_in(*list, index)];
    const Map* map = target.as<Map>();
    if (!map) throw std::invalid_argument(std::string(target.type_name()) + " has no items");
    const auto found = map->members.find(index);
    return found == map->members.end() ? Value() : found->second;
}

static void set_index(const Value& target, const Value& index, const Value& value) {
    if (List* list = target.as<List>()) {
        list->items[position_in(*list, index)] = value;
        return;
    }
    Map* map = target.as<Map>();
    if (!map) throw std::invalid_argument(std::string(target.type_name()) + " has no items");
    if (map->members.insert_or_assign(index, value).second) map->order.push_back(index);
}

void Machine::step() {
    Frame& frame = frames_.back();
    const Chunk& chunk = frame.function->chunk;
    const auto opcode = static_cast<Opcode>(chunk.code[frame.at++]);
    const auto two = [&] { return frame.at += 2, chunk.two_at(frame.at - 2); };
    const auto byte = [&] { return static_cast<std::size_t>(chunk.code[frame.at++]); };
    steps_++;
    switch (opcode) {
        case Opcode::constant: return stack_.push_back(chunk.constants[two()]);
        case Opcode::nothing: return stack_.push_back(Value());
        case Opcode::yes: return stack_.push_back(Value(true));
        case Opcode::no: return stack_.push_back(Value(false));
        case Opcode::pop: return stack_.pop_back();
        case Opcode::duplicate: return stack_.push_back(Value(stack_.back()));
        case Opcode::get_local: return stack_.push_back(Value(stack_[frame.base + byte()]));
        case Opcode::set_local: stack_[frame.base + byte()] = stack_.back(); return;
        case Opcode::get_global: return stack_.push_back(global(two()));
        case Opcode::set_global: global(two()) = stack_.back(); return;
        case Opcode::define_global: {
            const auto& name = chunk.constants[two()].as<Text>()->value;
            globals_[name] = pop();
            return;
        }
        case Opcode::negate: {
            const double* number = stack_.back().number();
            if (!number) fail(std::string(stack_.back().type_name()) + " has no negative");
            stack_.back() = Value(-*number);
            return;
        }
        case Opcode::invert: stack_.back() = Value(!stack_.back().is_true()); return;
        case Opcode::make_list: {
            const auto count = static_cast<std::ptrdiff_t>(two());
            List list{std::vector<Value>(stack_.end() - count, stack_.end())};
            stack_.resize(stack_.size() - static_cast<std::size_t>(count));
            return stack_.push_back(Value(heap_.make(std::move(list))));
        }
        case Opcode::make_map: {
            const std::size_t count = two(), start = stack_.size() - 2 * count;
            const Value map(heap_.make(Map{}));
            for (std::size_t i = 0; i < count; i++) set_index(map, stack_[start + 2 * i], stack_[start + 2 * i + 1]);
            stack_.resize(start);
            return stack_.push_back(map);
        }
        case Opcode::get_index:
        case Opcode::set_index:
            try {
                if (opcode == Opcode::get_index) {
                    const Value index = pop(), target = pop();
                    return stack_.push_back(get_index(target, index));
                }
                const Value value = pop(), index = pop(), target = pop();
                set_index(target, index, value);
                return stack_.push_back(value);
            } catch (const std::logic_error& error) {
                fail(error.what());
            }
        case Opcode::jump: {
            const auto distance = two();
            frame.at += distance;
            return;
        }
        case Opcode::jump_if_false: {
            const auto distance = two();
            if (!stack_.back().is_true()) frame.at += distance;
            return;
        }
        case Opcode::loop: {
            const auto distance = two();
            frame.at -= distance;
            return;
        }
        case Opcode::call: return begin_call(byte());
        case Opcode::leave: {
            const Value result = pop();
            // The callee lies just below the frame.
            stack_.resize(frame.base - 1);
            frames_.pop_back();
            return stack_.push_back(result);
        }
        default: return binary(opcode);
    }
}

}  // namespace tally
