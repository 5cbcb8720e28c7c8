// Activation functions: what a pass over memory reads and writes, and the loops of each instruction set.
#pragma once
#include <cstdint>

namespace pennyweight {

// s = 1 / (1 + exp(-(a x + b x^3))), or the normal distribution.
struct Curve {
  bool normal;
  float a, b;
};

// What a pass reads and writes; what it does not need is null.
template <class Number>
struct Pass {
  const Number *x, *grad;
  Number* out;
  uint8_t* slopes;
  Curve curve;
  bool past;  // stores go past the cache: more is written than it holds, to a whole number of cache lines each
};

enum class Way { forward, saving, backward, slopes };

template <class Number>
using Loop = void (*)(const Pass<Number>&, int64_t first, int64_t last);

// The loop of one instruction set, which the processor must have.
template <Way way, class Number>
Loop<Number> loop_avx512();
template <Way way, class Number>
Loop<Number> loop_avx2();
template <Way way, class Number>
Loop<Number> loop_plain();

}  // namespace pennyweight
