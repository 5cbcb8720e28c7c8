// The AdamW step on 512-bit vectors: each group of blocks is read and averaged into the first-level cache, measured, and
// written again, one pass over memory.
#include "moments.h"

#include "door.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma")
#include "lanes.h"

namespace pennyweight {
namespace {

constexpr float kLargest = 0x1.fffffep127f;
constexpr int64_t kAhead = 512;  // elements: what is asked of memory now is worked on two or four blocks later
constexpr int kDown = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC, kUp = _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC;

// 2^x, to 2^-23 of itself, for x in [-126, 126]: the nearest whole power times a polynomial fitted on [-1/2, 1/2].
inline __m512 exp2_of(__m512 x) {
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 f = _mm512_sub_ps(x, whole);
  __m512 p = _mm512_fmadd_ps(set(0.0013266970636323094f), f, set(0.009675459936261177f));
  p = _mm512_fmadd_ps(p, f, set(0.05550742521882057f));
  p = _mm512_fmadd_ps(p, f, set(0.24022121727466583f));
  p = _mm512_fmadd_ps(p, f, set(0.6931469440460205f));
  return _mm512_scalef_ps(_mm512_fmadd_ps(p, f, set(1.0f)), whole);
}

inline __mmask64 rest_of_64(int64_t size) { return size >= 64 ? ~0ull : (1ull << size) - 1; }

inline __m512 gradient_at(const Slice& s, int64_t i, __mmask16 mask) {
  if (!s.bf16) return _mm512_maskz_loadu_ps(mask, static_cast<const float*>(s.gradient) + i);
  const __m256i half = _mm256_maskz_loadu_epi16(mask, static_cast<const uint16_t*>(s.gradient) + i);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

// The streams end at every 4 kB for the processor's own prefetching, so they are asked for by hand.
__attribute__((always_inline)) inline void ask_ahead(const Slice& s, int64_t i) {
  __builtin_prefetch(static_cast<const char*>(s.gradient) + (i + kAhead) * (s.bf16 ? 2 : 4));
  __builtin_prefetch(s.weights + i + kAhead, 1);
  if (i % 64 == 0) {
    __builtin_prefetch(s.m_codes + i + kAhead, 1);
    __builtin_prefetch(s.v_codes + i + kAhead, 1);
  }
}

// The values that the 256 codes of a block of v stand for: code 16 a + b is upper[a] lower[b].
struct Decoder {
  __m512 upper, lower;

  Decoder(float scale, float span) {
    const __m512 down = _mm512_setr_ps(-15, -14, -13, -12, -11, -10, -9, -8, -7, -6, -5, -4, -3, -2, -1, 0);
    const __m512 step = set(span / 255.0f);
    upper = _mm512_mul_ps(exp2_of(_mm512_mul_ps(down, _mm512_mul_ps(step, set(16.0f)))), set(scale));
    lower = exp2_of(_mm512_mul_ps(down, step));
  }

  __m512 operator()(__m512i codes) const {
    return _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(codes, 4), upper), _mm512_permutexvar_ps(codes, lower));
  }
};

// The largest |m|, and the largest and the smallest v, as bits: those of positive floats are in their order.
struct Extent {
  __m512i m, v, least;

  Extent() : m(_mm512_setzero_si512()), v(_mm512_setzero_si512()), least(_mm512_set1_epi32(-1)) {}
  void forget_m() { m = _mm512_setzero_si512(); }
  void forget_v() { v = _mm512_setzero_si512(), least = _mm512_set1_epi32(-1); }

  void add(__m512 x, __m512 y) {
    m = _mm512_max_epu32(m, magnitude_of(x));
    v = _mm512_max_epu32(v, _mm512_castps_si512(y));
    least = _mm512_min_epu32(least, _mm512_castps_si512(y));
  }

  float m_scale() const { return Group(float_of(_mm512_reduce_max_epu32(m))).stored; }

