//# compiler: clang-19
//# flags: -std=c23 --embed-dir=data --embed-dir=more
//# expect: sub/main.c sub/x.bin sub/y.h data/x.bin more/z.bin data/empty.bin
//# probed: data/probed.bin
//- sub/main.c
#define NAME <z.bin>
#define PARAMETERS limit(1 + 1) prefix(1,)
const char a[] = {
#embed "x.bin"
#embed <x.bin> __limit__(4) suffix(,0) if_empty(0)
#embed NAME PARAMETERS
#embed "empty.bin" if_empty(1)
};
#if 0
#embed "no.bin"
#embed syntax error
#endif
#if __has_embed("x.bin") == __STDC_EMBED_FOUND__ && __has_embed(<none.bin>) == 0
#include "y.h"
#endif
#if __has_embed("empty.bin") != __STDC_EMBED_EMPTY__ || __has_embed("x.bin" limit(0)) != 2
#include "no1.h"
#endif
#if __has_embed(NAME PARAMETERS) != 1 || __has_embed("x.bin" unheard_of(1)) || __has_embed(<y.h>)
#include "no2.h"
#endif
#if !__has_embed("probed.bin" prefix(a b (c)) limit(2))
#include "no3.h"
#endif
//- sub/x.bin
beside
//- sub/y.h
//- data/x.bin
data
//- data/probed.bin
p
//- data/empty.bin
//- more/x.bin
//- more/z.bin
zz
