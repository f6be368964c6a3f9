//# flags: -std=c++14
//# expect: main.cc 1.h 2.h 3.h
//- main.cc
int a = 1'000; /* ' */
#include "1.h"
#if 1'000 == 1000 && 0b1'1 == 3
#include "2.h"
#endif
char c = u'1'; char d = L'0'; /* ' */
#include "3.h"
//- 1.h
//- 2.h
//- 3.h
