// The codes of a weight without a master copy on 512-bit vectors: one run of a row after the other.
#include "stored.h"

#include "door.h"
#include "moments.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma,popcnt")
#include "lanes.h"

namespace pennyweight {
namespace {

constexpr int64_t kAhead = 4096;  // codes, and bytes: the next chunk's are asked for while this one's are read
constexpr int kFloor = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC, kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

// Calls run(row, column, size, place) for each piece of a row among elements [first, last), `place` counted from first.
template <class Run>
__attribute__((always_inline)) inline void each_run(const StoredWeight& w, int64_t first, int64_t last, const Run& run) {
  int64_t row = first / w.columns, column = first % w.columns;
  for (int64_t at = first; at < last; ++row, column = 0) {
    const int64_t size = std::min(last - at, w.columns - column);
    run(row, column, size, at - first);
    at += size;
  }
}

// One number for each of 16 outputs, or the one of a row.
template <bool turned>
inline __m512 of_outputs(const float* numbers, int64_t row, int64_t column, __mmask16 mask) {
  return turned ? _mm512_maskz_loadu_ps(mask, numbers + column) : set(numbers[row]);
}

inline __m512i mix32(__m512i x) {
  x = _mm512_mullo_epi32(_mm512_xor_si512(x, _mm512_srli_epi32(x, 16)), set_bits(0x7feb352d));
  x = _mm512_mullo_epi32(_mm512_xor_si512(x, _mm512_srli_epi32(x, 15)), set_bits(0x846ca68b));
  return _mm512_xor_si512(x, _mm512_srli_epi32(x, 16));
}

// noise.py's `uniform` of elements whose indices are below 2^32.
inline __m512 uniform(uint64_t key, __m512i index) {
  const __m512i x = mix32(_mm512_xor_si512(index, set_bits(uint32_t(key))));
  const __m512i word = mix32(_mm512_add_epi32(x, set_bits(uint32_t(key >> 32))));
  return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_srli_epi32(word, 8)), set(0x1p-24f));
}

template <bool turned>
void read_runs(const StoredWeight& w, int64_t first, int64_t last, float* work) {
  each_run(w, first, last, [&](int64_t row, int64_t column, int64_t size, int64_t place) __attribute__((always_inline)) {
    const int8_t* codes = w.codes + first + place;
    for (int64_t k = 0; k < size; k += 16) {
      if (k % 64 == 0) __builtin_prefetch(codes + k + kAhead, 1);
      const __mmask16 mask = rest_of(size - k);
      const __m512 scale = of_outputs<turned>(w.scales, row, column + k, mask);
      _mm512_mask_storeu_ps(work + place + k, mask, _mm512_mul_ps(codes_at(codes + k, mask), scale));
    }
  });
}

template <bool turned>
void measure_runs(const StoredWeight& w, int64_t first, int64_t last, const float* work, uint32_t* largest) {
  each_run(w, first, last, [&](int64_t row, int64_t column, int64_t size, int64_t place) __attribute__((always_inline)) {
    __m512i most = _mm512_setzero_si512();
    for (int64_t k = 0; k < size; k += 16) {
      const __mmask16 mask = rest_of(size - k);
      const __m512i here = magnitude_of(_mm512_maskz_loadu_ps(mask, work + place + k));
      uint32_t* of = largest + column + k;
      if (turned) _mm512_mask_storeu_epi32(of, mask, _mm512_max_epu32(here, _mm512_maskz_loadu_epi32(mask, of)));
      most = _mm512_max_epu32(most, here);
    }
    if (!turned) largest[row] = std::max<uint32_t>(largest[row], _mm512_reduce_max_epu32(most));
  });
}

