//# expect: main.m x.h y.h
//- main.m
#import "x.h"
#import "x.h"
#ifdef __OBJC__
#import "y.h"
#endif
#ifdef __cplusplus
#import "no.h"
#endif
@class Foo;
//- x.h
#ifdef X
#error twice
#endif
#define X
//- y.h
