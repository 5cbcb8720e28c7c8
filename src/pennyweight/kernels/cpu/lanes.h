// Small words for 512-bit vectors, included by files that have asked the compiler for them (`#pragma GCC target`).
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace pennyweight {
namespace {

inline __m512 set(float x) { return _mm512_set1_ps(x); }
inline __m512i set_bits(uint32_t x) { return _mm512_set1_epi32(int32_t(x)); }

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// Of the `size` elements from here on, which of a vector's 16 there are.
inline __mmask16 rest_of(int64_t size) { return size >= 16 ? 0xffff : size <= 0 ? 0 : (1u << size) - 1; }

// 16 codes as numbers; where the mask has no bit: 0.
inline __m512 codes_at(const int8_t* codes, __mmask16 mask) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, codes)));
}

// The bits of |x|, which sort as magnitudes do; NaN above all.
inline __m512i magnitude_of(__m512 x) { return _mm512_and_si512(_mm512_castps_si512(x), set_bits(0x7fffffff)); }

}  // namespace
}  // namespace pennyweight
