#include "text/number.h"

#include <cctype>
#include <cmath>
#include <cstdlib>
#include <iomanip>
#include <limits>
#include <locale>
#include <sstream>

namespace tally {

std::string format_number(double value) {
    if (std::isnan(value)) return "nan";
    if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
    for (int digits = 6; digits <= std::numeric_limits<double>::max_digits10; digits++) {
        std::ostringstream out;
        out.imbue(std::locale::classic());
        if (std::floor(value) == value && std::fabs(value) < 1e15) {
            out << std::fixed << std::setprecision(0) << value;
            return out.str();
        }
        out << std::setprecision(digits) << value;
        if (parse_number(out.str()) == value) return out.str();
    }
    return "nan";
}

std::optional<double> parse_number(std::string_view text) {
    if (text.empty() || std::isspace(static_cast<unsigned char>(text.front()))) return std::nullopt;
    std::istringstream in{std::string(text)};
    in.imbue(std::locale::classic());
    double value = 0;
    in >> value;
    if (in.fail() || in.peek() != std::istringstream::traits_type::eof()) return std::nullopt;
    return value;
}

}  // namespace tally
