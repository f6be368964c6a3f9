//# expect: main.c 1.h 2.h 3.h 4.h 5.h 6.h 7.h 8.h
//- main.c
#define AT_LEAST(a, b) ((a) << 16 | (b) <= VERSION)
#define VERSION (4 << 16 | 2)
#if AT_LEAST(4, 1)
#include "1.h"
#endif
/* A macro inside its own expansion is left alone. */
#define self self + 1
#if self == 1
#include "2.h"
#endif
#define f(a) a*g
#define g(a) f(a)
#if f(2)(9) == 0
#include "3.h"
#endif
#define CAT(a, ...) CAT_(a, __VA_ARGS__)
#define CAT_(a, ...) a ## __VA_ARGS__
#define WHICH_A 1
#if CAT(WHICH_, A)
#include "4.h"
#endif
#define COUNT(...) COUNT_(__VA_ARGS__, 3, 2, 1, 0)
#define COUNT_(a, b, c, n, ...) n
#if COUNT(x, y) == 2 && COUNT(x) == 1
#include "5.h"
#endif
#define GNU(first, rest...) PICK(first, ##rest, 7, 8)
#define PICK(a, b, ...) b
#if GNU(1) == 7 && GNU(1, 2) == 2
#include "6.h"
#endif
/* A name that is not followed by a parenthesis is no call. */
#define call(x) 0
#define name call
#if name + 1 && call(1) == name(2)
#include "7.h"
#endif
#define NOTHING()
#if NOTHING() 1 + NOTHING( ) 1 == 2
#include "8.h"
#endif
//- 1.h
//- 2.h
//- 3.h
//- 4.h
//- 5.h
//- 6.h
//- 7.h
//- 8.h
