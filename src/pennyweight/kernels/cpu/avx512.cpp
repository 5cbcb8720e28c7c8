// Writing, turning and packing on 512-bit vectors; products are in vnni.cpp.
#include "door.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>

#include <cstring>
#include <type_traits>
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c")
#include "finish.h"

namespace pennyweight {

void multiply_vnni(const Left&, const int8_t* packed, int64_t from, int64_t to, int64_t first, int64_t last,
                   const Result&);  // vnni.cpp

namespace {

constexpr __mmask16 kAll = 0xffff;
constexpr int64_t kAhead = 4096;  // bytes: the processor's own prefetching stops at every page

template <Number number>
constexpr int64_t kSize = number == Number::fp32 ? 4 : 2;

// 16 numbers from `place`; where the mask has no bit: 0.
template <Number number>
inline __m512 load(const void* data, int64_t place, __mmask16 mask) {
  if constexpr (number == Number::fp32) return _mm512_maskz_loadu_ps(mask, static_cast<const float*>(data) + place);
  const auto* from = static_cast<const uint16_t*>(data) + place;
  const __m256i half = mask == kAll ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))
                                    : _mm256_maskz_loadu_epi16(mask, from);
  if constexpr (number == Number::fp16) return _mm512_cvtph_ps(half);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

// Asks for the line at `from`. GCC 12 drops a function that holds only prefetches before it inlines it; not this one.
inline void ask_for(const char* from) { asm volatile("prefetcht0 %0" : : "m"(*from)); }

inline __mmask16 rest_of(int64_t columns) { return columns >= 16 ? kAll : (1u << columns) - 1; }

// The larger magnitude, NaN where there is one: magnitudes sort as their bits do.
inline __m512i larger(__m512i most, __m512 x) {
  return _mm512_max_epu32(most, _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff)));
}

