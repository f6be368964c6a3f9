//# flags: -isystem s -Iu
//# expect: main.c u/x.h s/y.h u/z.h
//- main.c
#include <x.h>
#include <y.h>
//- u/x.h
//- s/x.h
//- s/y.h
#pragma GCC system_header
#include <z.h>
//- u/z.h
