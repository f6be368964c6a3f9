//# flags: -Ia -Ib
//# gcc: a/main.c a/x.h b/x.h
//# clang: a/main.c a/x.h b/x.h
//- a/main.c
#include "x.h"
//- a/x.h
#ifndef SECOND
#define SECOND
#include_next <x.h>
#else
#include_next <x.h>
#endif
//- b/x.h
