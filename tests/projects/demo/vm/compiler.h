// A tree to bytecode.
#pragma once
#include "lang/ast.h"
#include "vm/heap.h"

namespace tally {

// The program as a function without parameters, which returns the value of its last expression statement.
// Nothing may be collected while it runs. Throws SourceError.
Object* compile(const Node& program, Heap& heap);

}  // namespace tally
