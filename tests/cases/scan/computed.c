//# flags: -Ia -DCONFIG="config.h" -DNAMED(x)=<sub/x.h>
//# expect: main.c config.h a/sub/one.h a/sub/two.h a/three.h a/v2/api.h
//- main.c
#include CONFIG
#include NAMED(one)
#define DIR sub
#define ANGLED <DIR/two.h>
#include ANGLED
#define STRING(x) #x
#define HEADER(x) STRING(x.h)
#define NUMBER three
#include HEADER(NUMBER)
#define PASTE(a, b) PASTE_(a, b)
#define PASTE_(a, b) a ## b
#define VERSION 2
#define LATER STRING_(PASTE(v, VERSION)/api.h)
#define STRING_(x) STRING(x)
#include LATER
//- config.h
//- a/sub/one.h
//- a/sub/two.h
//- a/three.h
//- a/v2/api.h
//- a/NUMBER.h
