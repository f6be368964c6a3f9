//# flags: -std=c++20
//# expect: main.cc x.h
//- main.cc
#if 0
export module a;
import <vector>;
#endif
/*
import b;
*/
struct S { int import, module; };
int f(S s, int
import, int module) {
  (
module = 1);
  return s.import + s.module;
}
#include "x.h"
//- x.h
