// The AdamW step on 512-bit vectors: read, update and write again in one pass over memory.
#include "moments.h"

#include "door.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma")

namespace pennyweight {
namespace {

constexpr __mmask16 kAll = 0xffff;
constexpr float kLargest = 0x1.fffffep127f;

inline __m512 set(float x) { return _mm512_set1_ps(x); }

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

// log2 x, to 1e-6, for positive normal x: the exponent and a polynomial fitted on [3/4, 3/2). Of 0 it is -127 or so.
inline __m512 log2_of(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i power = _mm512_srai_epi32(_mm512_sub_epi32(bits, _mm512_set1_epi32(0x3f400000)), 23);
  const __m512 exponent = _mm512_cvtepi32_ps(power);
  const __m512 t = _mm512_sub_ps(_mm512_castsi512_ps(_mm512_sub_epi32(bits, _mm512_slli_epi32(power, 23))), set(1.0f));
  __m512 p = _mm512_fmadd_ps(set(-0.08801889419555664f), t, set(0.19862401485443115f));
  p = _mm512_fmadd_ps(p, t, set(-0.2517003118991852f));
  p = _mm512_fmadd_ps(p, t, set(0.29112932085990906f));
  p = _mm512_fmadd_ps(p, t, set(-0.3603094220161438f));
  p = _mm512_fmadd_ps(p, t, set(0.48078837990760803f));
  p = _mm512_fmadd_ps(p, t, set(-0.7213507890701294f));
  p = _mm512_fmadd_ps(p, t, set(1.4426950454711914f));
  return _mm512_fmadd_ps(p, t, exponent);
}

// m / (sqrt(v) correction + eps), to 2^-21 of itself: the processor's estimates and one step of Newton's each.
inline __m512 ratio(__m512 m, __m512 v, __m512 correction, __m512 eps) {
  const __m512 r = _mm512_rsqrt14_ps(v), y = _mm512_mul_ps(v, r);
  const __m512 root = _mm512_fmadd_ps(_mm512_mul_ps(set(0.5f), r), _mm512_fnmadd_ps(y, y, v), y);
  const __m512 under = _mm512_fmadd_ps(root, correction, eps), inverse = _mm512_rcp14_ps(under);
  return _mm512_mul_ps(m, _mm512_fmadd_ps(_mm512_fnmadd_ps(under, inverse, set(1.0f)), inverse, inverse));
}

// The same by the slow instructions, for a v next to zero or beyond all numbers.
inline __m512 exact_ratio(__m512 m, __m512 v, __m512 correction, __m512 eps) {
  return _mm512_div_ps(m, _mm512_fmadd_ps(_mm512_sqrt_ps(v), correction, eps));
}

inline __m512i mix(__m512i x) {
  x = _mm512_xor_si512(x, _mm512_srli_epi32(x, 16));
  x = _mm512_mullo_epi32(x, _mm512_set1_epi32(0x7feb352d));
  x = _mm512_xor_si512(x, _mm512_srli_epi32(x, 15));
  x = _mm512_mullo_epi32(x, _mm512_set1_epi32(int32_t(0x846ca68b)));
  return _mm512_xor_si512(x, _mm512_srli_epi32(x, 16));
}

// Uniform numbers in [0, 1) of 16 elements from i on: noise.py's formula. Their indices share the upper 32 bits.
inline __m512 uniform(const Noise& noise, int64_t i) {
  const uint64_t index = noise.start + i;
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i place = _mm512_add_epi32(_mm512_set1_epi32(int32_t(index)), lanes);
  const __m512i once = mix(_mm512_xor_si512(place, _mm512_set1_epi32(int32_t(noise.key))));
  const uint32_t above = uint32_t(noise.key >> 32) + uint32_t(index >> 32) * 0x9e3779b9u;
  const __m512i twice = mix(_mm512_add_epi32(once, _mm512_set1_epi32(int32_t(above))));
  return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_srli_epi32(twice, 8)), set(0x1p-24f));
}

// The whole number below x, or the one above where the noise says so: with probability `up`.
inline __m512 risen(__m512 lower, __m512 up, __m512 u) {
  return _mm512_mask_add_ps(lower, _mm512_cmp_ps_mask(u, up, _CMP_LT_OQ), lower, set(1.0f));
}

