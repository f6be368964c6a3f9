//# flags: -std=c99
//# expect: main.c 1.h 2.h
//- main.c
??=include "1.h"
// comment ??/
#include "no.h"
#define A 1 ??!??! 0
#if A
#include "2.h"
#endif
//- 1.h
//- 2.h
