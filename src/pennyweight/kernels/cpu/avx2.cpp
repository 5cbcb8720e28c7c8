// Plain C++ as the compiler makes it for 256-bit vectors, and products on the byte instructions of AVX2.
#include <cmath>
#include <cstring>

#include "door.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#pragma GCC target("avx2,fma")
#include "portable.h"

namespace pennyweight {
namespace {

// The first `terms` of 4 codes of row m as one word, zeros behind them.
inline int32_t word_of(const Left& left, int64_t m, int64_t k) {
  const int8_t* row = left.data + m / kTile * left.down + m % kTile * left.stride + k / kTerms * left.across + k % kTerms;
  int32_t word = 0;
  std::memcpy(&word, row, left.terms - k < 4 ? left.terms - k : 4);
  return word;
}

// Two rows times one panel. 16 bits hold two products of codes, 2 * 127 * 127, so no sum saturates.
inline void multiply_pair(const Left& left, const int8_t* right, int64_t m, int64_t rows, int32_t (*sums)[kPanel]) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i total[2][4];
  for (int r = 0; r < 2; ++r)
    for (int v = 0; v < 4; ++v) total[r][v] = _mm256_setzero_si256();
  for (int64_t k = 0; k < left.terms; k += 4) {
    const __m256i a[2] = {_mm256_set1_epi32(word_of(left, m, k)), _mm256_set1_epi32(word_of(left, m + rows - 1, k))};
    for (int v = 0; v < 4; ++v) {
      const int8_t* from = right + packed_place(v * 8, k);
      const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
      for (int r = 0; r < 2; ++r) {
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(a[r]), _mm256_sign_epi8(b, a[r]));
        total[r][v] = _mm256_add_epi32(total[r][v], _mm256_madd_epi16(pairs, ones));
      }
    }
  }
  for (int r = 0; r < 2; ++r)
    for (int v = 0; v < 4; ++v) _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums[r] + 8 * v), total[r][v]);
}

void multiply_by_pairs(const Left& left, const int8_t* packed, int64_t from, int64_t to, int64_t first, int64_t last,
                       const Result& out) {
  int32_t sums[2][kPanel];
  for (int64_t m = first; m < last; m += 2)
    for (int64_t panel = from; panel < to; ++panel) {
      const int64_t rows = last - m < 2 ? 1 : 2;
      multiply_pair(left, packed + panel * panel_bytes(left.terms), m, rows, sums);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < kPanel && panel * kPanel + c < out.columns; ++c)
          put(out, m + r, panel * kPanel + c, sums[r][c]);
    }
}

Door made() {
  Door door = portable("AVX2");
  door.multiply = multiply_by_pairs;
  return door;
}

}  // namespace

const Door* avx2() {
  static const Door door = made();
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &door : nullptr;
}

}  // namespace pennyweight
#else
namespace pennyweight {
const Door* avx2() { return nullptr; }
}  // namespace pennyweight
#endif
