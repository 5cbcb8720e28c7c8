// 32 x 32 blocks of sums, scaled and stored, on 512-bit vectors. Included behind the target pragma of its users.
#pragma once
#include <immintrin.h>

#include "door.h"

namespace pennyweight {
namespace {

// 16 numbers -> bf16, to nearest, subnormal numbers to zero: what the processors' own instruction does.
inline __m256i rounded(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  up = _mm512_mask_or_epi32(up, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), bits, _mm512_set1_epi32(64 << 16));
  const __mmask16 small = _mm512_testn_epi32_mask(bits, _mm512_set1_epi32(0x7f800000));
  up = _mm512_mask_and_epi32(up, small, bits, _mm512_set1_epi32(0x80000000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16));
}

inline __m512i to_bf16(__m512 low, __m512 high) {
#ifdef PENNYWEIGHT_BF16
  return (__m512i)_mm512_cvtne2ps_pbh(high, low);
#else
  return _mm512_inserti64x4(_mm512_castsi256_si512(rounded(low)), rounded(high), 1);
#endif
}

// 16 x 16 words of 32 bits, turned in place.
inline void turn(__m512i* rows) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    rows[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    rows[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    rows[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    rows[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(rows[i], rows[4 + i], 0x88);
    t[4 + i] = _mm512_shuffle_i32x4(rows[i], rows[4 + i], 0xdd);
    t[8 + i] = _mm512_shuffle_i32x4(rows[8 + i], rows[12 + i], 0x88);
    t[12 + i] = _mm512_shuffle_i32x4(rows[8 + i], rows[12 + i], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
    rows[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
    rows[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
    rows[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
  }
}

inline uint32_t mask_of(int64_t width) { return width >= 32 ? ~0u : (1u << width) - 1; }

inline void store(const Result& out, int64_t place, uint32_t mask, __m512 low, __m512 high) {
  if (out.number == Number::bf16) {
    if (mask == ~0u && place % 32 == 0 && reinterpret_cast<uintptr_t>(out.data) % 64 == 0) {
      _mm512_stream_si512(reinterpret_cast<__m512i*>(static_cast<uint16_t*>(out.data) + place), to_bf16(low, high));
      return;
    }
    _mm512_mask_storeu_epi16(static_cast<uint16_t*>(out.data) + place, mask, to_bf16(low, high));
  } else {
    float* to = static_cast<float*>(out.data) + place;
    _mm512_mask_storeu_ps(to, mask & 0xffff, low);
    _mm512_mask_storeu_ps(to + 16, mask >> 16, high);
  }
}

inline void store_turned(float* values, int64_t m, int64_t n, int64_t rows, int64_t width, const Result& out) {
  for (int64_t half = 0; half < 2; ++half) {
    __m512i low[16], high[16];
    for (int64_t r = 0; r < 16; ++r) {
      low[r] = _mm512_load_si512(values + r * kPanel + half * 16);
      high[r] = _mm512_load_si512(values + (16 + r) * kPanel + half * 16);
    }
    turn(low);
    turn(high);
    for (int64_t c = 0; c < 16 && half * 16 + c < width; ++c)
      store(out, (n + half * 16 + c) * out.stride + m, mask_of(rows), _mm512_castsi512_ps(low[c]),
            _mm512_castsi512_ps(high[c]));
  }
}

// Rows [first, last) of the sums [32, 32] of block b, of rows m .. and columns n .., times their scales, to totals.
inline void add_scaled(const int32_t* sums, const Blocks& blocks, int64_t b, int64_t m, int64_t n, int64_t first,
                       int64_t last, float* totals) {
  const float *row = blocks.row + m * blocks.count + b, *column = blocks.column + b * blocks.columns + n;
  const __m512 low = _mm512_loadu_ps(column), high = _mm512_loadu_ps(column + 16);
  for (int64_t r = first; r < last; ++r) {
    const __m512 scale = _mm512_set1_ps(row[r * blocks.count]);
    const int32_t* sum = sums + r * kPanel;
    float* total = totals + r * kPanel;
    const __m512 left = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sum)), scale);
    const __m512 right = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sum + 16)), scale);
    _mm512_store_ps(total, _mm512_fmadd_ps(left, low, _mm512_load_ps(total)));
    _mm512_store_ps(total + 16, _mm512_fmadd_ps(right, high, _mm512_load_ps(total + 16)));
  }
}

// Sums [32, 32] of rows m .. and columns n .. on their way to the result, some rows at a time: so that the next block's
// products can run meanwhile. The sums are used up.
class Finish {
 public:
  Finish(int32_t* sums, int64_t m, int64_t n, int64_t rows, const Result& out)
      : sums_(sums), m_(m), n_(n), rows_(rows), width_(out.columns - n < kPanel ? out.columns - n : kPanel), out_(&out) {
    mask_ = mask_of(width_);
    const __mmask16 low = mask_ & 0xffff, high = mask_ >> 16;
    column_[0] = out.column ? _mm512_maskz_loadu_ps(low, out.column + n) : _mm512_set1_ps(1.0f);
    column_[1] = out.column ? _mm512_maskz_loadu_ps(high, out.column + n + 16) : _mm512_set1_ps(1.0f);
    bias_[0] = out.bias ? _mm512_maskz_loadu_ps(low, out.bias + n) : _mm512_setzero_ps();
    bias_[1] = out.bias ? _mm512_maskz_loadu_ps(high, out.bias + n + 16) : _mm512_setzero_ps();
  }

