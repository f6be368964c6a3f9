//# flags: -include first.h -imacros macros.h -DD=1 -iquote q -include quoted.h -UD -DE(x)=x
//# expect: src/main.c macros.h first.h q/quoted.h 1.h 2.h 3.h src/local.h 4.h
//- src/main.c
#if defined MACRO && !defined D && E(7) == 7
#include "../1.h"
#endif
#include "local.h"
#if __INCLUDE_LEVEL__ == 0
#include "../4.h"
#endif
//- macros.h
#define MACRO
int text;
#include "2.h"
//- first.h
#ifdef MACRO
#include "3.h"
#endif
#if __INCLUDE_LEVEL__ != 1
#include "no.h"
#endif
//- q/quoted.h
//- src/local.h
//- local.h
//- 1.h
//- 2.h
//- 3.h
//- 4.h
