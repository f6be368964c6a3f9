//# not_sure: file read by the assembler
//- main.c
#define STRING(x) #x
#define INCBIN(file) __asm__(".incbin " STRING(file))
INCBIN("x.bin");
//- x.bin
