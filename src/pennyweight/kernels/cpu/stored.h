// A weight that is int8 codes with one scale an output and nothing else: how its numbers are read, and written again.
#pragma once
#include <cstdint>

namespace pennyweight {

// W [outputs, inputs] = codes * scales. The codes lie [rows, columns]: the outputs are the rows, or, turned, the columns.
// Elements [first, last) are those of the codes as they lie; at most 2^32 in all.
struct StoredWeight {
  int8_t* codes;
  const float* scales;  // of the outputs, before the step
  float *fresh, *by;    // after it; what a number is multiplied by (`power`: scales are powers of two), else divided by
  int64_t rows, columns;
  bool turned, power, noisy;
  uint64_t key;  // of numerics/noise.py's `uniform`, counted along W

  int64_t outputs() const { return turned ? columns : rows; }
};

// Numbers told to move, and those of them whose value stayed.
struct Moves {
  int64_t moved = 0, swallowed = 0;
};

// Elements [first, last) in float32, into `work`.
void read_codes(const StoredWeight& w, int64_t first, int64_t last, float* work);
// Raises `largest` [outputs], bits of magnitudes, to those of `work`, which holds elements [first, last).
void measure_outputs(const StoredWeight& w, int64_t first, int64_t last, const float* work, uint32_t* largest);
// The fresh scale of outputs [first, last) from their largest magnitudes: numerics/grids.py's `solve`.
void scale_outputs(const StoredWeight& w, int64_t first, int64_t last, const uint32_t* largest);
// Writes `work`, which holds elements [first, last), by the fresh scales.
Moves write_codes(const StoredWeight& w, int64_t first, int64_t last, const float* work);

}  // namespace pennyweight
