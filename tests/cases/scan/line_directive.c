//# not_sure: dynamic macro
//- main.c
#line 7 "other.c"
#if __LINE__ == 7
#endif