  // What a block of v is written by: companding.py's LogRange. Zeros and infinities are rare, and looked for again.
  void v_scale(float octaves, float* values, int64_t size, float* scale, float* span) const {
    uint32_t most = _mm512_reduce_max_epu32(v), fewest = _mm512_reduce_min_epu32(least);
    if (most > 0x7f7fffff || (most && !fewest)) mend(values, size, most, fewest);
    const float high = float_of(most), low = float_of(fewest);
    const bool finite = high <= kLargest, live = finite && high >= kTiny;
    *scale = !finite ? __builtin_nanf("") : live ? high : 0.0f;
    *span = live && low < high ? std::min(std::max(std::log2(high / low), 0.0f), octaves) : 0.0f;
  }

  // g^2 overflows from |g| = 1.8e19, and an infinity would take its block along: it becomes the largest number. A NaN
  // stays. Then the extent of the positive values.
  static void mend(float* values, int64_t size, uint32_t& most, uint32_t& fewest) {
    most = 0, fewest = 0xffffffff;
    for (int64_t k = 0; k < size; ++k) {
      values[k] = values[k] > kLargest ? kLargest : values[k];
      uint32_t bits;
      std::memcpy(&bits, values + k, 4);
      most = std::max(most, bits);
      fewest = std::min(fewest, bits - 1);  // 0 becomes the largest
    }
    ++fewest;
  }
};

struct Fresh {
  __m512 m, v;
};

// The fresh moments of 16 elements from i on, zeros where the mask says so; `keep_m`: what the codes of m count for.
__attribute__((always_inline)) inline Fresh averaged(const Slice& s, const Step& step, const Decoder& old, __m512 keep_m,
                                                     int64_t i, __mmask16 mask) {
  ask_ahead(s, i);
  const __m512 g = gradient_at(s, i, mask);
  const __m512 m_code = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, s.m_codes + i)));
  const __m512 old_v = old(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, s.v_codes + i)));
  return {_mm512_maskz_fmadd_ps(mask, m_code, keep_m, _mm512_mul_ps(g, set(step.rise_m))),
          _mm512_maskz_fmadd_ps(mask, _mm512_mul_ps(g, set(step.rise_v)), g, old_v)};
}

inline __m512 kept_m(const Slice& s, const Step& step, int64_t i) {
  return set(s.m_scales[i / s.m_block] * (1.0f - step.rise_m));
}

inline Decoder kept_v(const Slice& s, const Step& step, int64_t i) {
  return Decoder(s.v_scales[i / s.v_block] * step.keep_v, s.v_spans[i / s.v_block]);
}

// Elements [i, i + size) of one block of m and one of v: the fresh moments, zeros behind the end, into m and v.
inline Extent average(const Slice& s, const Step& step, const Decoder& old, int64_t i, int64_t size, float* m, float* v,
                      Extent extent) {
  const __m512 keep_m = kept_m(s, step, i);
  const auto some = [&](int64_t k, __mmask16 mask) __attribute__((always_inline)) {
    const Fresh fresh = averaged(s, step, old, keep_m, i + k, mask);
    _mm512_storeu_ps(m + k, fresh.m);
    _mm512_storeu_ps(v + k, fresh.v);
    extent.add(fresh.m, fresh.v);
  };
  int64_t k = 0;
  for (; k + 16 <= size; k += 16) some(k, 0xffff);
  if (k < size) some(k, rest_of(size - k));
  return extent;
}

