// Numbers as text, the same on every machine.
#pragma once
#include <optional>
#include <string>
#include <string_view>

namespace tally {

// The shortest text that reads back as the same number; whole numbers have no point.
std::string format_number(double value);
std::optional<double> parse_number(std::string_view text);

}  // namespace tally
