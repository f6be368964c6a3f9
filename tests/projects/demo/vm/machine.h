// Runs bytecode.
#pragma once
#include <map>
#include <string>
#include <string_view>

#include "vm/heap.h"

namespace tally {

class Machine {
public:
    Machine();

    // Throws SourceError, for the program's own errors too.
    Value run(std::string_view source);
    // What the program printed.
    const std::string& output() const { return output_; }
    void print(const std::string& text) { output_ += text; }
    Heap& heap() { return heap_; }
    void define(const std::string& name, int arity, Native call);
    Value text(std::string value) { return Value(heap_.make(Text{std::move(value)})); }
    // Calls a function of the program from a built-in.
    Value call(const Value& callee, const std::vector<Value>& arguments);
    // Keeps a value alive until the built-in returns that is running now.
    Value pin(Value value) { return pinned_.emplace_back(value); }
    // Instructions run so far.
    std::size_t steps() const { return steps_; }

private:
    struct Frame {
        FunctionObject* function;
        std::size_t at;
        std::size_t base;
    };

    Heap heap_;
    std::vector<Value> stack_;
    std::vector<Frame> frames_;
    std::vector<Value> pinned_;  // what built-ins hold while they call back
    std::map<std::string, Value> globals_;
    std::string output_;
    std::size_t steps_ = 0;

    Value pop();
    void begin_call(std::size_t arguments);
    Value run_until(std::size_t depth);
    void step();
    void binary(Opcode opcode);
    Value& global(std::size_t name);
    void collect_if_due();
    [[noreturn]] void fail(const std::string& what) const;
};

void define_builtins(Machine& machine);
void define_list_builtins(Machine& machine);
void define_text_builtins(Machine& machine);

}  // namespace tally
