// The loops over activation functions, one source for all instruction sets. Included behind the target pragma of its
// users, who define LOOP, the name of theirs; with PENNYWEIGHT_WIDE it uses 512-bit multiply-adds and streaming stores.
#include <cstring>

#include "activation_functions.h"
#ifdef PENNYWEIGHT_WIDE
#include <immintrin.h>
#endif
#define ALWAYS inline __attribute__((always_inline))

namespace pennyweight {
namespace {

constexpr int64_t kWide = 16;                // numbers of one vector; a narrower processor takes several registers
constexpr float kStep = 0x1.47ae14p-8f;      // 1/200: of the codes of slopes
constexpr int kZero = 27;                    // the code of slope 0; that of slope 1 is 227
constexpr int kNone = 255;                   // the code of a slope that is no number

typedef float Floats __attribute__((vector_size(4 * kWide)));
typedef int32_t Ints __attribute__((vector_size(4 * kWide)));
typedef uint16_t Halves __attribute__((vector_size(2 * kWide)));
typedef uint8_t Bytes __attribute__((vector_size(kWide)));

ALWAYS Floats all(float x) { return x - Floats{}; }

// a b + c, rounded once where PENNYWEIGHT_WIDE, else twice.
ALWAYS Floats add(Floats a, Floats b, Floats c) {
#ifdef PENNYWEIGHT_WIDE
  return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
  return a * b + c;
#endif
}

// exp(x) for x in [-87, 87], to 2 units in the last place; NaN stays.
ALWAYS Floats exponential(Floats x) {
  const Floats magic = all(0x1.8p23f), n = add(x, all(0x1.715476p+0f), magic) - magic;
  const Floats r = add(n, all(-0x1.0bfbe8p-15f), add(n, all(-0x1.62ep-1f), x));
  Floats p = all(1.0f / 5040);
  p = add(p, r, all(1.0f / 720));
  p = add(p, r, all(1.0f / 120));
  p = add(p, r, all(1.0f / 24));
  p = add(p, r, all(1.0f / 6));
  p = add(p, r, all(0.5f));
  p = add(p, r, all(1.0f));
  p = add(p, r, all(1.0f));
  return p * (Floats)((__builtin_convertvector(n, Ints) + 127) << 23);
}

// Whole numbers of 8 and 16 bits -> 32 bits, and back. GCC takes the vectors of its own apart for these.
#ifdef PENNYWEIGHT_WIDE
ALWAYS Ints widened(Halves x) { return (Ints)_mm512_cvtepu16_epi32((__m256i)x); }
ALWAYS Ints widened(Bytes x) { return (Ints)_mm512_cvtepu8_epi32((__m128i)x); }
ALWAYS Halves halves(Ints x) { return (Halves)_mm512_cvtepi32_epi16((__m512i)x); }
ALWAYS Bytes bytes(Ints x) { return (Bytes)_mm512_cvtepi32_epi8((__m512i)x); }
#else
ALWAYS Ints widened(Halves x) { return __builtin_convertvector(x, Ints); }
ALWAYS Ints widened(Bytes x) { return __builtin_convertvector(x, Ints); }
ALWAYS Halves halves(Ints x) { return __builtin_convertvector(x & 0xffff, Halves); }
ALWAYS Bytes bytes(Ints x) { return __builtin_convertvector(x & 0xff, Bytes); }
#endif

// NaN stays.
ALWAYS Floats within(Floats x, float low, float high) {
#ifdef PENNYWEIGHT_WIDE
  return (Floats)_mm512_min_ps((__m512)all(high), _mm512_max_ps((__m512)all(low), (__m512)x));
#else
  x = x < low ? all(low) : x;
  return x > high ? all(high) : x;
#endif
}

struct Value {
  Floats share, slope;  // y = x share; dy/dx = slope
};

ALWAYS Value logistic(Floats x, const Curve& curve) {
  x = within(x, -100.0f, 100.0f);  // beyond it the share is 0 or 1, and infinity times 0 would be no number
  const Floats square = x * x, z = within(x * add(square, all(curve.b), all(curve.a)), -87.0f, 87.0f);
  const Floats share = 1.0f / (1.0f + exponential(-z));
  return {share, add(add(-share, share, share), x * add(square, all(3.0f * curve.b), all(curve.a)), share)};
}

// The normal distribution by formula 7.1.26 of Abramowitz and Stegun: error below 1.5e-7.
ALWAYS Value normal(Floats x) {
  const Floats size = within(x < 0.0f ? -x : x, 0.0f, 13.0f), t = 1.0f / (1.0f + 0.2316418882f * size);
  const Floats bell = exponential(-0.5f * size * size);
  Floats p = all(0.5307027f);
  p = add(p, t, all(-0.72657603f));
  p = add(p, t, all(0.710706875f));
  p = add(p, t, all(-0.1422483755f));
  p = add(p, t, all(0.12741480f));
  x = x != x ? x : within(x, -13.0f, 13.0f);
  const Floats tail = p * t * bell, share = x < 0.0f ? tail : x != x ? x : 1.0f - tail;
  return {share, add(x * 0.3989422804f, bell, share)};
}

ALWAYS Value value(Floats x, const Curve& curve) { return curve.normal ? normal(x) : logistic(x, curve); }

ALWAYS Floats load(const float* from) {
  Floats x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

ALWAYS Floats load(const uint16_t* from) {
  Halves x;
  std::memcpy(&x, from, sizeof x);
  return (Floats)(widened(x) << 16);
}

// Stores past the cache (`past`) if asked to, and if the vector is aligned to its size.
template <class Vector>
ALWAYS void put(void* to, Vector x, bool past) {
#ifdef PENNYWEIGHT_WIDE
  if (past) {
    if constexpr (sizeof x == 64) _mm512_stream_si512(static_cast<__m512i*>(to), (__m512i)x);
    if constexpr (sizeof x == 32) _mm256_stream_si256(static_cast<__m256i*>(to), (__m256i)x);
    if constexpr (sizeof x == 16) _mm_stream_si128(static_cast<__m128i*>(to), (__m128i)x);
    return;
  }
#endif
  std::memcpy(to, &x, sizeof x);
}

ALWAYS void store(float* to, Floats x, bool past) { put(to, x, past); }

// To nearest even; NaN stays NaN.
ALWAYS void store(uint16_t* to, Floats x, bool past) {
  const Ints bits = (Ints)x, odd = (bits >> 16) & 1;
  const Ints up = x != x ? bits | (64 << 16) : bits + 0x7fff + odd;
  put(to, halves(up >> 16), past);
}

ALWAYS void store_code(uint8_t* to, Floats slope, bool past) {
  const Floats code = within(add(slope, all(200.0f), all(kZero)), 0.0f, 254.0f) + 0x1.8p23f;
  put(to, bytes(slope != slope ? kNone - (Ints){} : (Ints)code), past);
}

ALWAYS Floats load_code(const uint8_t* from) {
  Bytes byte;
  std::memcpy(&byte, from, sizeof byte);
  const Ints code = widened(byte);
  return code == kNone ? all(__builtin_nanf("")) : __builtin_convertvector(code - kZero, Floats) * kStep;
}

template <Way way, class Number>
ALWAYS void vector(const Pass<Number>& p, int64_t i) {
  if constexpr (way == Way::slopes) {
    store(p.out + i, load(p.grad + i) * load_code(p.slopes + i), p.past);
    return;
  }
  Floats x = load(p.x + i);
  x = x < -100.0f ? all(-100.0f) : x;  // a share is never quite 0: times a huge number it would not vanish
  const Value at = value(x, p.curve);
  if constexpr (way == Way::backward) {
    store(p.out + i, load(p.grad + i) * at.slope, p.past);
  } else {
    store(p.out + i, x * at.share, p.past);
    if constexpr (way == Way::saving) store_code(p.slopes + i, at.slope, p.past);
  }
}

template <Way way, class Number>
void loop(const Pass<Number>& p, int64_t first, int64_t last) {
  int64_t i = first;
  for (; i + kWide <= last; i += kWide) vector<way>(p, i);
#ifdef PENNYWEIGHT_WIDE
  _mm_sfence();
#endif
  if (i == last) return;
  Number x[kWide] = {}, grad[kWide] = {}, out[kWide];
  uint8_t slopes[kWide] = {};
  const size_t rest = last - i;
  if (p.x) std::memcpy(x, p.x + i, rest * sizeof(Number));
  if (p.grad) std::memcpy(grad, p.grad + i, rest * sizeof(Number));
  if (way == Way::slopes) std::memcpy(slopes, p.slopes + i, rest);
  vector<way>(Pass<Number>{x, grad, out, slopes, p.curve, false}, 0);
  std::memcpy(p.out + i, out, rest * sizeof(Number));
  if (way == Way::saving) std::memcpy(p.slopes + i, slopes, rest);
}

}  // namespace

template <Way way, class Number>
Loop<Number> LOOP() {
  return loop<way, Number>;
}

#define BOTH(way)                              \
  template Loop<float> LOOP<way, float>();     \
  template Loop<uint16_t> LOOP<way, uint16_t>();
BOTH(Way::forward)
BOTH(Way::saving)
BOTH(Way::backward)
BOTH(Way::slopes)

}  // namespace pennyweight
