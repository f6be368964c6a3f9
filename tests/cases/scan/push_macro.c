//# expect: main.c 1.h 2.h 3.h
//- main.c
#define X 1
#pragma push_macro("X")
#undef X
#define X 2
#if X == 2
#include "1.h"
#endif
#pragma pop_macro("X")
#if X == 1
#include "2.h"
#endif
#pragma push_macro("Y")
#define Y
#pragma pop_macro("Y")
#ifndef Y
#include "3.h"
#endif
//- 1.h
//- 2.h
//- 3.h
