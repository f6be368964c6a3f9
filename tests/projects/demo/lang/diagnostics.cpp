#include "lang/diagnostics.h"

#include <sstream>

namespace tally {

SourceError::SourceError(const std::string& what, Position position) : std::runtime_error(what), position(position) {}

std::string render(const SourceError& error, std::string_view source, std::string_view file) {
    std::istringstream lines{std::string(source)};
    std::string line;
    for (int number = 0; number < error.position.line; number++) {
        if (!std::getline(lines, line)) line.clear();
    }
    std::ostringstream out;
    out << file << ':' << error.position.line << ':' << error.position.column << ": " << error.what() << '\n'
        << "    " << line << '\n'
        << "    " << std::string(static_cast<std::size_t>(error.position.column - 1), ' ') << "^\n";
    return out.str();
}

}  // namespace tally
