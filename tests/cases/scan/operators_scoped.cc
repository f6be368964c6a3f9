//# flags: -std=c++17
//# expect: main.cc 1.h 2.h 3.h 4.h 5.h
//- main.cc
#if __has_cpp_attribute(gnu::unused) && __has_cpp_attribute( gnu :: __unused__ )
#include "1.h"
#endif
#if __has_cpp_attribute(__gnu__::unused) || 1
#include "2.h"
#endif
#define SCOPE gnu
#define NAME always_inline
#define BOTH SCOPE::NAME
#if __has_cpp_attribute(BOTH)
#include "3.h"
#endif
#if __has_cpp_attribute(maybe_unused) == 201603L && __has_cpp_attribute(nothing_such) == 0
#include "4.h"
#endif
#if __has_attribute(aligned) && !__has_attribute(__nothing_such__)
#include "5.h"
#endif
#if __has_cpp_attribute(nothing::unused)
#include "no.h"
#endif
//- 1.h
//- 2.h
//- 3.h
//- 4.h
//- 5.h
//- no.h
