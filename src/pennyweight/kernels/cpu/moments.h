// One AdamW step on moments written in 8 bits: m as int8 in blocks, v as 256 values even in log2 over its block's range.
#pragma once
#include <cstdint>

namespace pennyweight {

// The scalars of one step, as optim/update.py makes them.
struct Step {
  float decay, rise_m, keep_v, rise_v, correction, size, eps, octaves;
};

// The counted noise of a slice (numerics/noise.py): a key, and the index of the first element; off: to nearest.
struct Noise {
  bool on;
  uint64_t key;
  uint64_t start;
};

// A slice of a parameter and of its moments. Blocks begin with the slice; the last one may be cut.
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
  Noise m_noise, v_noise;
};

constexpr int64_t kLargestBlock = 2048;

// Elements [first, last) of a slice; `first` begins a block of both moments. False where this processor cannot.
bool has_adamw();
void adamw(const Slice& slice, const Step& step, int64_t first, int64_t last);

}  // namespace pennyweight
