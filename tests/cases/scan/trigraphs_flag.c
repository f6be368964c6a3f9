//# flags: -std=gnu11 -trigraphs
//# expect: main.c x.h
//- main.c
// a comment ??/
#include "no.h"
??=include "x.h"
//- x.h
