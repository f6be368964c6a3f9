//# flags: -fno-operator-names
//# expect: main.cc x.h
//- main.cc
#define and +
#if (1 and 1) == 2
#include "x.h"
#endif
#if compl
#include "no.h"
#endif
//- x.h
