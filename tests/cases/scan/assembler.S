//# flags: -Ia
//# expect: main.S a/x.h
//- main.S
# a comment, isn't it
#notadirective "quote
#include <x.h>
#ifdef __ASSEMBLER__
  mov $1, %eax # comment
#else
#include "no.h"
#endif
//- a/x.h
