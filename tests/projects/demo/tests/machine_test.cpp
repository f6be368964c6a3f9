#include "lang/diagnostics.h"
#include "tests/check.h"
#include "vm/machine.h"

using namespace tally;

static std::string run(const std::string& source) {
    Machine machine;
    const Value value = machine.run(source);
    return machine.output() + value.text();
}

TEST(machine_computes) {
    CHECK_EQUAL(run("1 + 2 * 3"), "7");
    CHECK_EQUAL(run("\"a\" + \"b\" < \"b\""), "true");
    CHECK_EQUAL(run("let x = nothing; x or 5"), "5");
    CHECK_EQUAL(run("[1, [2]] == [1, [2]]"), "true");
    CHECK_EQUAL(run("7 % 4 >= 3 and 2 > 1"), "true");
}

TEST(machine_scopes) {
    CHECK_EQUAL(run("let x = 1; { let x = 2; { let x = 3; } print(x); } x"), "2\n1");
    CHECK_EQUAL(run("fn f(a) { let b = a * 2; if b > 4 { let c = 1; return b + c; } return b; } [f(1), f(3)]"), "[2, 7]");
}

TEST(machine_loops) {
    CHECK_EQUAL(run("let s = 0; for i in range(0, 5) { for j in [1, 2] { s = s + i * j; } } s"), "30");
    CHECK_EQUAL(run("let m = {\"b\": 1, \"a\": 2}; for k in m { print(k, m[k]); }"), "b 1\na 2\nnothing");
}

TEST(machine_collects_while_it_calls_back) {
    CHECK_EQUAL(run("fn f(i) { return [text(i), [i]]; } let xs = map(range(0, 3000), f); [length(xs), xs[2999]]"),
                "[3000, [\"2999\", [2999]]]");
}

TEST(machine_errors_have_a_place) {
    Machine machine;
    try {
        machine.run("let x = 1;\nx();");
    } catch (const SourceError& error) {
        CHECK_EQUAL(std::string(error.what()), "a number cannot be called");
        CHECK_EQUAL(error.position.line, 2);
        return;
    }
    throw std::runtime_error("no error");
}

TEST(machine_refuses) {
    CHECK_EQUAL(check::thrown([] { run("1 / 0"); }), "division by zero");
    CHECK_EQUAL(check::thrown([] { run("[1][1]"); }), "no item 1 in a list of 1");
    CHECK_EQUAL(check::thrown([] { run("fn f() { return f(); } f()"); }), "calls are nested too deeply");
    CHECK_EQUAL(check::thrown([] { run("y"); }), "nothing is called y");
    CHECK_EQUAL(check::thrown([] { run("1 + \"a\""); }), "a number and a text do not go together here");
}

TEST(machine_texts) {
    CHECK_EQUAL(run("join(matches(\"a1b22\", \"[0-9]+\"), \"-\")"), "1-22");
    CHECK_EQUAL(run("to_json({\"a\": [1, true, nothing]})"), "{\"a\":[1,true,null]}");
}
