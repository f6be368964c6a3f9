//# flags: -std=gnu99
//# expect: main.c 1.h
//- main.c
// comment ??/
#include "1.h"
??=include "no.h"
//- 1.h
