#include "lang/parser.h"
#include "tests/check.h"

using namespace tally;

static std::string tree(const char* source) { return print_ast(*parse(source)); }

TEST(parser_strength) {
    CHECK_EQUAL(tree("1 + 2 * 3 - 4"), "(do (- (+ 1 (* 2 3)) 4))");
    CHECK_EQUAL(tree("a = b or c and !d == e"), "(do (= a (or b (and c (== (! d) e)))))");
    CHECK_EQUAL(tree("f(1)[2](3)"), "(do (call ([] (call f 1) 2) 3))");
}

TEST(parser_statements) {
    CHECK_EQUAL(tree("fn f(a, b) { return a; } if x { y; } else if z { } "),
                "(do (fn f (a b) (do (return a))) (if x (do y) (if z (do) ())))");
    CHECK_EQUAL(tree("for i in [1, {\"a\": 2}] { x[i] = 1; }"), "(do (for i (list 1 (map \"a\" 2)) (do ([]= x i 1))))");
}

TEST(parser_errors) {
    CHECK_EQUAL(check::thrown([] { parse("1 = 2;"); }), "this cannot be assigned to");
    CHECK_EQUAL(check::thrown([] { parse("let = 2;"); }), "expected a name, found =");
    CHECK_EQUAL(check::thrown([] { parse(std::string(100000, '(')); }), "nested too deeply");
    CHECK_EQUAL(check::thrown([] { parse(std::string(100000, '-')); }), "nested too deeply");
}

TEST(folding) {
    NodePtr node = parse("x + (2 * 3 - -1); \"a\" + \"b\"; 1 / 0;");
    CHECK_EQUAL(fold_constants(node), 4);
    CHECK_EQUAL(print_ast(*node), "(do (+ x 7) \"ab\" (/ 1 0))");
    CHECK_EQUAL(count_nodes(*node), 11u);
}
