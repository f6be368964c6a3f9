//# expect: main.cc 1.h 2.h 3.h
//- main.cc
#ifdef __has_builtin
#if __has_builtin(__builtin_expect)
#include "1.h"
#endif
#endif
#if defined(__has_cpp_attribute) && __has_cpp_attribute(nodiscard) >= 201603L
#include "2.h"
#endif
#define HAS(x) __has_attribute(x)
#if HAS(__unused__) && !HAS(surely_not_an_attribute)
#include "3.h"
#endif
#ifndef __has_something_new
#define __has_something_new(x) 0
#endif
#if __has_something_new(x)
#include "no.h"
#endif
//- 1.h
//- 2.h
//- 3.h
