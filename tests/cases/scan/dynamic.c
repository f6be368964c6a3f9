//# expect: main.c 1.h 2.h self.h
//- main.c
#if __LINE__ == 1
#include "1.h"
#endif
#define WHERE __LINE__
#if WHERE == 5 && defined __FILE__ && defined(__COUNTER__) && defined __DATE__
#include "2.h"
#endif
#include "self.h"
//- self.h
#ifndef DEEP
#define DEEP
#include __FILE__
#elif !defined DEEPER
#define DEEPER
#if __INCLUDE_LEVEL__ != 2
#include "no.h"
#endif
#include __FILE__
#endif
//- 1.h
//- 2.h
