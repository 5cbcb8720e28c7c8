// The reference: every operation in plain C++, for any processor. Included once by each file that compiles it.
#include <cmath>
#include <cstring>

#include "door.h"

namespace pennyweight {
namespace {

float as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

float from_fp16(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 1023;
  if (exponent == 31) return as_float(sign | 0x7f800000 | fraction << 13);
  if (exponent == 0) return as_float(sign | bits_of(float(fraction) * 0x1p-24f));
  return as_float(sign | (exponent + 112) << 23 | fraction << 13);
}

// To nearest, ties to even, subnormal numbers to zero: what the processors' own instruction does.
uint16_t to_bf16(float value) {
  const uint32_t bits = bits_of(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return bits >> 16 | 64;
  if ((bits & 0x7f800000) == 0) return bits >> 16 & 0x8000;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

inline float at(const Matrix& x, int64_t r, int64_t c) {
  const int64_t place = r * x.stride + c;
  if (x.number == Number::fp32) return static_cast<const float*>(x.data)[place];
  const uint16_t half = static_cast<const uint16_t*>(x.data)[place];
  return x.number == Number::bf16 ? as_float(uint32_t(half) << 16) : from_fp16(half);
}

// The larger magnitude, NaN where there is one: magnitudes sort as their bits do.
inline float larger(float a, float b) {
  const uint32_t left = bits_of(a) & 0x7fffffff, right = bits_of(b) & 0x7fffffff;
  return as_float(left > right ? left : right);
}

inline int8_t code(float x, float scale) { return int8_t(std::nearbyint(x / scale)); }

void write_rows(const Matrix& x, const float* fold, int64_t first, int64_t last, int8_t* codes, float* scales) {
  for (int64_t r = first; r < last; ++r) {
    float largest = 0.0f;
    for (int64_t c = 0; c < x.columns; ++c) largest = larger(largest, fold ? at(x, r, c) * fold[c] : at(x, r, c));
    const Group group(largest);
    scales[r] = group.stored;
    int8_t* to = codes + r * x.columns;
    if (!group.live) std::memset(to, 0, x.columns);
    for (int64_t c = 0; group.live && c < x.columns; ++c)
      to[c] = code(fold ? at(x, r, c) * fold[c] : at(x, r, c), group.stored);
  }
}

void write_strip(const Matrix& x, const float* fold, const float* fold_down, int64_t first, int64_t last, int8_t* codes,
                 float* scales, float* largest, float* sum) {
  write_rows(x, fold, first, last, codes, scales);
  for (int64_t c = 0; c < x.columns; ++c) largest[c] = sum[c] = 0.0f;
  for (int64_t r = first; r < last; ++r)
    for (int64_t c = 0; c < x.columns; ++c) {
      largest[c] = larger(largest[c], at(x, r, c) * fold_down[r]);
      sum[c] += at(x, r, c);
    }
}

void measure_columns(const Matrix& x, int64_t first, int64_t last, float* largest) {
  for (int64_t c = 0; c < x.columns; ++c) largest[c] = 0.0f;
  for (int64_t r = first; r < last; ++r)
    for (int64_t c = 0; c < x.columns; ++c) largest[c] = larger(largest[c], at(x, r, c));
}

void write_columns(const Matrix& x, const float* scales, int64_t first, int64_t last, int8_t* codes) {
  for (int64_t r = first; r < last; ++r)
    for (int64_t c = 0; c < x.columns; ++c)
      codes[r * x.columns + c] = scales[c] > 0.0f ? code(at(x, r, c), scales[c]) : 0;
}

void write_tile(const Matrix& x, const float* fold_down, const float* scales, int64_t i, int64_t j, int8_t* tile) {
  for (int64_t c = 0; c < kTile; ++c)
    for (int64_t r = 0; r < kTerms; ++r) {
      const int64_t row = i * kTerms + r, column = j * kTile + c;
      const bool inside = row < x.rows && column < x.columns && scales[column] > 0.0f;
      tile[c * kTerms + r] = inside ? code(at(x, row, column) * fold_down[row], scales[column]) : 0;
    }
}

// Where a packed panel keeps the code of one term of one of its 32 columns.
inline int64_t packed_place(int64_t column, int64_t term) {
  const int64_t tile = term / kTerms * 2 + column / kTile;
  return tile * kTile * kTerms + term % kTerms / 4 * 64 + column % kTile * 4 + term % 4;
}

void pack_strided(const int8_t* codes, int64_t columns, int64_t terms, int64_t down, int64_t across, int64_t panel,
                  int64_t block, int8_t* packed) {
  int8_t* to = packed + panel * panel_bytes(terms);
  for (int64_t k = block * kTerms; k < (block + 1) * kTerms; ++k)
    for (int64_t c = 0; c < kPanel; ++c) {
      const int64_t n = panel * kPanel + c;
      to[packed_place(c, k)] = n < columns && k < terms ? codes[n * down + k * across] : 0;
    }
}

void pack(const int8_t* codes, int64_t columns, int64_t terms, int64_t panel, int64_t block, int8_t* packed) {
  pack_strided(codes, columns, terms, terms, 1, panel, block, packed);
}

void pack_turned(const int8_t* codes, int64_t columns, int64_t terms, int64_t panel, int64_t block, int8_t* packed) {
  pack_strided(codes, columns, terms, 1, columns, panel, block, packed);
}

void put(const Result& out, int64_t m, int64_t n, int32_t sum) {
  const float total = float(sum) * out.row[m];
  const float value = __builtin_fmaf(total, out.column ? out.column[n] : 1.0f, out.bias ? out.bias[n] : 0.0f);
  const int64_t place = out.turned ? n * out.stride + m : m * out.stride + n;
  if (out.number == Number::bf16)
    static_cast<uint16_t*>(out.data)[place] = to_bf16(value);
  else
    static_cast<float*>(out.data)[place] = value;
}

void multiply_row(const Left& left, const int8_t* right, int64_t m, int32_t* sums) {
  for (int64_t c = 0; c < kPanel; ++c) sums[c] = 0;
  const int8_t* row = left.data + m / kTile * left.down + m % kTile * left.stride;
  for (int64_t k = 0; k < left.terms; k += 4) {
    int32_t a[4];
    for (int64_t i = 0; i < 4; ++i) a[i] = k + i < left.terms ? row[k / kTerms * left.across + k % kTerms + i] : 0;
    for (int64_t half = 0; half < 2; ++half) {
      const int8_t* b = right + packed_place(half * kTile, k);
      for (int64_t c = 0; c < kTile; ++c)
        sums[half * kTile + c] += a[0] * b[4 * c] + a[1] * b[4 * c + 1] + a[2] * b[4 * c + 2] + a[3] * b[4 * c + 3];
    }
  }
}

void multiply(const Left& left, const int8_t* packed, int64_t from, int64_t to, int64_t first, int64_t last,
              const Result& out) {
  int32_t sums[kPanel];
  for (int64_t panel = from; panel < to; ++panel)
    for (int64_t m = first; m < last; ++m) {
      multiply_row(left, packed + panel * panel_bytes(left.terms), m, sums);
      for (int64_t c = 0; c < kPanel && panel * kPanel + c < out.columns; ++c) put(out, m, panel * kPanel + c, sums[c]);
    }
}

void nothing() {}

Door portable(const char* name) {
  return {name, nothing, nothing, multiply, write_rows, write_strip, measure_columns, write_columns, write_tile, pack,
          pack_turned};
}

}  // namespace
}  // namespace pennyweight
