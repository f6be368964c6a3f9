//# expect: main.c x.h 1.h
//- main.c
#import "x.h"
#define SECOND
#import "x.h"
#include "x.h"
//- x.h
#ifdef SECOND
#include "2.h"
#endif
#include "1.h"
//- 1.h
//- 2.h
