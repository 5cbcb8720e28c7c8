// AVX2, and its products on VNNI instructions: 8 sums of 4 terms an instruction.
#include "door.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 11
#include <immintrin.h>
#pragma GCC target("avx2,fma,avxvnni")
#include "portable.h"

#include "blocked.h"

namespace pennyweight {
namespace {

// The instruction takes its left operand without a sign, hence the shift.
struct Vnni {
  using Word = int32_t;
  using Vector = __m256i;
  static constexpr int64_t kRows = 6, kHeight = 30, kColumns = 8;
  static constexpr bool kShift = true;

  static Vector zero() { return _mm256_setzero_si256(); }
  static Vector load(const int8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
  static Vector add(Vector sums, Word word, Vector codes) {
    return _mm256_dpbusd_avx_epi32(sums, _mm256_set1_epi32(word), codes);
  }
  static Vector shift(Vector sums, Vector codes) {
    return _mm256_dpbusd_avx_epi32(sums, _mm256_set1_epi8(-128), codes);
  }
  static void read(const int8_t* codes, Word* words) {
    for (int64_t i = 0; i < kTerms; i += 32) {
      const Vector shifted = _mm256_xor_si256(load(codes + i), _mm256_set1_epi8(-128));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(words + i / 4), shifted);
    }
  }
  static void store(const Vector* total, const int32_t* excess, bool again, int32_t* sums) {
    for (int v = 0; v < 2; ++v) {
      auto* to = reinterpret_cast<__m256i*>(sums) + v;
      const Vector over = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(excess) + v);
      const Vector before = again ? _mm256_load_si256(to) : zero();
      _mm256_store_si256(to, _mm256_add_epi32(before, _mm256_sub_epi32(total[v], over)));
    }
  }
};

Door made() {
  Door door = *avx2();
  door.name = "AVX-VNNI";
  door.multiply = Blocked<Vnni>::multiply;
  return door;
}

}  // namespace

const Door* avxvnni() {
  __builtin_cpu_init();
  if (!avx2() || !__builtin_cpu_supports("avxvnni")) return nullptr;
  static const Door door = made();
  return &door;
}

}  // namespace pennyweight
#else
namespace pennyweight {
const Door* avxvnni() { return nullptr; }
}  // namespace pennyweight
#endif
