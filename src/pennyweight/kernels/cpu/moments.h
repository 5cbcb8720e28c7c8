// One AdamW step on moments written in 8 bits: m as int8 in blocks, v as 256 values even in log2 over its block's range.
#pragma once
#include <cstdint>

namespace pennyweight {

// The scalars of one step, as optim/update.py makes them.
struct Step {
  float decay, rise_m, keep_v, rise_v, correction, size, eps, octaves;
};

// A slice of a parameter and of its moments. Blocks begin with the slice and hold a multiple of 32 elements; the last
// one may be cut. `noisy`: codes are rounded by numerics/noise.py's halves, of these keys, counted from `start`, which is
// a multiple of 32; else to nearest.
struct Slice {
  float* weights;
  const void* gradient;
  bool bf16;  // the gradient is bfloat16, else float32
  int64_t size;
  int8_t* m_codes;
  float* m_scales;
  int64_t m_block;
  uint8_t* v_codes;
  float *v_scales, *v_spans;
  int64_t v_block;
  bool noisy;
  uint64_t m_key, v_key, start;
};

constexpr int64_t kLargestBlock = 2048;

// Elements [first, last) of a slice; `first` begins a block of both moments. False where this processor cannot.
bool has_adamw();
void adamw(const Slice& slice, const Step& step, int64_t first, int64_t last);
// Moves the weights as `adamw` does, and leaves the moments as they are.
void adamw_move(const Slice& slice, const Step& step, int64_t first, int64_t last);

}  // namespace pennyweight
