// Products of int8 codes on AVX-512 VNNI: 16 sums of 4 terms an instruction.
#include "door.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")
#include "finish.h"

#include "blocked.h"

namespace pennyweight {
namespace {

// The instruction takes its left operand without a sign, hence the shift.
struct Vnni {
  using Word = int32_t;
  using Vector = __m512i;
  static constexpr int64_t kRows = 8, kHeight = kPanel, kColumns = 16;
  static constexpr bool kShift = true;

  static Vector zero() { return _mm512_setzero_si512(); }
  static Vector load(const int8_t* from) { return _mm512_loadu_si512(from); }
  static Vector add(Vector sums, Word word, Vector codes) {
    // Not the compiler's own: GCC 12 copies the sums around it when there are many.
    asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(_mm512_set1_epi32(word)), "v"(codes));
    return sums;
  }
  static Vector shift(Vector sums, Vector codes) { return _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(-128), codes); }
  static void read(const int8_t* codes, Word* words) {
    _mm512_storeu_si512(words, _mm512_xor_si512(_mm512_loadu_si512(codes), _mm512_set1_epi8(-128)));
  }
  static void store(const Vector* total, const int32_t* excess, bool again, int32_t* sums) {
    for (int v = 0; v < 2; ++v) {
      const Vector sum = _mm512_sub_epi32(total[v], _mm512_loadu_si512(excess + 16 * v));
      const Vector before = again ? _mm512_load_si512(sums + 16 * v) : zero();
      _mm512_store_si512(sums + 16 * v, _mm512_add_epi32(before, sum));
    }
  }
};

}  // namespace

void multiply_vnni(const Left& left, const int8_t* packed, int64_t from, int64_t to, int64_t first, int64_t last,
                   const Result& out) {
  Blocked<Vnni>::multiply(left, packed, from, to, first, last, out);
}

}  // namespace pennyweight
#endif