// noise.py's `halves` of 32 elements from i on, a multiple of 32: two in each word.
inline void halves(uint64_t key, uint64_t i, uint16_t* to) {
  const uint64_t index = i >> 1;
  const uint32_t first = uint32_t(index) ^ uint32_t(key);
  const uint32_t between = uint32_t(key >> 32) + uint32_t(index >> 32) * 0x9e3779b9u;
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  __m512i x = _mm512_xor_si512(set_bits(first ^ first >> 16), lanes);  // the upper half is the same for all 16
  x = _mm512_mullo_epi32(x, set_bits(0x7feb352d));
  x = _mm512_xor_si512(x, _mm512_srli_epi32(x, 15));
  x = _mm512_mullo_epi32(_mm512_add_epi32(x, set_bits(between)), set_bits(0x846ca68b));
  _mm512_store_si512(to, _mm512_xor_si512(x, _mm512_srli_epi32(x, 16)));
}

inline __m512 noise_at(const uint16_t* halves) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(_mm256_load_si256(reinterpret_cast<const __m256i*>(halves))));
}

// Codes of m, before they are cut to -127 .. 127: the nearest, or ceil(y - u) for the noise u = (h + 1/2) 2^-16.
struct MEncoder {
  __m512 inverse;

  explicit MEncoder(float scale) : inverse(set(1.0f / scale)) {}

  __m512i nearest(__m512 m) const { return _mm512_cvtps_epi32(_mm512_mul_ps(m, inverse)); }
  __m512i noisy(__m512 m, __m512 h) const {
    const __m512 y = _mm512_fmsub_ps(m, inverse, set(0x1p-17f));
    return _mm512_cvt_roundps_epi32(_mm512_fnmadd_ps(h, set(0x1p-16f), y), kUp);
  }
};

// Codes of v, before they are cut to 0 .. 255: 255 + 255 / span log2(v / scale), the nearest or the one below after the
// noise is added. companding.py goes one step down where u < p(f) = (1 - 2^(-f d)) / (1 - 2^-d), stretched by `snap`, for
// the fraction f of a step of d octaves; here f > w(u), w the inverse of p as a power series in 1 - 2^-d.
struct VEncoder {
  __m512 inverse, steps, log1, log2, log3, table, noise1, noise2, noise3;

  VEncoder(float scale, float span, bool noisy) {
    const float d = span / 255.0f, per = 255.0f / span;
    inverse = set(1.0f / scale), steps = set(per);
    // log2(1 + t), to 6e-8, for |t| < 1/32
    log1 = set(per * 1.44269496f), log2 = set(per * -0.72162367f), log3 = set(per * 0.48122977f);
    const __m512 middle = _mm512_setr_ps(
        0.0443940764f, 0.129283009f, 0.209453331f, 0.2854022f, 0.357552058f, 0.42626476f, 0.491853061f, 0.554588897f,
        0.614709874f, 0.672425291f, 0.727920433f, 0.781359759f, 0.832890003f, 0.882643047f, 0.930737418f, 0.97727984f);
    float top = 255.0f;
    if (noisy) {
      const float x = d * 0.693147181f, snap = 4e-7f / d + 1e-4f, by = 1.0f / (1.0f + 2.0f * snap);
      const float w1 = 1.0f - x * (0.5f - x * (0.166666667f - x * 0.0416666667f)), w2 = 0.5f * x * w1 * w1;
      const float w3 = 1.0f - w1 - w2, from = (snap + 0x1p-17f) * by, each = 0x1p-16f * by;  // u = from + each h
      top += from * (w1 + from * (w2 + from * w3));
      noise1 = set(each * (w1 + from * (2.0f * w2 + 3.0f * from * w3)));
      noise2 = set(each * each * (w2 + 3.0f * from * w3));
      noise3 = set(each * each * each * w3);
    }
    table = _mm512_fmadd_ps(middle, steps, set(top));
  }

