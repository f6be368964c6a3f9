//# flags: -Iinc -iquote q
//# expect: main.S
//# assembled: x.bin inc/deep.s inc/deeper.bin q/both.bin inc/both.bin
//- main.S
#define NOTE "not a name"
/* .incbin "no.bin" */
  .ascii NOTE
  .incbin "x.bin", 1, 2
#if 0
  .incbin FILE
#endif
  .include "deep.s"
  .incbin "both.bin"
//- x.bin
1234
//- inc/x.bin
//- inc/deep.s
# don't stop here
  .incbin "deeper.bin"
  .include "deep.s"
//- inc/deeper.bin
//- q/both.bin
//- inc/both.bin
