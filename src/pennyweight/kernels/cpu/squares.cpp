// Sums of squares on 512-bit vectors, and one number after the other where there are none.
#include "squares.h"

#include <cstring>

#include "door.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#define PENNYWEIGHT_VECTORS
#endif

namespace pennyweight {
namespace {

constexpr int64_t kLanes = 32;

double number(float x) { return x; }

double number(uint16_t x) {
  const uint32_t bits = uint32_t(x) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

template <class Stored>
void add_squares(const Stored* x, int64_t size, double* sums) {
  const int64_t rest = size % kLanes;
  for (int64_t k = 0; k < size - rest; k += kLanes)
    for (int64_t j = 0; j < kLanes; ++j) sums[j] += number(x[k + j]) * number(x[k + j]);
  for (int64_t j = 0; j < rest; ++j) sums[j] += number(x[size - rest + j]) * number(x[size - rest + j]);
}

#ifdef PENNYWEIGHT_VECTORS
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,fma")
inline __m512d numbers(const float* x) { return _mm512_cvtps_pd(_mm256_loadu_ps(x)); }

inline __m512d numbers(const uint16_t* x) {
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
  return _mm512_cvtps_pd(_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16)));
}

constexpr int64_t kFar = 4096, kNear = 512;  // numbers ahead that are asked into the second- and first-level cache

// The same of whole groups of 32.
template <class Stored>
void add_squares_of_vectors(const Stored* x, int64_t size, double* sums) {
  __m512d all[kLanes / 8];
  for (int64_t j = 0; j < kLanes / 8; ++j) all[j] = _mm512_setzero_pd();
  for (int64_t k = 0; k < size; k += kLanes) {
    for (int64_t j = 0; j < kLanes; j += 64 / sizeof *x) {
      __builtin_prefetch(x + k + j + kFar, 0, 2);
      __builtin_prefetch(x + k + j + kNear);
    }
    for (int64_t j = 0; j < kLanes / 8; ++j) {
      const __m512d y = numbers(x + k + 8 * j);
      all[j] = _mm512_fmadd_pd(y, y, all[j]);
    }
  }
  for (int64_t j = 0; j < kLanes / 8; ++j) _mm512_storeu_pd(sums + 8 * j, all[j]);
}
#pragma GCC pop_options
#endif

template <class Stored>
double sum_of_squares(const Stored* x, int64_t size) {
  double sums[kLanes] = {}, sum = 0.0;
  int64_t done = 0;
#ifdef PENNYWEIGHT_VECTORS
  if (avx512()) add_squares_of_vectors(x, done = size - size % kLanes, sums);
#endif
  add_squares(x + done, size - done, sums);
  for (double part : sums) sum += part;
  return sum;
}

}  // namespace

double squares(const float* x, int64_t size) { return sum_of_squares(x, size); }
double squares(const uint16_t* x, int64_t size) { return sum_of_squares(x, size); }

}  // namespace pennyweight
