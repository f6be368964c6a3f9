//# expect: main.c g.h 1.h 2.h half.h
//- main.c
#include "g.h"
#include "g.h"
#undef G_H
#define AGAIN
#include "g.h"
#include "half.h"
#include "half.h"
//- g.h
/* comment */
#if !defined(G_H)
#define G_H
#include "1.h"
#ifdef AGAIN
#include "2.h"
#endif
#endif // G_H
//- half.h
#ifndef HALF
#define HALF
#else
#include "2.h"
#endif
//- 1.h
//- 2.h