  // The logarithm by a table of the upper 4 bits of the mantissa, a polynomial around each, and the exponent.
  __m512 place(__m512 v) const {
    const __m512 over_middle = _mm512_setr_ps(
        0.969696999f, 0.914285719f, 0.864864886f, 0.820512831f, 0.780487776f, 0.744186044f, 0.711111128f, 0.680851042f,
        0.653061211f, 0.627451003f, 0.603773594f, 0.581818163f, 0.561403513f, 0.542372882f, 0.524590135f, 0.507936537f);
    const __m512 y = _mm512_mul_ps(v, inverse);
    const __m512i bits = _mm512_castps_si512(y), upper = _mm512_srli_epi32(bits, 19);
    const __m512i mantissa = _mm512_ternarylogic_epi32(bits, set_bits(0x007fffff), set_bits(0x3f800000), 0xea);
    const __m512 t = _mm512_fmsub_ps(_mm512_castsi512_ps(mantissa), _mm512_permutexvar_ps(upper, over_middle), set(1.0f));
    const __m512 p = _mm512_fmadd_ps(_mm512_fmadd_ps(log3, t, log2), t, log1);
    return _mm512_fmadd_ps(p, t, _mm512_fmadd_ps(_mm512_getexp_ps(y), steps, _mm512_permutexvar_ps(upper, table)));
  }

  __m512i nearest(__m512 v) const { return _mm512_cvtps_epi32(place(v)); }
  __m512i noisy(__m512 v, __m512 h) const {
    const __m512 p = _mm512_fmadd_ps(_mm512_fmadd_ps(noise3, h, noise2), h, noise1);
    return _mm512_cvt_roundps_epi32(_mm512_fmadd_ps(p, h, place(v)), kDown);
  }
};

// 64 codes in order, from 32-bit numbers that are cut to -128 .. 127, or to 0 .. 255.
template <bool has_sign>
inline __m512i bytes_of(const __m512i (&codes)[4]) {
  const __m512i low = _mm512_packs_epi32(codes[0], codes[1]), high = _mm512_packs_epi32(codes[2], codes[3]);
  const __m512i all = has_sign ? _mm512_packs_epi16(low, high) : _mm512_packus_epi16(low, high);
  return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), all);
}

inline void move(const Step& step, float* weights, __mmask16 mask, __m512 m, __m512 v) {
  const __m512 under = _mm512_fmadd_ps(_mm512_sqrt_ps(v), set(step.correction), set(step.eps));
  const __m512 w = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, weights), set(step.decay));
  _mm512_mask_storeu_ps(weights, mask, _mm512_fnmadd_ps(set(step.size), _mm512_div_ps(m, under), w));
}

// Moves up to 64 weights by their fresh moments, and writes these.
template <bool noisy, bool whole>
inline void write_64(const Slice& s, const Step& step, int64_t i, int64_t size, const float* m, const float* v,
                     const MEncoder& encode_m, const VEncoder& encode_v) {
  __m512i m_codes[4], v_codes[4];
  alignas(64) uint16_t m_noise[64], v_noise[64];
  if (noisy)
    for (int64_t k = 0; k < 64; k += 32) {
      halves(s.m_key, s.start + i + k, m_noise + k);
      halves(s.v_key, s.start + i + k, v_noise + k);
    }
#pragma GCC unroll 4
  for (int64_t j = 0; j < 4; ++j) {
    const __mmask16 mask = whole ? 0xffff : rest_of(size - 16 * j);
    const __m512 x = _mm512_maskz_loadu_ps(mask, m + 16 * j), y = _mm512_maskz_loadu_ps(mask, v + 16 * j);
    move(step, s.weights + i + 16 * j, mask, x, y);
    m_codes[j] = noisy ? encode_m.noisy(x, noise_at(m_noise + 16 * j)) : encode_m.nearest(x);
    v_codes[j] = noisy ? encode_v.noisy(y, noise_at(v_noise + 16 * j)) : encode_v.nearest(y);
  }
  const __mmask64 mask = whole ? ~0ull : rest_of_64(size);
  _mm512_mask_storeu_epi8(s.m_codes + i, mask, _mm512_max_epi8(bytes_of<true>(m_codes), _mm512_set1_epi8(-127)));
  _mm512_mask_storeu_epi8(s.v_codes + i, mask, bytes_of<false>(v_codes));
}

