//# not_sure: file read by the assembler
//- main.c
#include "incbin.h"
//- incbin.h
__asm__("x:\n\t.incbin \"x.bin\"\n");
