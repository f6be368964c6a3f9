//# not_sure: #embed
//- main.c
char a[] = {
#embed "x.bin"
};
