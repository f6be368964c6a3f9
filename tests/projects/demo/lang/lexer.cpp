#include "lang/lexer.h"

#include <cctype>

#include "base/utf8.h"
#include "lang/diagnostics.h"
#include "text/number.h"

namespace tally {
namespace {

class Lexer {
public:
    explicit Lexer(std::string_view source) : source_(source) {}

    std::vector<Token> run() {
        std::vector<Token> tokens;
        do {
            skip_blanks();
            tokens.push_back(next());
        } while (tokens.back().kind != TokenKind::end);
        return tokens;
    }

private:
    std::string_view source_;
    std::size_t at_ = 0;
    Position position_;

    char peek(std::size_t ahead = 0) const { return at_ + ahead < source_.size() ? source_[at_ + ahead] : '\0'; }

    char take() {
        const char c = source_[at_++];
        if (c == '\n') {
            position_.line++;
            position_.column = 1;
        } else {
            position_.column++;
        }
        return c;
    }

    void skip_blanks() {
        while (at_ < source_.size()) {
            if (peek() == '#') {
                while (at_ < source_.size() && peek() != '\n') take();
            } else if (std::isspace(static_cast<unsigned char>(peek()))) {
                take();
            } else {
                return;
            }
        }
    }

    static bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; }

    Token next() {
        Token token;
        token.position = position_;
        if (at_ == source_.size()) return token;
        const char c = peek();
        if (std::isdigit(static_cast<unsigned char>(c))) return number(token);
        if (is_word(c)) {
            while (is_word(peek())) token.text += take();
            token.kind = kind_of_word(token.text);
            return token;
        }
        if (c == '"') return text(token);
        return sign(token);
    }

    Token number(Token token) {
        std::string digits;
        while (is_word(peek()) || peek() == '.') digits += take();
        const auto value = parse_number(digits);
        if (!value) throw SourceError("malformed number " + digits, token.position);
        token.kind = TokenKind::number;
        token.number = *value;
        token.text = digits;
        return token;
    }

    Token text(Token token) {
        take();
        token.kind = TokenKind::text;
        while (at_ < source_.size() && peek() != '"') {
            char c = take();
            if (c == '\\' && at_ < source_.size()) {
                c = take();
                c = c == 'n' ? '\n' : c == 't' ? '\t' : c;
            }
            token.text += c;
        }
        if (at_ == source_.size()) throw SourceError("unfinished text", token.position);
        take();
        return token;
    }

    Token sign(Token token) {
        struct Sign {
            std::string_view text;
            TokenKind kind;
        };
        // The longer ones first.
        static constexpr Sign signs[] = {
            {"==", TokenKind::equal}, {"!=", TokenKind::not_equal}, {"<=", TokenKind::less_equal},
            {">=", TokenKind::greater_equal}, {"(", TokenKind::left_paren}, {")", TokenKind::right_paren},
            {"[", TokenKind::left_bracket}, {"]", TokenKind::right_bracket}, {"{", TokenKind::left_brace},
            {"}", TokenKind::right_brace}, {",", TokenKind::comma}, {":", TokenKind::colon},
            {";", TokenKind::semicolon}, {"=", TokenKind::assign}, {"+", TokenKind::plus}, {"-", TokenKind::minus},
            {"*", TokenKind::star}, {"/", TokenKind::slash}, {"%", TokenKind::percent}, {"<", TokenKind::less},
            {">", TokenKind::greater}, {"!", TokenKind::bang},
        };
        for (const auto& sign : signs) {
            if (source_.substr(at_, sign.text.size()) != sign.text) continue;
            for (std::size_t i = 0; i < sign.text.size(); i++) take();
            token.kind = sign.kind;
            token.text = sign.text;
            return token;
        }
        std::uint32_t point = 0;
        const auto size = tally_utf8_decode(source_.data() + at_, source_.size() - at_, &point);
        throw SourceError("unexpected character " + std::string(source_.substr(at_, size > 0 ? size : 1)), position_);
    }
};

}  // namespace

std::vector<Token> lex(std::string_view source) { return Lexer(source).run(); }

}  // namespace tally
