//# not_sure: file read by the assembler
//- main.S
#define FILE "x.bin"
  .incbin FILE
//- x.bin
