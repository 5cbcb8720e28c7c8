// Tiles of bf16 for attention: how matrices are cut into them, products of them, and exp2 on 512-bit vectors.
// Included behind the target pragma of its users.
//
// A tile is 16 rows of 64 bytes. As a left operand it is 16 rows x 32 terms; as a right operand 16 pairs of terms x 16
// columns x 2 terms. Four products at a time make a block of 32 x 32 sums.
#pragma once
#include <immintrin.h>

#include <cstring>

#include "attention.h"
#include "finish.h"

namespace pennyweight {
namespace {

constexpr int64_t kBytes = 1024;  // of a tile
constexpr int64_t kBlock = 32;    // rows and columns of a block of sums
constexpr float kLog2e = 0x1.715476p0f;

inline int64_t rounded_up(int64_t size, int64_t to) { return (size + to - 1) / to * to; }

// 2^x with a relative error below 2^-22; 2^-inf = 0, NaN stays. The polynomial is the one of degree 5 through 1 at 0
// whose largest relative error on [0, 1] is the smallest.
inline __m512 exp2(__m512 x) {
  const __m512 f = _mm512_reduce_ps(x, 1);  // x - floor(x)
  __m512 p = _mm512_set1_ps(0.0018671300495043397f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.009017030708491802f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.05579991266131401f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.24016444385051727f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.6931512951850891f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, x);  // times 2^floor(x)
}

// The logarithm to base 2 of positive normal numbers, by two steps of Newton: an error of about 2^-21.
inline __m512 log2(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f), rate = _mm512_set1_ps(kLog2e);
  __m512 y = _mm512_sub_ps(_mm512_getmant_ps(x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src), _mm512_set1_ps(0.957f));
  y = _mm512_add_ps(y, _mm512_getexp_ps(x));
  for (int step = 0; step < 2; ++step) {
    const __m512 ratio = _mm512_mul_ps(x, exp2(_mm512_sub_ps(_mm512_setzero_ps(), y)));
    y = _mm512_fmadd_ps(_mm512_sub_ps(ratio, one), rate, y);
  }
  return y;
}

// Words of 16 bits of `even` and `odd` in turn, of their lower and of their upper halves.
inline __m512i zip_low(__m512i even, __m512i odd) {
  alignas(64) static constexpr uint16_t order[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                     8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  return _mm512_permutex2var_epi16(even, _mm512_load_si512(order), odd);
}

inline __m512i zip_high(__m512i even, __m512i odd) {
  alignas(64) static constexpr uint16_t order[32] = {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
                                                     24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63};
  return _mm512_permutex2var_epi16(even, _mm512_load_si512(order), odd);
}

inline void turn_tile(const uint8_t* from, uint8_t* to) {
  __m512i words[16];
  for (int r = 0; r < 16; ++r) words[r] = _mm512_load_si512(from + r * 64);
  turn(words);
  for (int r = 0; r < 16; ++r) _mm512_store_si512(to + r * 64, words[r]);
}

// Rows [first, first + 32) of a matrix of `size` columns as two rows of left tiles, tile (i, j) at (i * size / 32 + j);
// zeros stand behind its last row.
inline void cut_rows(const uint16_t* x, int64_t stride, int64_t first, int64_t rows, int64_t size, uint8_t* tiles) {
  const int64_t across = size / 32;
  for (int64_t r = 0; r < kBlock; ++r)
    for (int64_t j = 0; j < across; ++j) {
      const bool there = first + r < rows;
      const __m512i row = there ? _mm512_loadu_si512(x + (first + r) * stride + j * 32) : _mm512_setzero_si512();
      _mm512_store_si512(tiles + ((r / 16) * across + j) * kBytes + r % 16 * 64, row);
    }
}

// The left tiles of `cut_rows`, turned: right tiles of the product that sums over the columns. May be done in place.
inline void turn_rows(const uint8_t* rows, int64_t size, uint8_t* tiles) {
  for (int64_t tile = 0; tile < size / 16; ++tile) turn_tile(rows + tile * kBytes, tiles + tile * kBytes);
}

// The left tiles of `cut_rows` as right tiles of a product that sums over these 32 rows, one for each 16 columns.
inline void pair_rows(const uint8_t* rows, int64_t size, uint8_t* tiles) {
  const int64_t across = size / 32;
  for (int64_t r = 0; r < kBlock; r += 2)
    for (int64_t j = 0; j < across; ++j) {
      const uint8_t* from = rows + ((r / 16) * across + j) * kBytes + r % 16 * 64;
      const __m512i even = _mm512_load_si512(from), odd = _mm512_load_si512(from + 64);
      _mm512_store_si512(tiles + 2 * j * kBytes + r / 2 * 64, zip_low(even, odd));
      _mm512_store_si512(tiles + (2 * j + 1) * kBytes + r / 2 * 64, zip_high(even, odd));
    }
}

// 64 bytes of a result, past the caches where they lie well: nobody here reads them again.
inline void stream(uint16_t* to, __m512i numbers) {
  if (reinterpret_cast<uintptr_t>(to) % 64 == 0)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), numbers);
  else
    _mm512_storeu_si512(to, numbers);
}

// Two tiles that a block of sums takes at a time, and the bytes to the next two.
struct Pair {
  const uint8_t *first, *second;
  int64_t step;
};

inline void zero_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

inline void add_products(const Pair& left, const Pair& right, int64_t steps) {
  asm volatile("" : : : "memory");
  for (int64_t s = 0; s < steps; ++s) {
    _tile_loadd(6, right.first + s * right.step, 64);
    _tile_loadd(4, left.first + s * left.step, 64);
    _tile_loadd(7, right.second + s * right.step, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, left.second + s * left.step, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
}

// Sums [32, 32] whose rows lie `stride` floats apart.
inline void load_sums(const float* sums, int64_t stride) {
  asm volatile("" : : : "memory");
  _tile_loadd(0, sums, stride * 4);
  _tile_loadd(1, sums + 16, stride * 4);
  _tile_loadd(2, sums + 16 * stride, stride * 4);
  _tile_loadd(3, sums + 16 * stride + 16, stride * 4);
}

inline void store_sums(float* sums, int64_t stride) {
  _tile_stored(0, sums, stride * 4);
  _tile_stored(1, sums + 16, stride * 4);
  _tile_stored(2, sums + 16 * stride, stride * 4);
  _tile_stored(3, sums + 16 * stride + 16, stride * 4);
  asm volatile("" : : : "memory");
}

// Sums [size, 32 rows] times the row's factor -> those of the 32 rows that exist, bf16 [rows, size].
inline void write_turned(const float* sums, int64_t size, __m512 low, __m512 high, uint16_t* to, int64_t stride,
                         int64_t rows) {
  for (int64_t d = 0; d < size; d += 32)
    for (int64_t half = 0; half < 2; ++half) {
      const __m512 factor = half ? high : low;
      __m512i left[16], right[16];
      for (int64_t r = 0; r < 16; ++r) {
        const float* from = sums + (d + r) * kBlock + half * 16;
        left[r] = (__m512i)_mm512_mul_ps(_mm512_load_ps(from), factor);
        right[r] = (__m512i)_mm512_mul_ps(_mm512_load_ps(from + 16 * kBlock), factor);
      }
      turn(left);
      turn(right);
      for (int64_t r = 0; r < 16 && half * 16 + r < rows; ++r)
        stream(to + (half * 16 + r) * stride + d, to_bf16((__m512)left[r], (__m512)right[r]));
    }
}

}  // namespace
}  // namespace pennyweight
