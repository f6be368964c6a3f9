//# flags: -Ia -Ib -Ic
//# expect: main.c a/x.h b/x.h c/x.h
//- main.c
#include <x.h>
//- a/x.h
#include_next <x.h>
//- b/x.h
#include_next "x.h"
//- c/x.h
#if __has_include_next(<x.h>)
#include "nowhere.h"
#endif
