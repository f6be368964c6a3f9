//# flags: -std=c99
//# gcc: main.c 2.h
//# clang: main.c 1.h
//- main.c
#define A
#if 0
#elifdef A
#include "1.h"
#else
#include "2.h"
#endif
//- 1.h
//- 2.h
