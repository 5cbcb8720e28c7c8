// The loops over activation functions on 512-bit vectors.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma")
#define PENNYWEIGHT_WIDE
#endif
#define LOOP loop_avx512
#include "activation_loops.h"
