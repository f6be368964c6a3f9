//# flags: -std=c++11
//# expect: main.cc
//# assembled: x.bin
//- main.cc
__asm__(R"--(
  .pushsection .rodata
  .incbin "x.bin"
  .popsection
)--");
//- x.bin
