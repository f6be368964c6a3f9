//# compiler: g++
//# flags: -std=c++20
//# expect: main.cc x.h
//- main.cc
typedef int import;
import x;
#include "x.h"
//- x.h
