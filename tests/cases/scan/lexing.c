//# expect: main.c 1.h 2.h 3.h 4.h 5.h sub/6.h
//- main.c
char a = '"'; char b = '\''; char *c = "\\"; /* " */
#include "1.h"
char *d = "/*";
#inc\
lude \
"2.h"
// comment \
#include "no.h"
/* *\
/
#include "3.h"
int x; /*
*/ # include "no.h"
#define MULTI a \
  b /* c
  d */ e
%:include "4.h"
%: \
 define X
#ifdef X
#include "5.h"
#endif
#include "sub//6.h" // sub//6.h
#if 0
it's "unpaired
' /* this is inside the quote's line
#endif
#
//- 1.h
//- 2.h
//- 3.h
//- 4.h
//- 5.h
//- sub/6.h
