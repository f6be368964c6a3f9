//# gcc: main.c attribute.h builtin.h
//# clang: main.c attribute.h feature.h
//- main.c
#define bogus unused
#define unused bogus
#define surely_none __unused__
#if __has_attribute(surely_none)
#include "attribute.h"
#endif
#define trap __builtin_trap
#if __has_builtin(trap)
#include "builtin.h"
#endif
#ifdef __clang__
#define c_static_assert bogus
#if __has_feature(c_static_assert)
#include "feature.h"
#endif
#endif
//- attribute.h
//- builtin.h
//- feature.h