inline __m512 gradient_at(const Slice& s, int64_t i, __mmask16 mask) {
  if (!s.bf16) return _mm512_maskz_loadu_ps(mask, static_cast<const float*>(s.gradient) + i);
  const __m256i half = _mm256_maskz_loadu_epi16(mask, static_cast<const uint16_t*>(s.gradient) + i);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

inline __mmask16 rest_of(int64_t size) { return size >= 16 ? kAll : (1u << size) - 1; }

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// The values that the 256 codes of a block of v stand for: code 16 a + b is upper[a] lower[b].
struct Decoder {
  __m512 upper, lower;

  Decoder(float scale, float span) {
    const __m512 lanes = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512 step = set(span / 255.0f);
    upper = _mm512_mul_ps(exp2_of(_mm512_mul_ps(_mm512_sub_ps(lanes, set(15.0f)), _mm512_mul_ps(step, set(16.0f)))), set(scale));
    lower = exp2_of(_mm512_mul_ps(_mm512_sub_ps(lanes, set(15.0f)), step));
  }

  __m512 operator()(__m512i codes) const {
    return _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(codes, 4), upper), _mm512_permutexvar_ps(codes, lower));
  }
};

// Elements [i, i + size), within one block of m and one of v: the fresh moments, zeros behind the end, into m and v.
inline void average(const Slice& s, const Step& step, int64_t i, int64_t size, float* m, float* v) {
  const __m512 m_scale = set(s.m_scales[i / s.m_block]);
  const Decoder decoded(s.v_scales[i / s.v_block], s.v_spans[i / s.v_block]);
  for (int64_t k = 0; k < size; k += 16) {
    const __mmask16 mask = rest_of(size - k);
    const __m512 g = gradient_at(s, i + k, mask);
    const __m512 m_code = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, s.m_codes + i + k)));
    const __m512 old_m = _mm512_mul_ps(m_code, m_scale);
    const __m512 old_v = decoded(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, s.v_codes + i + k)));
    const __m512 new_m = _mm512_fmadd_ps(set(step.rise_m), _mm512_sub_ps(g, old_m), old_m);
    const __m512 new_v = _mm512_fmadd_ps(_mm512_mul_ps(g, set(step.rise_v)), g, _mm512_mul_ps(old_v, set(step.keep_v)));
    _mm512_storeu_ps(m + k, _mm512_maskz_mov_ps(mask, new_m));
    _mm512_storeu_ps(v + k, _mm512_maskz_mov_ps(mask, new_v));
  }
}

// Moves the weights of these elements by their fresh moments.
template <bool exact>
inline void move(const Slice& s, const Step& step, int64_t i, int64_t size, const float* m, const float* v) {
  const __m512 correction = set(step.correction), eps = set(step.eps);
  for (int64_t k = 0; k < size; k += 16) {
    const __mmask16 mask = rest_of(size - k);
    const __m512 x = _mm512_loadu_ps(m + k), y = _mm512_loadu_ps(v + k);
    const __m512 by = exact ? exact_ratio(x, y, correction, eps) : ratio(x, y, correction, eps);
    const __m512 w = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, s.weights + i + k), set(step.decay));
    _mm512_mask_storeu_ps(s.weights + i + k, mask, _mm512_fnmadd_ps(set(step.size), by, w));
  }
}

void write_m(const float* m, int64_t size, const Noise& noise, int64_t i, int8_t* codes, float* scale) {
  __m512i most = _mm512_setzero_si512();
  for (int64_t k = 0; k < size; k += 16)
    most = _mm512_max_epu32(most, _mm512_and_si512(_mm512_loadu_si512(m + k), _mm512_set1_epi32(0x7fffffff)));
  const Group group(float_of(_mm512_reduce_max_epu32(most)));
  *scale = group.stored;
  if (!group.live) {
    std::memset(codes, 0, size);
    return;
  }
  const __m512 by = set(group.stored), inverse = set(1.0f / group.stored), largest = set(127.0f);
  for (int64_t k = 0; k < size; k += 16) {
    const __m512 x = _mm512_loadu_ps(m + k), q = _mm512_mul_ps(x, inverse);
    __m512 y = _mm512_fmadd_ps(_mm512_fnmadd_ps(q, by, x), inverse, q);
    if (noise.on) {
      const __m512 lower = _mm512_floor_ps(y);
      y = risen(lower, _mm512_sub_ps(y, lower), uniform(noise, i + k));
      y = _mm512_max_ps(_mm512_min_ps(y, largest), _mm512_sub_ps(_mm512_setzero_ps(), largest));
    }
    _mm_mask_storeu_epi8(codes + k, rest_of(size - k), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(y)));
  }
}

// What a block of v is written by: companding.py's LogRange.
struct Octaves {
  float high, span;
  bool finite, usual;  // usual: no value is next to zero or beyond all numbers

