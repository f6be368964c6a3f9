//# flags: -std=c++17
//# expect: main.cc 1.h 2.h 3.h
//- main.cc
const char *a = R"(
#include "no.h"
)";
const char *b = u8R"x(
)" /*
#include "no.h"
)x";
#include "1.h"
const char *c = "\" /* " "R" /* " */ R"(/*)";
#include "2.h"
int uR = 0; const char *d = fooR"( " ")";
#include "3.h"
//- 1.h
//- 2.h
//- 3.h
