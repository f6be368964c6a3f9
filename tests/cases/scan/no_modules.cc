//# flags: -std=c++17
//# expect: main.cc x.h
//- main.cc
int import, module;
int f() {
import = 3;
module = 4;
}
#include "x.h"
//- x.h
