//# expect: main.c incbin.h
//# assembled: x.bin y.bin z.bin
//- main.c
#include "incbin.h"
#if 0
__asm__(".incbin " NOTHING);
#endif
struct directive { const char *name; int incbin; } directives[] = { { ".incbin", 1 }, { ".include", 2 } };
int f(struct directive *d) { return d->incbin + directives[0].incbin; }
//- incbin.h
__asm__(".section .rodata\nx:\n\t.incbin \"x.bin\"\n"
        "y: .incbin \"y.bin\", 1\n" /* ".incbin \"no.bin\"" */
        ".previous");
#define Z __asm__(".incbin \"z.bin\"")
//- x.bin
//- y.bin
//- z.bin
//- no.bin
