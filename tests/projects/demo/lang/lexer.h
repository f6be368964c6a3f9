// Text to tokens.
#pragma once
#include <string_view>
#include <vector>

#include "lang/token.h"

namespace tally {

// The last token is `end`. Throws SourceError.
std::vector<Token> lex(std::string_view source);

}  // namespace tally