template <bool noisy>
inline void write(const Slice& s, const Step& step, int64_t i, int64_t size, const float* m, const float* v,
                  const VEncoder& encode_v) {
  const float m_scale = s.m_scales[i / s.m_block];
  const MEncoder encode_m(m_scale);
  int64_t k = 0;
  for (; k + 64 <= size; k += 64) write_64<noisy, true>(s, step, i + k, 64, m + k, v + k, encode_m, encode_v);
  if (k < size) write_64<noisy, false>(s, step, i + k, size - k, m + k, v + k, encode_m, encode_v);
  if (!(m_scale > 0.0f)) std::memset(s.m_codes + i, 0, size);
  if (s.v_spans[i / s.v_block] == 0.0f) std::memset(s.v_codes + i, 255, size);  // all are one value, or zero
}

// Both scales go into the state as soon as a block has been averaged, and are read there when it is written.
template <bool noisy>
void step_blocks(const Slice& s, const Step& step, int64_t first, int64_t last) {
  alignas(64) float m[kLargestBlock], v[kLargestBlock];
  const int64_t large = std::max(s.m_block, s.v_block), small = std::min(s.m_block, s.v_block);
  for (int64_t i = first; i < last; i += large) {
    const int64_t size = std::min(large, last - i);
    Extent extent;
    for (int64_t from = 0; from < size; from += s.v_block) {
      const int64_t block = (i + from) / s.v_block, to = std::min(size, from + s.v_block);
      const Decoder old = kept_v(s, step, i + from);
      extent.forget_v();
      for (int64_t k = from; k < to; k += small) {
        if (k % s.m_block == 0) extent.forget_m();
        extent = average(s, step, old, i + k, std::min(small, to - k), m + k, v + k, extent);
        if ((k + small) % s.m_block == 0 || k + small >= size) s.m_scales[(i + k) / s.m_block] = extent.m_scale();
      }
      extent.v_scale(step.octaves, v + from, to - from, s.v_scales + block, s.v_spans + block);
    }
    for (int64_t from = 0; from < size; from += s.v_block) {
      const int64_t block = (i + from) / s.v_block, to = std::min(size, from + s.v_block);
      const VEncoder encode_v(s.v_scales[block], s.v_spans[block], noisy);
      for (int64_t k = from; k < to; k += small)
        write<noisy>(s, step, i + k, std::min(small, to - k), m + k, v + k, encode_v);
    }
  }
}

// Only moves the weights.
void move_blocks(const Slice& s, const Step& step, int64_t first, int64_t last) {
  const int64_t small = std::min(s.m_block, s.v_block);
  for (int64_t i = first; i < last; i += small) {
    const Decoder old = kept_v(s, step, i);
    const __m512 keep_m = kept_m(s, step, i);
    for (int64_t k = i, end = std::min(last, i + small); k < end; k += 16) {
      const __mmask16 mask = rest_of(end - k);
      const Fresh fresh = averaged(s, step, old, keep_m, k, mask);
      move(step, s.weights + k, mask, fresh.m, _mm512_min_ps(set(kLargest), fresh.v));  // a NaN stays
    }
  }
}

}  // namespace

bool has_adamw() { return avx512() != nullptr; }

void adamw(const Slice& s, const Step& step, int64_t first, int64_t last) {
  s.noisy ? step_blocks<true>(s, step, first, last) : step_blocks<false>(s, step, first, last);
}

void adamw_move(const Slice& s, const Step& step, int64_t first, int64_t last) { move_blocks(s, step, first, last); }

}  // namespace pennyweight
#else
namespace pennyweight {
bool has_adamw() { return false; }
void adamw(const Slice&, const Step&, int64_t, int64_t) {}
void adamw_move(const Slice&, const Step&, int64_t, int64_t) {}
}  // namespace pennyweight
#endif
