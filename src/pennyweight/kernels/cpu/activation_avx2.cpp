// The loops over activation functions on 256-bit vectors.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx2")
#endif
#define LOOP loop_avx2
#include "activation_loops.h"