template <bool turned, bool power, bool noisy>
Moves write_runs(const StoredWeight& w, int64_t first, int64_t last, const float* work) {
  Moves total;
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i steps = turned ? _mm512_mullo_epi32(lanes, set_bits(uint32_t(w.rows))) : lanes;
  each_run(w, first, last, [&](int64_t row, int64_t column, int64_t size, int64_t place) __attribute__((always_inline)) {
    int8_t* codes = w.codes + first + place;
    for (int64_t k = 0; k < size; k += 16) {
      const __mmask16 mask = rest_of(size - k);
      const auto of = [&](const float* numbers) { return of_outputs<turned>(numbers, row, column + k, mask); };
      const __m512 x = _mm512_maskz_loadu_ps(mask, work + place + k);
      const __m512 y = power ? _mm512_mul_ps(x, of(w.by)) : _mm512_div_ps(x, of(w.by));
      __m512 code = _mm512_roundscale_ps(y, noisy ? kFloor : kNearest);
      if (noisy) {
        const int64_t index = turned ? (column + k) * w.rows + row : first + place + k;
        const __m512 u = uniform(w.key, _mm512_add_epi32(steps, set_bits(uint32_t(index))));
        const __mmask16 up = _mm512_cmp_ps_mask(u, _mm512_sub_ps(y, code), _CMP_LT_OQ);
        code = _mm512_mask_add_ps(code, up, code, set(1.0f));
      }
      code = _mm512_min_ps(_mm512_max_ps(code, set(-127.0f)), set(127.0f));
      const __m512 old = _mm512_mul_ps(codes_at(codes + k, mask), of(w.scales));
      const __mmask16 moved = _mm512_mask_cmp_ps_mask(mask, x, old, _CMP_NEQ_UQ);
      total.moved += __builtin_popcount(moved);
      total.swallowed +=
          __builtin_popcount(_mm512_mask_cmp_ps_mask(moved, _mm512_mul_ps(code, of(w.fresh)), old, _CMP_EQ_OQ));
      _mm_mask_storeu_epi8(codes + k, mask, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(code)));
    }
  });
  return total;
}

template <bool turned>
Moves write_either(const StoredWeight& w, int64_t first, int64_t last, const float* work) {
  if (w.power)
    return w.noisy ? write_runs<turned, true, true>(w, first, last, work)
                   : write_runs<turned, true, false>(w, first, last, work);
  return w.noisy ? write_runs<turned, false, true>(w, first, last, work)
                 : write_runs<turned, false, false>(w, first, last, work);
}

}  // namespace

void read_codes(const StoredWeight& w, int64_t first, int64_t last, float* work) {
  w.turned ? read_runs<true>(w, first, last, work) : read_runs<false>(w, first, last, work);
}

void measure_outputs(const StoredWeight& w, int64_t first, int64_t last, const float* work, uint32_t* largest) {
  w.turned ? measure_runs<true>(w, first, last, work, largest) : measure_runs<false>(w, first, last, work, largest);
}

void scale_outputs(const StoredWeight& w, int64_t first, int64_t last, const uint32_t* largest) {
  for (int64_t o = first; o < last; ++o) {
    const Group group(float_of(largest[o]));
    float scale = group.stored;
    if (w.power && group.live) {
      uint32_t bits;
      std::memcpy(&bits, &scale, 4);
      scale = float_of((bits + 0x7fffff) & 0x7f800000);  // the next power of two
    }
    w.fresh[o] = scale;
    w.by[o] = !group.live ? (w.power ? 0.0f : HUGE_VALF) : w.power ? 1.0f / scale : scale;
  }
}

Moves write_codes(const StoredWeight& w, int64_t first, int64_t last, const float* work) {
  return w.turned ? write_either<true>(w, first, last, work) : write_either<false>(w, first, last, work);
}

}  // namespace pennyweight
#else
namespace pennyweight {
void read_codes(const StoredWeight&, int64_t, int64_t, float*) {}
void measure_outputs(const StoredWeight&, int64_t, int64_t, const float*, uint32_t*) {}
void scale_outputs(const StoredWeight&, int64_t, int64_t, const uint32_t*) {}
Moves write_codes(const StoredWeight&, int64_t, int64_t, const float*) { return {}; }
}  // namespace pennyweight
#endif
