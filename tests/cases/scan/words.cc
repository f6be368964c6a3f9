//# expect: main.cc 1.h 2.h
//- main.cc
#define A 1
#if defined A and not defined B or 0
#include "1.h"
#endif
#if (A bitand 3) == 1 and (compl 0) == -1 and 5 xor 4 and true and not false and A not_eq 2
#include "2.h"
#endif
//- 1.h
//- 2.h
