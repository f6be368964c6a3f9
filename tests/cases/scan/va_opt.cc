//# flags: -std=c++20
//# expect: main.cc 1.h 2.h 3.h
//- main.cc
#define F(a, ...) (a __VA_OPT__(+) __VA_ARGS__)
#if F(1) == 1 && F(1, 2) == 3
#include "1.h"
#endif
#define G(a, ...) a ## __VA_OPT__(1 + x) + 0
#define b1 5
#define x 3
#if G(b, y) == 8 && G(7) == 7
#include "2.h"
#endif
#define EMPTY
#if F(4, EMPTY) == 4
#include "3.h"
#endif
//- 1.h
//- 2.h
//- 3.h
