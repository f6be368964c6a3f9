//# flags: -Ia
//# expect: main.c a/x.h
//# probed: a/probed.h
//- main.c
#if defined(__has_include) && __has_include(<x.h>)
#include <x.h>
#endif
#ifdef __has_include
#if __has_include("probed.h") && !__has_include(<none.h>)
#define OK
#endif
#endif
#ifndef OK
#include "no.h"
#endif
#define NAME <x.h>
#if !__has_include(NAME)
#include "no.h"
#endif
#define HAS(x) __has_include(<x>)
#if !HAS(x.h) || HAS(y.h)
#include "no.h"
#endif
//- a/x.h
//- a/probed.h
