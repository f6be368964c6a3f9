//# flags: -DON -DTWO=2 -UON2
//# expect: main.c 1.h 2.h 3.h 4.h 5.h 6.h 7.h
//- main.c
#ifdef ON
#  include "1.h"
#else
#  include "no.h"
#endif
#ifndef ON
#include "no.h"
#elif TWO == 1
#include "no.h"
#elif TWO == 2
#  if 0
#    include "no.h"
#    if 1
#      include "no.h"
#    else
#      include "no.h"
#    endif
#  elif 1
#    include "2.h"
#  endif
#elif 1 / 0
#else
#include "no.h"
#endif
#if 0
# unknown directive
# error don't
#else
/* comment */ # /* in */ include /* between */ "3.h" // after
#endif
#if defined ON && !defined(ON2) || 1 / 0
#include "4.h"
#endif
#define EMPTY
#if EMPTY 1 EMPTY
#include "5.h"
#endif
#undef TWO
#if TWO
#include "no.h"
#endif
#define IS_DEFINED defined(ON)
#if IS_DEFINED
#include "6.h"
#endif
#if -1 > 0u && (2 || 1/0) && ('a' == 97) && (0 ? 1/0 : 1) && 0x10 == 16 && 010 == 8
#include "7.h"
#endif
//- 1.h
//- 2.h
//- 3.h
//- 4.h
//- 5.h
//- 6.h
//- 7.h
