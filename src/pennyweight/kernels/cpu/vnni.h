// Products of int8 codes on AVX-512 VNNI: 16 sums of 4 terms an instruction. Included behind its user's target pragma.
#pragma once
#include <cstring>

#include "finish.h"

namespace pennyweight {
namespace {

constexpr int64_t kRows = 8;  // of the left operand at once: with two vectors of columns, 16 of the 32 registers

// The first `terms` of 4 codes as one word, zeros behind them.
inline int32_t word_of(const int8_t* from, int64_t terms) {
  int32_t word = 0;
  for (int64_t i = 0; i < terms; ++i) word |= int32_t(uint8_t(from[i])) << 8 * i;
  return word;
}

// The instruction takes its left operand without a sign: 128 is added to every code, and 128 times the sum of the right
// operand taken off at the end.
inline void multiply_rows(const Left& left, const int8_t* right, int64_t m, int64_t rows, int32_t* sums) {
  __m512i total[kRows][2], excess[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
  const __m512i shift = _mm512_set1_epi8(-128);
#pragma GCC unroll 8
  for (int64_t r = 0; r < kRows; ++r) total[r][0] = total[r][1] = _mm512_setzero_si512();
  const int8_t* row[kRows];
#pragma GCC unroll 8
  for (int64_t r = 0; r < kRows; ++r) {
    const int64_t i = r < rows ? m + r : m;
    row[r] = left.data + i / kTile * left.down + i % kTile * left.stride;
  }
  auto step = [&](int64_t k, int64_t terms) __attribute__((always_inline)) {
    const int8_t* from = right + k / kTerms * kTerms * kPanel + k % kTerms / 4 * 64;
    const int64_t place = k / kTerms * left.across + k % kTerms;
    const __m512i low = _mm512_loadu_si512(from), high = _mm512_loadu_si512(from + kTile * kTerms);
    excess[0] = _mm512_dpbusd_epi32(excess[0], shift, low);
    excess[1] = _mm512_dpbusd_epi32(excess[1], shift, high);
#pragma GCC unroll 8
    for (int64_t r = 0; r < kRows; ++r) {
      int32_t word;
      if (terms == 4)
        std::memcpy(&word, row[r] + place, 4);
      else
        word = word_of(row[r] + place, terms);
      const __m512i codes = _mm512_xor_si512(shift, _mm512_set1_epi32(word));
      total[r][0] = _mm512_dpbusd_epi32(total[r][0], codes, low);
      total[r][1] = _mm512_dpbusd_epi32(total[r][1], codes, high);
    }
  };
  const int64_t whole = left.terms / 4 * 4;
  for (int64_t k = 0; k < whole; k += 4) step(k, 4);
  if (whole < left.terms) step(whole, left.terms - whole);
#pragma GCC unroll 8
  for (int64_t r = 0; r < kRows; ++r) {
    _mm512_store_si512(sums + r * kPanel, _mm512_sub_epi32(total[r][0], excess[0]));
    _mm512_store_si512(sums + r * kPanel + 16, _mm512_sub_epi32(total[r][1], excess[1]));
  }
}

void multiply(const Left& left, const int8_t* packed, int64_t from, int64_t to, int64_t first, int64_t last,
              const Result& out) {
  alignas(64) int32_t sums[kPanel * kPanel];
  for (int64_t m = first; m < last; m += kPanel)
    for (int64_t panel = from; panel < to; ++panel) {
      const int64_t rows = last - m < kPanel ? last - m : kPanel;
      for (int64_t r = 0; r < rows; r += kRows)
        multiply_rows(left, packed + panel * panel_bytes(left.terms), m + r, rows - r, sums + r * kPanel);
      Finish(sums, m, panel * kPanel, rows, out).end();
    }
}

}  // namespace
}  // namespace pennyweight
