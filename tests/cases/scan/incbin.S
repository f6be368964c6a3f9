//# not_sure: file read by the assembler
//- main.S
  .incbin "x.bin"