  // Rows up to `last` that are not done yet.
  inline void rows(int64_t last) {
    for (last = last < rows_ ? last : rows_; done_ < last; ++done_) {
      const __m512 row = _mm512_set1_ps(out_->row[m_ + done_]);
      const __m512 low = value(0, row), high = value(1, row);
      if (out_->turned) {
        _mm512_store_ps(sums_ + done_ * kPanel, low);
        _mm512_store_ps(sums_ + done_ * kPanel + 16, high);
      } else {
        store(*out_, (m_ + done_) * out_->stride + n_, mask_, low, high);
      }
    }
  }

  void end() {
    rows(rows_);
    if (out_->turned) store_turned(reinterpret_cast<float*>(sums_), m_, n_, rows_, width_, *out_);
  }

 private:
  inline __m512 value(int half, __m512 row) const {
    const __m512 total = _mm512_cvtepi32_ps(_mm512_load_si512(sums_ + done_ * kPanel + half * 16));
    return _mm512_fmadd_ps(_mm512_mul_ps(total, row), column_[half], bias_[half]);
  }

  int32_t* sums_;
  int64_t m_, n_, rows_, width_, done_ = 0;
  const Result* out_;
  uint32_t mask_;
  __m512 column_[2], bias_[2];
};

// Totals [32, 32] of blocks on their way to a result that is not turned.
inline void finish_totals(const float* totals, int64_t m, int64_t n, int64_t rows, const Result& out) {
  const uint32_t mask = mask_of(out.columns - n);
  __m512 low = _mm512_setzero_ps(), high = low;
  if (out.bias) {
    low = _mm512_maskz_loadu_ps(mask & 0xffff, out.bias + n);
    high = _mm512_maskz_loadu_ps(mask >> 16, out.bias + n + 16);
  }
  for (int64_t r = 0; r < rows; ++r, totals += kPanel)
    store(out, (m + r) * out.stride + n, mask, _mm512_add_ps(_mm512_load_ps(totals), low),
          _mm512_add_ps(_mm512_load_ps(totals + 16), high));
}

inline void finish(void* sums, int64_t m, int64_t n, int64_t rows, const Result& out) {
  if (out.row)
    Finish(static_cast<int32_t*>(sums), m, n, rows, out).end();
  else
    finish_totals(static_cast<float*>(sums), m, n, rows, out);
}

}  // namespace
}  // namespace pennyweight
