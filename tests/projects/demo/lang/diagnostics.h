// Errors in a program, with the place.
#pragma once
#include <stdexcept>
#include <string>
#include <string_view>

#include "lang/token.h"

namespace tally {

class SourceError : public std::runtime_error {
public:
    SourceError(const std::string& what, Position position);
    Position position;
};

// The error with its line and a caret below the column.
std::string render(const SourceError& error, std::string_view source, std::string_view file);

}  // namespace tally
