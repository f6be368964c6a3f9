//# flags: -include all.h
//# not_sure: precompiled header
//- main.c
//- all.h
//- all.h.gch
