//# compiler: gcc
//# flags: -include all.h
//# expect: main.c all.h
//- main.c
//- all.h
//- all.h.gch
