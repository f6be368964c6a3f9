// `, ## __VA_ARGS__` drops the comma where the argument is left out, not where it is empty; alone, strict C keeps it.
//# flags: -std=c17
//# expect: main.c omitted.h empty.h strict.h
//- main.c
#define COUNT(a, b, c, ...) c
#define LAST(a, ...) COUNT(0, ## __VA_ARGS__, 2, 1)
#define ONLY(...) COUNT(3, ## __VA_ARGS__, 4, 5)
#if LAST(0) == 1
#include "omitted.h"
#endif
#if LAST(0,) == 2
#include "empty.h"
#endif
#if ONLY() == 4
#include "strict.h"
#endif
//- omitted.h
//- empty.h
//- strict.h
