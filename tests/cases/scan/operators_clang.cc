//# flags: -std=c++17
//# gcc: main.cc
//# clang: main.cc 1.h 2.h 3.h 4.h 5.h 6.h 7.h
//- main.cc
#ifdef __clang__
#if __has_feature(cxx_rvalue_references) && __has_extension(cxx_rvalue_references) && !__has_feature(nothing)
#include "1.h"
#endif
#if __has_warning("-Wall") && !__has_warning("-Wnothing-such")
#include "2.h"
#endif
#if __has_declspec_attribute(dllexport) || 1
#include "3.h"
#endif
#if __is_identifier(surely) && !__is_identifier(int) && !__is_identifier(decltype)
#include "4.h"
#endif
#ifdef __is_target_os
#if __is_target_os(linux) && !__is_target_os(darwin)
#include "5.h"
#endif
#else
#include "5.h"
#endif
#if defined __has_constexpr_builtin
#if __has_constexpr_builtin(__builtin_fmax)
#endif
#endif
#include "6.h"
#define feature cxx_lambdas
#if __has_feature(feature)
#include "no.h"
#else
#include "7.h"
#endif
#endif
//- 1.h
//- 2.h
//- 3.h
//- 4.h
//- 5.h
//- 6.h
//- 7.h
//- no.h
