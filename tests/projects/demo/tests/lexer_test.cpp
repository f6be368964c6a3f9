#include "lang/diagnostics.h"
#include "lang/lexer.h"
#include "tests/check.h"

using namespace tally;

static std::string kinds(const char* source) {
    std::string result;
    for (const auto& token : lex(source)) result += std::string(name_of(token.kind)) + " ";
    return result;
}

TEST(lexer_words_and_signs) {
    CHECK_EQUAL(kinds("let x = 1 <= 2; # end"), "let a name = a number <= a number ; end of text ");
    CHECK_EQUAL(kinds("letter fn_"), "a name a name end of text ");
}

TEST(lexer_positions) {
    const auto tokens = lex("a\n  bc");
    CHECK_EQUAL(tokens[1].position.line, 2);
    CHECK_EQUAL(tokens[1].position.column, 3);
}

TEST(lexer_errors) {
    CHECK_EQUAL(check::thrown([] { lex("1.2.3"); }), "malformed number 1.2.3");
    CHECK_EQUAL(check::thrown([] { lex("\"a"); }), "unfinished text");
    CHECK_EQUAL(check::thrown([] { lex("ü"); }), "unexpected character ü");
}

TEST(errors_point_at_the_place) {
    CHECK_EQUAL(render(SourceError("odd", {2, 3}), "ab\ncdef\n", "f"), "f:2:3: odd\n    cdef\n      ^\n");
}
