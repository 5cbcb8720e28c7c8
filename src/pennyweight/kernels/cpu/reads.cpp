// Reading rows of codes on 512-bit vectors, and one number after the other where there are none.
#include "reads.h"

#include <cstring>

#include "door.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl")
#include "lanes.h"

namespace pennyweight {
namespace {

// To nearest, ties to even.
inline __m256i bf16_of(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), set_bits(1));
  const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, set_bits(0x7fff)), odd);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16));
}

template <bool bf16>
void read_vectors(const int8_t* codes, float scale, int64_t size, void* to) {
  for (int64_t k = 0; k < size; k += 16) {
    const __mmask16 mask = rest_of(size - k);
    const __m512 x = _mm512_mul_ps(codes_at(codes + k, mask), set(scale));
    if (bf16)
      _mm256_mask_storeu_epi16(static_cast<uint16_t*>(to) + k, mask, bf16_of(x));
    else
      _mm512_mask_storeu_ps(static_cast<float*>(to) + k, mask, x);
  }
}

}  // namespace
}  // namespace pennyweight
#pragma GCC pop_options
#define PENNYWEIGHT_VECTORS
#endif

namespace pennyweight {
namespace {

void read_numbers(const int8_t* codes, float scale, int64_t size, bool bf16, void* to) {
  for (int64_t k = 0; k < size; ++k) {
    const float x = codes[k] * scale;
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if (bf16)
      static_cast<uint16_t*>(to)[k] = uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    else
      static_cast<float*>(to)[k] = x;
  }
}

}  // namespace

void read_rows(const int8_t* codes, const float* scales, int64_t columns, int64_t first, int64_t last, bool bf16,
               void* to) {
  for (int64_t r = first; r < last; ++r) {
    const int8_t* from = codes + r * columns;
    void* row = static_cast<char*>(to) + r * columns * (bf16 ? 2 : 4);
#ifdef PENNYWEIGHT_VECTORS
    if (taken() == amx() || taken() == avx512()) {
      bf16 ? read_vectors<true>(from, scales[r], columns, row) : read_vectors<false>(from, scales[r], columns, row);
      continue;
    }
#endif
    read_numbers(from, scales[r], columns, bf16, row);
  }
}

}  // namespace pennyweight
