//# compiler: clang++
//# flags: -std=c++20
//# not_sure: modules
//- main.cc
module;
#include "x.h"
export module a;
//- x.h
