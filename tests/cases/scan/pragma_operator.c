//# not_sure: _Pragma
//- main.c
#define X 1
_Pragma("push_macro(\"X\")")
#undef X
_Pragma("pop_macro(\"X\")")
#if X
#endif
