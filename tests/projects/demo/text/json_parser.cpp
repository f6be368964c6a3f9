#include <cctype>
#include <stdexcept>

#include "base/utf8.h"
#include "text/json_value.h"
#include "text/number.h"

namespace tally {
namespace {

constexpr int deepest = 200;

class Parser {
public:
    explicit Parser(std::string_view text) : text_(text) {}

    Json document() {
        Json result = value(0);
        skip_blanks();
        if (at_ != text_.size()) fail("text after the document");
        return result;
    }

private:
    std::string_view text_;
    std::size_t at_ = 0;

    [[noreturn]] void fail(const std::string& what) const {
        throw std::runtime_error("JSON: " + what + " at byte " + std::to_string(at_));
    }

    void skip_blanks() {
        while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) at_++;
    }

    bool take(std::string_view word) {
        if (text_.substr(at_, word.size()) != word) return false;
        at_ += word.size();
        return true;
    }

    Json value(int depth) {
        if (depth > deepest) fail("too deep");
        skip_blanks();
        if (take("null")) return Json();
        if (take("true")) return Json(true);
        if (take("false")) return Json(false);
        if (take("[")) return list(depth);
        if (take("{")) return map(depth);
        if (take("\"")) return Json(string());
        return number();
    }

    Json list(int depth) {
        Json::List items;
        skip_blanks();
        if (take("]")) return items;
        do {
            items.push_back(value(depth + 1));
            skip_blanks();
        } while (take(","));
        if (!take("]")) fail("expected , or ]");
        return items;
    }

    Json map(int depth) {
        Json::Map members;
        skip_blanks();
        if (take("}")) return members;
        do {
            skip_blanks();
            if (!take("\"")) fail("expected a name");
            std::string name = string();
            skip_blanks();
            if (!take(":")) fail("expected :");
            members[std::move(name)] = value(depth + 1);
            skip_blanks();
        } while (take(","));
        if (!take("}")) fail("expected , or }");
        return members;
    }

    unsigned hex4() {
        unsigned result = 0;
        for (int i = 0; i < 4; i++, at_++) {
            if (at_ >= text_.size() || !std::isxdigit(static_cast<unsigned char>(text_[at_]))) fail("bad \\u");
            const char c = static_cast<char>(std::tolower(static_cast<unsigned char>(text_[at_])));
            result = result * 16 + static_cast<unsigned>(c <= '9' ? c - '0' : c - 'a' + 10);
        }
        return result;
    }

    std::string string() {
        std::string result;
        while (at_ < text_.size() && text_[at_] != '"') {
            char c = text_[at_++];
            if (c != '\\') {
                result += c;
                continue;
            }
            if (at_ == text_.size()) break;
            c = text_[at_++];
            static constexpr std::string_view names = "nrtbf\"\\/", meanings = "\n\r\t\b\f\"\\/";
            if (const auto found = names.find(c); found != names.npos) {
                result += meanings[found];
            } else if (c == 'u') {
                unsigned point = hex4();
                if (point >= 0xd800 && point < 0xdc00 && take("\\u")) {
                    point = 0x10000 + ((point - 0xd800) << 10) + (hex4() - 0xdc00);
                }
                char bytes[4];
                result.append(bytes, tally_utf8_encode(point, bytes));
            } else {
                fail("unknown escape");
            }
        }
        if (!take("\"")) fail("unfinished string");
        return result;
    }

    Json number() {
        const auto start = at_;
        while (at_ < text_.size() && std::string_view("+-.eE0123456789").find(text_[at_]) != std::string_view::npos) at_++;
        if (const auto parsed = parse_number(text_.substr(start, at_ - start))) return Json(*parsed);
        at_ = start;
        fail("expected a value");
    }
};

}  // namespace

Json parse_json(std::string_view text) { return Parser(text).document(); }

}  // namespace tally
