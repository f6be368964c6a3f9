//# flags: -std=c++17
//# expect: main.mm x.h y.h
//- main.mm
#import "x.h"
#if defined __OBJC__ and __cplusplus > 201103L
#import "y.h"
#endif
@class Foo;
const char *text = R"(
#import "no.h"
)";
//- x.h
//- y.h