inline float largest_of(__m512i most) {
  const uint32_t bits = _mm512_reduce_max_epu32(most);
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// x / scale to the last bit, without a division: the residual makes up for the rounded reciprocal (Markstein 1990).
struct Divisor {
  __m512 scale, reciprocal;
  bool steep;  // near the ends of the range the residual is not exact

  explicit Divisor(__m512 by) : scale(by), reciprocal(_mm512_div_ps(_mm512_set1_ps(1.0f), by)) {
    steep = _mm512_cmp_ps_mask(by, _mm512_set1_ps(0x1p-90f), _CMP_LT_OQ) |
            _mm512_cmp_ps_mask(by, _mm512_set1_ps(0x1p90f), _CMP_GT_OQ);
  }

  template <bool exact>
  __m512i codes(__m512 x) const {
    if constexpr (exact) return _mm512_cvtps_epi32(_mm512_div_ps(x, scale));
    const __m512 q = _mm512_mul_ps(x, reciprocal);
    return _mm512_cvtps_epi32(_mm512_fmadd_ps(_mm512_fnmadd_ps(q, scale, x), reciprocal, q));
  }
};

template <Number number, bool folded>
inline __m512 product(const void* data, int64_t place, const float* fold, __mmask16 mask) {
  const __m512 x = load<number>(data, place, mask);
  return folded ? _mm512_mul_ps(x, _mm512_maskz_loadu_ps(mask, fold)) : x;
}

// The codes of one row, by one scale for all of it.
template <Number number, bool folded, bool exact>
inline void write_codes(const void* data, int64_t place, int64_t columns, const float* fold, const Divisor& by,
                        int8_t* codes) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  int64_t c = 0;
  for (; c + 64 <= columns; c += 64) {
    __m512i part[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
      part[i] = by.codes<exact>(product<number, folded>(data, place + c + 16 * i, fold + c + 16 * i, kAll));
    const __m512i low = _mm512_packs_epi32(part[0], part[1]), high = _mm512_packs_epi32(part[2], part[3]);
    _mm512_storeu_si512(codes + c, _mm512_permutexvar_epi32(order, _mm512_packs_epi16(low, high)));
  }
  for (; c < columns; c += 16) {
    const __mmask16 mask = rest_of(columns - c);
    const __m512i part = by.codes<exact>(product<number, folded>(data, place + c, fold + c, mask));
    _mm_mask_storeu_epi8(codes + c, mask, _mm512_cvtepi32_epi8(part));
  }
}

template <Number number, bool folded>
void write_row(const Matrix& x, int64_t r, const float* fold, float largest, int8_t* codes, float* scales) {
  const Group group(largest);
  scales[r] = group.stored;
  int8_t* to = codes + r * x.columns;
  if (!group.live) {
    std::memset(to, 0, x.columns);
    return;
  }
  const Divisor by(_mm512_set1_ps(group.stored));
  if (by.steep)
    write_codes<number, folded, true>(x.data, r * x.stride, x.columns, fold, by, to);
  else
    write_codes<number, folded, false>(x.data, r * x.stride, x.columns, fold, by, to);
}

template <Number number, bool folded>
void write_rows_of(const Matrix& x, const float* fold, int64_t first, int64_t last, int8_t* codes, float* scales) {
  for (int64_t r = first; r < last; ++r) {
    __m512i most = _mm512_setzero_si512(), second = most;
    int64_t c = 0;
    const auto* ahead = static_cast<const char*>(x.data) + r * x.stride * kSize<number> + kAhead;
    for (; c + 32 <= x.columns; c += 32) {
      for (int64_t line = 0; line < 32 * kSize<number>; line += 64) ask_for(ahead + c * kSize<number> + line);
      most = larger(most, product<number, folded>(x.data, r * x.stride + c, fold + c, kAll));
      second = larger(second, product<number, folded>(x.data, r * x.stride + c + 16, fold + c + 16, kAll));
    }
    for (; c < x.columns; c += 16)
      most = larger(most, product<number, folded>(x.data, r * x.stride + c, fold + c, rest_of(x.columns - c)));
    write_row<number, folded>(x, r, fold, largest_of(_mm512_max_epu32(most, second)), codes, scales);
  }
}

// Of `height` rows: the largest |x fold| of each, and, added to what is there, the columns' largest and sums.
template <Number number, int height>
inline void measure(const Matrix& x, const float* fold, const float* fold_down, int64_t r, float* largest, float* sum,
                    float* rows) {
  __m512i most[height];
  __m512 factor[height];
#pragma GCC unroll 8
  for (int i = 0; i < height; ++i) {
    most[i] = _mm512_setzero_si512();
    factor[i] = _mm512_set1_ps(fold_down[r + i]);
  }
  auto step = [&](int64_t c, __mmask16 mask) __attribute__((always_inline)) {
    __m512i column = _mm512_castps_si512(_mm512_maskz_loadu_ps(mask, largest + c));
    __m512 total = _mm512_maskz_loadu_ps(mask, sum + c);
    const __m512 across = fold ? _mm512_maskz_loadu_ps(mask, fold + c) : _mm512_set1_ps(1.0f);
#pragma GCC unroll 8
    for (int i = 0; i < height; ++i) {
      const __m512 y = load<number>(x.data, (r + i) * x.stride + c, mask);
      total = _mm512_add_ps(total, y);
      most[i] = larger(most[i], _mm512_mul_ps(y, across));
      column = larger(column, _mm512_mul_ps(y, factor[i]));
    }
    _mm512_mask_storeu_ps(largest + c, mask, _mm512_castsi512_ps(column));
    _mm512_mask_storeu_ps(sum + c, mask, total);
  };
  const int64_t whole = x.columns / 16 * 16;
  for (int64_t c = 0; c < whole; c += 16) step(c, kAll);
  if (whole < x.columns) step(whole, rest_of(x.columns - whole));
#pragma GCC unroll 8
  for (int i = 0; i < height; ++i) rows[i] = largest_of(most[i]);
}

template <Number number>
void write_strip_of(const Matrix& x, const float* fold, const float* fold_down, int64_t first, int64_t last,
                    int8_t* codes, float* scales, float* largest, float* sum) {
  constexpr int64_t height = 8;
  std::memset(largest, 0, x.columns * sizeof(float));
  std::memset(sum, 0, x.columns * sizeof(float));
  for (int64_t r = first; r < last; r += height) {
    const int64_t rows = last - r < height ? last - r : height;
    float most[height];
    if (rows == height)
      measure<number, height>(x, fold, fold_down, r, largest, sum, most);
    else
      for (int64_t i = 0; i < rows; ++i) measure<number, 1>(x, fold, fold_down, r + i, largest, sum, most + i);
    for (int64_t i = 0; i < rows; ++i) {
      if (fold)
        write_row<number, true>(x, r + i, fold, most[i], codes, scales);
      else
        write_row<number, false>(x, r + i, fold, most[i], codes, scales);
    }
  }
}

template <Number number>
void measure_columns_of(const Matrix& x, int64_t first, int64_t last, float* largest) {
  std::memset(largest, 0, x.columns * sizeof(float));
  for (int64_t r = first; r < last; ++r)
    for (int64_t c = 0; c < x.columns; c += 16) {
      const __mmask16 mask = rest_of(x.columns - c);
      const __m512i most = _mm512_castps_si512(_mm512_maskz_loadu_ps(mask, largest + c));
      const __m512 y = load<number>(x.data, r * x.stride + c, mask);
      _mm512_mask_storeu_ps(largest + c, mask, _mm512_castsi512_ps(larger(most, y)));
    }
}

// The divisors of 16 columns by their stored scales, and a bit for each column that has codes.
struct Columns {
  __mmask16 live;
  Divisor by;

  Columns(const float* scales, __mmask16 mask) : Columns(_mm512_maskz_loadu_ps(mask, scales)) {}
  explicit Columns(__m512 stored)
      : live(_mm512_cmp_ps_mask(stored, _mm512_setzero_ps(), _CMP_GT_OQ)),
        by(_mm512_mask_mov_ps(_mm512_set1_ps(1.0f), live, stored)) {}

  __m512i codes(__m512 y) const {
    return _mm512_maskz_mov_epi32(live, by.steep ? by.codes<true>(y) : by.codes<false>(y));
  }
};

template <Number number>
void write_columns_of(const Matrix& x, const float* scales, int64_t first, int64_t last, int8_t* codes) {
  for (int64_t c = 0; c < x.columns; c += 16) {
    const __mmask16 mask = rest_of(x.columns - c);
    const Columns columns(scales + c, mask);
    for (int64_t r = first; r < last; ++r) {
      const __m512 y = load<number>(x.data, r * x.stride + c, mask);
      _mm_mask_storeu_epi8(codes + r * x.columns + c, mask, _mm512_cvtepi32_epi8(columns.codes(y)));
    }
  }
}

// Four vectors of 16 codes, as 32-bit integers -> 16 words of four codes.
inline __m512i words(const __m512i* codes) {
  const __m512i even = _mm512_mask_blend_epi16(0xaaaaaaaa, codes[0], _mm512_slli_epi32(codes[2], 16));
  const __m512i odd = _mm512_mask_blend_epi16(0xaaaaaaaa, codes[1], _mm512_slli_epi32(codes[3], 16));
  return _mm512_mask_blend_epi8(0xaaaaaaaaaaaaaaaaull, even, _mm512_slli_epi16(odd, 8));
}

template <Number number>
void write_tile_of(const Matrix& x, const float* fold_down, const float* scales, int64_t i, int64_t j, int8_t* tile) {
  const int64_t first = i * kTerms, c = j * kTile, rows = x.rows - first;
  const __mmask16 mask = rest_of(x.columns - c);
  const Columns columns(scales + c, mask);
  __m512i word[16];
  if (rows >= kTerms && mask == kAll && !columns.by.steep) {
    const int64_t size = kSize<number>;
    const auto* data = static_cast<const char*>(x.data) + (first * x.stride + c) * size;
    const bool new_lines = c * size % 64 == 0;  // of the cache; the tiles behind them are fetched ahead
#pragma GCC unroll 4
    for (int64_t k = 0; k < 16; ++k) {
      __m512i code[4];
#pragma GCC unroll 4
      for (int64_t r = 4 * k; r < 4 * k + 4; ++r) {
        const char* from = data + r * x.stride * size;
        if (new_lines) ask_for(from + 128);
        const __m512 y = _mm512_mul_ps(load<number>(from, 0, kAll), _mm512_set1_ps(fold_down[first + r]));
        code[r % 4] = _mm512_maskz_mov_epi32(columns.live, columns.by.codes<false>(y));
      }
      word[k] = words(code);
    }
  } else {
    for (int64_t k = 0; k < 16; ++k) {
      __m512i code[4];
      for (int64_t r = 4 * k; r < 4 * k + 4; ++r) {
        code[r % 4] = _mm512_setzero_si512();
        if (r >= rows) continue;
        const __m512 y = load<number>(x.data, (first + r) * x.stride + c, mask);
        code[r % 4] = columns.codes(_mm512_mul_ps(y, _mm512_set1_ps(fold_down[first + r])));
      }
      word[k] = words(code);
    }
  }
  turn(word);
  for (int r = 0; r < 16; ++r) _mm512_stream_si512(reinterpret_cast<__m512i*>(tile + r * kTerms), word[r]);
}

void pack(const int8_t* codes, int64_t columns, int64_t terms, int64_t panel, int64_t block, int8_t* packed) {
  const int64_t k = block * kTerms, left = terms - k;
  const __mmask64 mask = left >= kTerms ? ~0ull : (1ull << left) - 1;
  int8_t* to = packed + panel * panel_bytes(terms) + k * kPanel;
  for (int64_t n = panel * kPanel; n < (panel + 1) * kPanel; n += kTile, to += kTile * kTerms) {
    __m512i rows[16];
    for (int64_t r = 0; r < 16; ++r) {
      const bool inside = n + r < columns;
      rows[r] = inside ? _mm512_maskz_loadu_epi8(mask, codes + (n + r) * terms + k) : _mm512_setzero_si512();
    }
    turn(rows);
    for (int r = 0; r < 16; ++r) _mm512_storeu_si512(to + r * 64, rows[r]);
  }
}

void pack_turned(const int8_t* codes, int64_t columns, int64_t terms, int64_t panel, int64_t block, int8_t* packed) {
  const int64_t n = panel * kPanel, first = block * kTerms;
  const __mmask32 mask = mask_of(columns - n);
  int8_t* to = packed + panel * panel_bytes(terms) + first * kPanel;
  for (int64_t k = first; k < first + kTerms; k += 4, to += 64) {
    __m256i row[4];
    for (int64_t r = 0; r < 4; ++r)
      row[r] = k + r < terms ? _mm256_maskz_loadu_epi8(mask, codes + (k + r) * columns + n) : _mm256_setzero_si256();
    const __m256i a = _mm256_unpacklo_epi8(row[0], row[1]), b = _mm256_unpackhi_epi8(row[0], row[1]);
    const __m256i c = _mm256_unpacklo_epi8(row[2], row[3]), d = _mm256_unpackhi_epi8(row[2], row[3]);
    // Columns 0-3 and 16-19, 4-7 and 20-23, 8-11 and 24-27, 12-15 and 28-31: the halves belong to two tiles.
    const __m256i e = _mm256_unpacklo_epi16(a, c), f = _mm256_unpackhi_epi16(a, c);
    const __m256i g = _mm256_unpacklo_epi16(b, d), h = _mm256_unpackhi_epi16(b, d);
    auto* low = reinterpret_cast<__m256i*>(to);
    auto* high = reinterpret_cast<__m256i*>(to + kTile * kTerms);
    _mm256_stream_si256(low, _mm256_permute2x128_si256(e, f, 0x20));
    _mm256_stream_si256(low + 1, _mm256_permute2x128_si256(g, h, 0x20));
    _mm256_stream_si256(high, _mm256_permute2x128_si256(e, f, 0x31));
    _mm256_stream_si256(high + 1, _mm256_permute2x128_si256(g, h, 0x31));
  }
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
  by_number(x, [&](auto number) {
    if (fold)
      write_rows_of<number(), true>(x, fold, first, last, codes, scales);
    else
      write_rows_of<number(), false>(x, fold, first, last, codes, scales);
  });
}

void write_strip(const Matrix& x, const float* fold, const float* fold_down, int64_t first, int64_t last, int8_t* codes,
                 float* scales, float* largest, float* sum) {
  by_number(x, [&](auto number) {
    write_strip_of<number()>(x, fold, fold_down, first, last, codes, scales, largest, sum);
  });
}

void measure_columns(const Matrix& x, int64_t first, int64_t last, float* largest) {
  by_number(x, [&](auto number) { measure_columns_of<number()>(x, first, last, largest); });
}

void write_columns(const Matrix& x, const float* scales, int64_t first, int64_t last, int8_t* codes) {
  by_number(x, [&](auto number) { write_columns_of<number()>(x, scales, first, last, codes); });
}

void write_tile(const Matrix& x, const float* fold_down, const float* scales, int64_t i, int64_t j, int8_t* tile) {
  by_number(x, [&](auto number) { write_tile_of<number()>(x, fold_down, scales, i, j, tile); });
}

void nothing() {}

}  // namespace

const Door* avx512() {
  static const Door door = {"AVX-512 VNNI",  nothing,       nothing,    multiply_vnni, write_rows, write_strip,
                            measure_columns, write_columns, write_tile, pack,          pack_turned};
  __builtin_cpu_init();
  const bool able = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vnni");
  return able ? &door : nullptr;
}

}  // namespace pennyweight
#else
namespace pennyweight {
const Door* avx512() { return nullptr; }
}  // namespace pennyweight
#endif