  Octaves(const float* v, int64_t size, float octaves) {
    __m512i most = _mm512_setzero_si512(), least = _mm512_set1_epi32(-1), smallest = least;
    const __m512i one = _mm512_set1_epi32(1);
    for (int64_t k = 0; k < size; k += 16) {
      const __m512i bits = _mm512_and_si512(_mm512_loadu_si512(v + k), _mm512_set1_epi32(0x7fffffff));
      most = _mm512_max_epu32(most, bits);
      smallest = _mm512_min_epu32(smallest, bits);
      least = _mm512_min_epu32(least, _mm512_sub_epi32(bits, one));  // 0 wraps to the largest: no positive value
    }
    high = float_of(_mm512_reduce_max_epu32(most));
    const float low = float_of(_mm512_reduce_min_epu32(least) + 1);
    finite = high <= kLargest;
    usual = finite && _mm512_reduce_min_epu32(smallest) >= 0x00800000u;
    const bool live = finite && high >= kTiny;
    span = live && low < high ? std::min(std::max(std::log2(high / low), 0.0f), octaves) : 0.0f;
    if (!live) high = 0.0f;
  }
};

// g^2 overflows from |g| = 1.8e19, and an infinity would take its block along: it becomes the largest number. NaN stays.
Octaves bounded(float* v, int64_t size, float octaves) {
  for (int64_t k = 0; k < size; ++k) v[k] = v[k] > kLargest ? kLargest : v[k];
  return Octaves(v, size, octaves);
}

void write_v(const float* v, int64_t size, const Octaves& block, const Noise& noise, int64_t i, uint8_t* codes,
             float* scale, float* span) {
  *scale = block.finite ? block.high : __builtin_nanf("");
  *span = block.span;
  if (block.span == 0.0f) {  // all values are one value, or zero
    std::memset(codes, 255, size);
    return;
  }
  const float step = block.span / 255.0f, snap = 4e-7f / step + 1e-4f;
  const float factor = (1.0f + 2.0f * snap) / std::expm1(step * -0.6931471805599453f);
  const __m512 inverse = set(1.0f / block.high), steps = set(-255.0f / block.span);
  for (int64_t k = 0; k < size; k += 16) {
    const __m512 y = _mm512_mul_ps(_mm512_loadu_ps(v + k), inverse);  // of 0 the logarithm is below all others
    __m512 down = _mm512_max_ps(_mm512_mul_ps(log2_of(y), steps), _mm512_setzero_ps());
    if (noise.on) {
      const __m512 lower = _mm512_floor_ps(down), part = exp2_of(_mm512_mul_ps(_mm512_sub_ps(down, lower), set(-step)));
      down = risen(lower, _mm512_fmsub_ps(part, set(factor), set(factor + snap)), uniform(noise, i + k));
    }
    const __m512i code = _mm512_cvtps_epi32(_mm512_sub_ps(set(255.0f), _mm512_min_ps(down, set(255.0f))));
    _mm_mask_storeu_epi8(codes + k, rest_of(size - k), _mm512_cvtepi32_epi8(code));
  }
}

}  // namespace

bool has_adamw() { return avx512() != nullptr; }

void adamw(const Slice& s, const Step& step, int64_t first, int64_t last) {
  alignas(64) float m[kLargestBlock], v[kLargestBlock];
  const int64_t large = std::max(s.m_block, s.v_block), small = std::min(s.m_block, s.v_block);
  for (int64_t i = first; i < last; i += large) {
    const int64_t size = std::min(large, last - i);
    for (int64_t k = 0; k < size; k += small) average(s, step, i + k, std::min(small, size - k), m + k, v + k);
    for (int64_t k = 0; k < size; k += s.v_block) {
      const int64_t part = std::min(s.v_block, size - k);
      Octaves block(v + k, part, step.octaves);
      if (block.usual) {
        move<false>(s, step, i + k, part, m + k, v + k);
      } else {
        move<true>(s, step, i + k, part, m + k, v + k);
        if (!block.finite) block = bounded(v + k, part, step.octaves);
      }
      write_v(v + k, part, block, s.v_noise, i + k, s.v_codes + i + k, s.v_scales + (i + k) / s.v_block,
              s.v_spans + (i + k) / s.v_block);
    }
    for (int64_t k = 0; k < size; k += s.m_block)
      write_m(m + k, std::min(s.m_block, size - k), s.m_noise, i + k, s.m_codes + i + k, s.m_scales + (i + k) / s.m_block);
  }
}

}  // namespace pennyweight
#else
namespace pennyweight {
bool has_adamw() { return false; }
void adamw(const Slice&, const Step&, int64_t, int64_t) {}
}  // namespace pennyweight
#endif
