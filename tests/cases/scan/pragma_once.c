//# flags: -Ia -Ib
//# gcc: main.c a/x.h b/x.h 1.h
//# clang: main.c a/x.h b/x.h 1.h 2.h
//- main.c
#include "a/x.h"
#define SECOND
#include <x.h>
#include "a/../a/x.h"
#include "b/x.h"
//- a/x.h
#pragma once
#ifndef SECOND
#include "../1.h"
#else
#include "../2.h"
#endif
//- b/x.h
#pragma once
#ifndef SECOND
#include "../1.h"
#else
#include "../2.h"
#endif
//- 1.h
//- 2.h
