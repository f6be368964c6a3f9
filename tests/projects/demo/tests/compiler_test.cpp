#include "lang/parser.h"
#include "tests/check.h"
#include "vm/compiler.h"

using namespace tally;

static std::string code(const char* source) {
    Heap heap;
    return disassemble(Value(compile(*parse(source), heap)).as<FunctionObject>()->chunk, "p");
}

TEST(compiler_shares_constants) {
    CHECK_EQUAL(code("1 + 1"), "p:\n    0  constant      0  1\n    3  constant      0  1\n    6  add           \n    7  leave         \n");
}

TEST(compiler_jumps) {
    CHECK_EQUAL(code("while x { }"),
                "p:\n    0  get_global    0\n    3  jump_if_false 4\n    6  pop           \n    7  loop          10\n"
                "   10  pop           \n   11  nothing       \n   12  leave         \n");
}

TEST(compiler_refuses) {
    CHECK_EQUAL(check::thrown([] { code("return 1;"); }), "return outside of a function");
    CHECK_EQUAL(check::thrown([] { code("{ fn f() { } }"); }), "functions are defined at the top");
}
