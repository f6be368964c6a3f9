//# not_sure: dynamic macro
//- main.c
int __COUNTER__;
#if __COUNTER__ == 0
#endif
