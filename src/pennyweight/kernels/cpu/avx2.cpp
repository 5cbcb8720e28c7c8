// The reference's loops on 256-bit vectors, and products on AVX2: 8 sums of 2 terms an instruction.
#include "door.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#pragma GCC target("avx2,fma")
#include "portable.h"

#include "blocked.h"

namespace pennyweight {
namespace {

// Codes are widened to 16 bits, so that no sum of two products saturates; a column's terms lie in two sums.
struct Pairs {
  using Word = int64_t;
  using Vector = __m256i;
  static constexpr int64_t kRows = 6, kHeight = 30, kColumns = 4;
  static constexpr bool kShift = false;

  static Vector zero() { return _mm256_setzero_si256(); }
  static Vector load(const int8_t* from) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static Vector add(Vector sums, Word word, Vector codes) {
    return _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_set1_epi64x(word), codes));
  }
  static void read(const int8_t* codes, Word* words) {
    for (int64_t i = 0; i < kTerms; i += kTile)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(words + i / 4), load(codes + i));
  }
  static void store(const Vector* total, const int32_t*, bool again, int32_t* sums) {
    auto* to = reinterpret_cast<__m256i*>(sums);
    const Vector sum = _mm256_permute4x64_epi64(_mm256_hadd_epi32(total[0], total[1]), 0xd8);
    _mm256_store_si256(to, _mm256_add_epi32(again ? _mm256_load_si256(to) : zero(), sum));
  }
};

Door made() {
  Door door = portable("AVX2");
  door.multiply = Blocked<Pairs>::multiply;
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
