#include "lang/token.h"

#include <algorithm>
#include <array>
#include <utility>

namespace tally {

using Row = std::pair<TokenKind, std::string_view>;

static constexpr std::array<Row, 13> words{{
    {TokenKind::word_and, "and"}, {TokenKind::word_else, "else"}, {TokenKind::word_false, "false"},
    {TokenKind::word_fn, "fn"}, {TokenKind::word_for, "for"}, {TokenKind::word_if, "if"},
    {TokenKind::word_in, "in"}, {TokenKind::word_let, "let"}, {TokenKind::word_nothing, "nothing"},
    {TokenKind::word_or, "or"}, {TokenKind::word_return, "return"}, {TokenKind::word_true, "true"},
    {TokenKind::word_while, "while"},
}};

static constexpr std::array<Row, 26> others{{
    {TokenKind::end, "end of text"}, {TokenKind::name, "a name"}, {TokenKind::number, "a number"},
    {TokenKind::text, "a text"}, {TokenKind::left_paren, "("}, {TokenKind::right_paren, ")"},
    {TokenKind::left_bracket, "["}, {TokenKind::right_bracket, "]"}, {TokenKind::left_brace, "{"},
    {TokenKind::right_brace, "}"}, {TokenKind::comma, ","}, {TokenKind::colon, ":"}, {TokenKind::semicolon, ";"},
    {TokenKind::assign, "="}, {TokenKind::plus, "+"}, {TokenKind::minus, "-"}, {TokenKind::star, "*"},
    {TokenKind::slash, "/"}, {TokenKind::percent, "%"}, {TokenKind::equal, "=="}, {TokenKind::not_equal, "!="},
    {TokenKind::less, "<"}, {TokenKind::less_equal, "<="}, {TokenKind::greater, ">"},
    {TokenKind::greater_equal, ">="}, {TokenKind::bang, "!"},
}};

std::string_view name_of(TokenKind kind) {
    const auto is_kind = [kind](const Row& row) { return row.first == kind; };
    if (const auto row = std::find_if(words.begin(), words.end(), is_kind); row != words.end()) return row->second;
    if (const auto row = std::find_if(others.begin(), others.end(), is_kind); row != others.end()) return row->second;
    return "?";
}

TokenKind kind_of_word(std::string_view word) {
    const auto row = std::lower_bound(words.begin(), words.end(), word,
                                      [](const Row& row, std::string_view word) { return row.second < word; });
    return row != words.end() && row->second == word ? row->first : TokenKind::name;
}

}  // namespace tally
