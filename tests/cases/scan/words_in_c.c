//# flags: -std=gnu11
//# expect: main.c 1.h
//- main.c
#if true || false || and
#include "no.h"
#else
#include "1.h"
#endif
//- 1.h
