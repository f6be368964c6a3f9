//# flags: -std=gnu99
//# expect: main.c 1.h 2.h
//- main.c
#define A
#if 0
#elifdef A
#include "1.h"
#else
#include "no.h"
#endif
#if 0
#elifndef B
#include "2.h"
#endif
//- 1.h
//- 2.h
