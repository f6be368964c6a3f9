//# flags: -std=c2x
//# not_sure: #embed
//- main.c
#if __STDC_VERSION__ >= 201112L
char a[] = {
#embed "x.bin"
};
#endif
//- x.bin
