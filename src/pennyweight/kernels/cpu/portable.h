// The reference: every operation in plain C++, for any processor. Included behind its users' target pragma, so that the
// loops become vectors of that width.
#pragma once
#include <algorithm>
#include <cstring>
#include <memory>
#include <type_traits>

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
inline uint16_t to_bf16(float value) {
  const uint32_t bits = bits_of(value), nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  const uint32_t number = (bits & 0x7f800000) == 0 ? bits >> 16 & 0x8000 : nearest;
  return (bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 64 : number;
}

template <Number number>
inline float at(const void* data, int64_t place) {
  if constexpr (number == Number::fp32) return static_cast<const float*>(data)[place];
  const uint16_t half = static_cast<const uint16_t*>(data)[place];
  return number == Number::bf16 ? as_float(uint32_t(half) << 16) : from_fp16(half);
}

// The bits of a magnitude: they sort as magnitudes do, with NaN above all.
inline int32_t magnitude(float x) { return bits_of(x) & 0x7fffffff; }

// x / scale to the nearest integer, ties to even: the low bits of a sum whose last place is 1.
inline uint32_t code(float x, float scale) { return bits_of(x / scale + 0x1.8p23f); }

// All bits of a group that has codes other than 0, none of another one: a loop without a branch becomes vectors.
inline uint32_t live(float scale) { return scale > 0.0f ? ~0u : 0; }

template <Number number>
void write_row(const Matrix& x, const float* fold, int64_t r, int8_t* codes, float* scales, float* values) {
  const int64_t columns = x.columns, place = r * x.stride;
  int32_t most = 0;
  for (int64_t c = 0; c < columns; ++c) values[c] = at<number>(x.data, place + c);
  for (int64_t c = 0; fold && c < columns; ++c) values[c] *= fold[c];
  for (int64_t c = 0; c < columns; ++c) most = std::max(most, magnitude(values[c]));
  const Group group(as_float(most));
  const float scale = scales[r] = group.stored;
  int8_t* to = codes + r * columns;
  if (!group.live)
    std::memset(to, 0, columns);
  else
    for (int64_t c = 0; c < columns; ++c) to[c] = int8_t(code(values[c], scale));
}

// One call of `work` with the number format of x as a constant.
template <class Work>
inline void by_number(const Matrix& x, const Work& work) {
  switch (x.number) {
    case Number::fp32: return work(std::integral_constant<Number, Number::fp32>());
    case Number::bf16: return work(std::integral_constant<Number, Number::bf16>());
    case Number::fp16: return work(std::integral_constant<Number, Number::fp16>());
  }
}

void write_rows(const Matrix& x, const float* fold, int64_t first, int64_t last, int8_t* codes, float* scales) {
  const std::unique_ptr<float[]> values(new float[x.columns]);
  by_number(x, [&](auto number) {
    for (int64_t r = first; r < last; ++r) write_row<number()>(x, fold, r, codes, scales, values.get());
  });
}

// The larger magnitudes of `largest` and of `size` numbers times `factor`, as bits.
template <Number number>
inline void raise(const void* data, int64_t place, int64_t size, float factor, float* largest) {
  for (int64_t c = 0; c < size; ++c)
    largest[c] = as_float(std::max(magnitude(largest[c]), magnitude(at<number>(data, place + c) * factor)));
}

void measure_columns(const Matrix& x, int64_t first, int64_t last, float* largest) {
  std::memset(largest, 0, x.columns * sizeof(float));
  by_number(x, [&](auto number) {
    for (int64_t r = first; r < last; ++r) raise<number()>(x.data, r * x.stride, x.columns, 1.0f, largest);
  });
}

void write_strip(const Matrix& x, const float* fold, const float* fold_down, int64_t first, int64_t last, int8_t* codes,
                 float* scales, float* largest, float* sum) {
  write_rows(x, fold, first, last, codes, scales);
  std::memset(largest, 0, x.columns * sizeof(float));
  std::memset(sum, 0, x.columns * sizeof(float));
  by_number(x, [&](auto number) {
    for (int64_t r = first; r < last; ++r) {
      raise<number()>(x.data, r * x.stride, x.columns, fold_down[r], largest);
      for (int64_t c = 0, place = r * x.stride; c < x.columns; ++c) sum[c] += at<number()>(x.data, place + c);
    }
  });
}

void write_columns(const Matrix& x, const float* scales, int64_t first, int64_t last, int8_t* codes) {
  by_number(x, [&, columns = x.columns](auto number) {
    for (int64_t r = first; r < last; ++r)
      for (int64_t c = 0, place = r * x.stride; c < columns; ++c)
        codes[r * columns + c] = int8_t(code(at<number()>(x.data, place + c), scales[c]) & live(scales[c]));
  });
}

typedef float Floats __attribute__((vector_size(32)));
typedef uint32_t Words __attribute__((vector_size(32)));
typedef uint16_t Halves __attribute__((vector_size(16)));
constexpr int64_t kEight = 8;

// Eight numbers from `place`, zeros behind the first `size`.
template <Number number>
inline void read_eight(const void* data, int64_t place, int64_t size, Floats& all) {
  float values[kEight] = {};
  if (size >= kEight && number == Number::bf16) {
    Halves halves;
    std::memcpy(&halves, static_cast<const uint16_t*>(data) + place, sizeof halves);
    const Words bits = __builtin_convertvector(halves, Words) << 16;
    std::memcpy(values, &bits, sizeof bits);
  } else {
    for (int64_t c = 0; c < std::min(size, kEight); ++c) values[c] = at<number>(data, place + c);
  }
  std::memcpy(&all, values, sizeof all);
}

// Eight columns at most, from (row, column) on: their codes, turned, in rows of a tile.
template <Number number>
inline void write_eight(const Matrix& x, const float* fold_down, const float* scales, int64_t row, int64_t column,
                        int8_t* tile) {
  const int64_t rows = std::min(kTerms, x.rows - row), width = x.columns - column;
  Floats by, y;
  read_eight<Number::fp32>(scales, column, width, by);
  const Words live = Words(by > 0.0f);
  for (int64_t k = 0; k < kTerms; k += 4) {
    Words words = {};  // of four rows, a byte each
    for (int64_t r = k; r < k + 4; ++r) {
      words >>= 8;
      if (r >= rows) continue;
      read_eight<number>(x.data, (row + r) * x.stride + column, width, y);
      words |= (Words(y * fold_down[row + r] / by + 0x1.8p23f) & live) << 24;
    }
    uint32_t turned[kEight];
    std::memcpy(turned, &words, sizeof words);
    for (int64_t c = 0; c < kEight; ++c) std::memcpy(tile + c * kTerms + k, turned + c, 4);
  }
}

void write_tile(const Matrix& x, const float* fold_down, const float* scales, int64_t i, int64_t j, int8_t* tile) {
  by_number(x, [&](auto number) {
    for (int64_t c = 0; c < kTile; c += kEight)
      write_eight<number()>(x, fold_down, scales, i * kTerms, j * kTile + c, tile + c * kTerms);
  });
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
  const int64_t n = panel * kPanel, k = block * kTerms;
  if (n + kPanel > columns || k + kTerms > terms) {
    pack_strided(codes, columns, terms, terms, 1, panel, block, packed);
    return;
  }
  int8_t* to = packed + panel * panel_bytes(terms) + k * kPanel;
  for (int64_t c = 0; c < kPanel; ++c)
    for (int64_t i = 0; i < kTerms; i += 4) std::memcpy(to + packed_place(c, i), codes + (n + c) * terms + k + i, 4);
}

void pack_turned(const int8_t* codes, int64_t columns, int64_t terms, int64_t panel, int64_t block, int8_t* packed) {
  const int64_t n = panel * kPanel, k = block * kTerms;
  if (n + kPanel > columns || k + kTerms > terms) {
    pack_strided(codes, columns, terms, 1, columns, panel, block, packed);
    return;
  }
  int8_t* to = packed + panel * panel_bytes(terms) + k * kPanel;
  for (int64_t i = 0; i < kTerms; i += 4)
    for (int64_t c = 0; c < kPanel; c += kTile) {
      const int8_t* from = codes + (k + i) * columns + n + c;
      int8_t words[kTile * 4];
      for (int64_t w = 0; w < kTile; ++w)
        for (int64_t t = 0; t < 4; ++t) words[4 * w + t] = from[t * columns + w];
      std::memcpy(to + packed_place(c, i), words, sizeof words);
    }
}

void store(const Result& out, int64_t place, int64_t size, const float* values) {
  if (out.number == Number::bf16)
    for (int64_t i = 0; i < size; ++i) static_cast<uint16_t*>(out.data)[place + i] = to_bf16(values[i]);
  else
    std::memcpy(static_cast<float*>(out.data) + place, values, size * sizeof(float));
}

// Rows [first, last) of the sums [32, 32] of block b, of rows m .. and columns n .., times their scales, to totals.
void add_scaled(const int32_t* sums, const Blocks& blocks, int64_t b, int64_t m, int64_t n, int64_t first, int64_t last,
                float* totals) {
  const float* column = blocks.column + b * blocks.columns + n;
  for (int64_t r = first; r < last; ++r) {
    const float row = blocks.row[(m + r) * blocks.count + b];
    const int32_t* sum = sums + r * kPanel;
    float* total = totals + r * kPanel;
    for (int64_t c = 0; c < kPanel; ++c) total[c] = __builtin_fmaf(float(sum[c]) * row, column[c], total[c]);
  }
}

// Sums [32, 32] of rows m .. and columns n .., or totals of blocks, on their way to the result.
void finish(const void* sums, int64_t m, int64_t n, int64_t rows, const Result& out) {
  const int64_t width = std::min(kPanel, out.columns - n);
  float column[kPanel], bias[kPanel] = {}, values[kPanel * kPanel], line[kPanel];
  std::fill(column, column + kPanel, 1.0f);
  if (out.column) std::memcpy(column, out.column + n, width * sizeof(float));
  if (out.bias) std::memcpy(bias, out.bias + n, width * sizeof(float));
  if (!out.row) std::memcpy(values, sums, rows * kPanel * sizeof(float));
  for (int64_t r = 0; r < rows; ++r) {
    float* value = values + r * kPanel;
    if (out.row) {
      const int32_t* sum = static_cast<const int32_t*>(sums) + r * kPanel;
      const float row = out.row[m + r];
      for (int64_t c = 0; c < kPanel; ++c) value[c] = __builtin_fmaf(float(sum[c]) * row, column[c], bias[c]);
    } else {
      for (int64_t c = 0; c < kPanel; ++c) value[c] += bias[c];
    }
    if (!out.turned) store(out, (m + r) * out.stride + n, width, value);
  }
  for (int64_t c = 0; out.turned && c < width; ++c) {
    for (int64_t r = 0; r < rows; ++r) line[r] = values[r * kPanel + c];
    store(out, (n + c) * out.stride + m, rows, line);
  }
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
  int32_t sums[kPanel * kPanel];
  float totals[kPanel * kPanel];
  const Blocks& scales = out.blocks;
  for (int64_t m = first; m < last; m += kPanel)
    for (int64_t panel = from; panel < to; ++panel) {
      const int64_t rows = std::min(kPanel, last - m), n = panel * kPanel;
      const int8_t* right = packed + panel * panel_bytes(left.terms);
      std::fill(totals, totals + kPanel * kPanel, 0.0f);
      for (int64_t b = 0; b < std::max<int64_t>(1, scales.count); ++b) {
        const Left part = scales.step ? part_of(left, b * scales.step, scales.terms) : left;
        for (int64_t r = 0; r < rows; ++r)
          multiply_row(part, right + b * scales.step * kPanel, m + r, sums + r * kPanel);
        if (scales.step) add_scaled(sums, scales, b, m, n, 0, rows, totals);
      }
      finish(scales.step ? static_cast<void*>(totals) : sums, m, n, rows, out);
    }
}

void nothing() {}

Door portable(const char* name) {
  return {name, nothing, nothing, multiply, write_rows, write_strip, measure_columns, write_columns, write_tile, pack,
          pack_turned};
}

}  // namespace
}  // namespace pennyweight
