// Tokens to a tree.
#pragma once
#include <string_view>

#include "lang/ast.h"

namespace tally {

// A block of the program's statements. Throws SourceError.
NodePtr parse(std::string_view source);

}  // namespace tally
