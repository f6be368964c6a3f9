//# flags: -I.
//# expect: main.c d/x.h d/1.h
//- main.c
#include "d/x.h"
#import "d/x.h"
#define SECOND
#include "./d/../d/x.h"
//- d/x.h
#include "1.h"
#ifdef SECOND
#include "2.h"
#endif
//- d/1.h
//- d/2.h
