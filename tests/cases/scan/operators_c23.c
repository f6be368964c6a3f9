//# flags: -std=gnu2x
//# expect: main.c 1.h 2.h
//- main.c
#ifdef __has_c_attribute
#if __has_c_attribute(deprecated) && __has_c_attribute(__deprecated__)
#include "1.h"
#endif
#if __has_c_attribute(gnu::packed) || !__has_c_attribute(nothing)
#include "2.h"
#endif
#endif
//- 1.h
//- 2.h
