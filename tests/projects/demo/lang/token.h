// The words of the language.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace tally {

enum class TokenKind : std::uint8_t {
    end, name, number, text,
    left_paren, right_paren, left_bracket, right_bracket, left_brace, right_brace,
    comma, colon, semicolon, assign,
    plus, minus, star, slash, percent,
    equal, not_equal, less, less_equal, greater, greater_equal, bang,
    word_let, word_fn, word_return, word_if, word_else, word_while, word_for, word_in,
    word_true, word_false, word_nothing, word_and, word_or,
};

struct Position {
    int line = 1;
    int column = 1;
};

struct Token {
    TokenKind kind = TokenKind::end;
    std::string text;  // of a string literal: its value
    double number = 0;
    Position position;
};

std::string_view name_of(TokenKind kind);
// `name` if the word is not reserved.
TokenKind kind_of_word(std::string_view word);

}  // namespace tally
