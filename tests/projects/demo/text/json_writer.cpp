#include <sstream>

#include "text/json_value.h"
#include "text/number.h"

namespace tally {
namespace {

class Writer {
public:
    explicit Writer(int indent) : indent_(indent) {}

    void write(const Json& value, int depth) {
        std::visit([&](const auto& held) { put(held, depth); }, value.held);
    }

    std::string text() const { return out_.str(); }

private:
    std::ostringstream out_;
    int indent_;

    void line(int depth) {
        if (indent_ > 0) out_ << '\n' << std::string(static_cast<std::size_t>(indent_ * depth), ' ');
    }

    void put(std::nullptr_t, int) { out_ << "null"; }
    void put(bool value, int) { out_ << (value ? "true" : "false"); }
    void put(double value, int) { out_ << format_number(value); }

    void put(const std::string& value, int) {
        out_ << '"';
        for (const char c : value) {
            if (c == '"' || c == '\\') {
                out_ << '\\' << c;
            } else if (c == '\n') {
                out_ << "\\n";
            } else if (static_cast<unsigned char>(c) < 0x20) {
                static constexpr char digits[] = "0123456789abcdef";
                out_ << "\\u00" << digits[c >> 4] << digits[c & 15];
            } else {
                out_ << c;
            }
        }
        out_ << '"';
    }

    void put(const Json::List& list, int depth) {
        out_ << '[';
        bool first = true;
        for (const auto& item : list) {
            if (!first) out_ << ',';
            first = false;
            line(depth + 1);
            write(item, depth + 1);
        }
        if (!list.empty()) line(depth);
        out_ << ']';
    }

    void put(const Json::Map& map, int depth) {
        out_ << '{';
        bool first = true;
        for (const auto& [name, value] : map) {
            if (!first) out_ << ',';
            first = false;
            line(depth + 1);
            put(name, depth);
            out_ << (indent_ > 0 ? ": " : ":");
            write(value, depth + 1);
        }
        if (!map.empty()) line(depth);
        out_ << '}';
    }
};

}  // namespace

std::string write_json(const Json& value, int indent) {
    Writer writer(indent);
    writer.write(value, 0);
    return writer.text();
}

}  // namespace tally
