//# compiler: g++
//# flags: -std=c++20 -fmodules-ts
//# not_sure: modules
//- main.cc
#include "x.h"
  import <vector>;
//- x.h
