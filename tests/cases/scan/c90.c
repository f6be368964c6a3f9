//# flags: -std=c90
//# expect: main.c 1.h
//- main.c
int a = 4 //* no line comment, but a block */ 2
;
#include "1.h"
//- 1.h
