//# flags: -iquote q -Ia -Ib
//# expect: src/main.c src/x.h q/y.h a/x.h a/y.h b/z.h src/sub/w.h src/sub/v.h src/u.h
//- src/main.c
#include "x.h"
#include "y.h"
#include <x.h>
#include <y.h>
#include "z.h"
#include "sub/w.h"
//- src/x.h
//- q/y.h
//- a/x.h
//- a/y.h
//- b/x.h
//- b/y.h
//- b/z.h
//- src/sub/w.h
#include "v.h"
#include "../u.h"
//- src/sub/v.h
//- src/v.h
//- src/u.h
