//# expect: main.c
//- main.c
/* __asm__(".incbin \"x.bin\""); */ // #include "no.h"
int incbin;
