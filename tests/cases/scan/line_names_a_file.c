//# compiler: gcc
//# expect: main.c
//# probed: grammar.y other.y
//- main.c
#line 1 "grammar.y"
int x;
#line 1 "<stdin>"
# 3 "other.y" 2
//- grammar.y
//- other.y
