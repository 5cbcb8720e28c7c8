// Attention forward on AMX tiles: scores of 32 queries at a time, transposed, so that every sum over keys runs down.
#include "attention.h"

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 11
#pragma GCC target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")
#define PENNYWEIGHT_BF16
#include "attention_tiles.h"

namespace pennyweight {
namespace {

constexpr int64_t kScored = 512;  // keys whose scores are kept at a time

// What one task keeps: tiles of all keys and values, and for one block of queries its tiles, scores and sums.
struct Forward {
  const AttentionForward& call;
  const AttentionShape& shape;
  int64_t keys;  // rounded up to whole blocks
  uint8_t *k, *v, *q, *p;
  float *scores, *sums;
  __m512 most[2], total[2];  // of each query: its largest score so far (as it comes), the sum of exponentials

  Forward(const AttentionForward& forward, uint8_t* scratch) : call(forward), shape(forward.shape) {
    keys = rounded_up(shape.keys, kBlock);
    k = scratch;
    v = k + keys * shape.size * 2;
    q = v + keys * shape.size * 2;
    p = q + kBlock * shape.size * 2;
    scores = reinterpret_cast<float*>(p + kScored * kBlock * 2);
    sums = scores + kScored * kBlock;
  }

  // The keys before `last`.
  void cut_keys(int64_t batch, int64_t group, int64_t last) {
    for (int64_t first = 0; first < last; first += kBlock) {
      cut_rows(call.k.at(batch, group), call.k.row, first, shape.keys, shape.size, k + first * shape.size * 2);
      uint8_t* tiles = v + first * shape.size * 2;
      cut_rows(call.v.at(batch, group), call.v.row, first, shape.keys, shape.size, p);
      pair_rows(p, shape.size, tiles);
      turn_rows(tiles, shape.size, tiles);
    }
  }

  // Scores [32 keys, 32 queries] of the keys from `key`, raw; what a query may not see is -inf.
  void score(int64_t key, int64_t query, float* to) {
    const int64_t across = shape.size / 32, row = across * kBytes;
    const uint8_t* from = k + key / 16 * row;
    zero_sums();
    add_products({from, from + row, kBytes}, {q, q + row, kBytes}, across);
    store_sums(to, kBlock);
    if (key + kBlock > shape.keys || (shape.causal && key + kBlock > query + 1)) hide(key, query, to);
  }

  void hide(int64_t key, int64_t query, float* to) const {
    const __m512 never = _mm512_set1_ps(-__builtin_inff());
    for (int64_t r = 0; r < kBlock; ++r) {
      const int64_t blind = key + r - query;  // of these 32 queries, those before this one do not see the key
      const uint32_t hidden = key + r >= shape.keys ? ~0u : !shape.causal || blind <= 0 ? 0 : mask_of(blind);
      _mm512_mask_storeu_ps(to + r * kBlock, hidden & 0xffff, never);
      _mm512_mask_storeu_ps(to + r * kBlock + 16, hidden >> 16, never);
    }
  }

  // exp2((score - most) * scale) of 32 keys, summed, as right tiles of the product with the values.
  void exponentiate(const float* from, __m512 scale, uint8_t* tiles) {
    for (int64_t r = 0; r < kBlock; r += 2)
      for (int half = 0; half < 2; ++half) {
        const float* at = from + r * kBlock + half * 16;
        const __m512 even = exp2(_mm512_mul_ps(_mm512_sub_ps(_mm512_load_ps(at), most[half]), scale));
        const __m512 odd = exp2(_mm512_mul_ps(_mm512_sub_ps(_mm512_load_ps(at + kBlock), most[half]), scale));
        total[half] = _mm512_add_ps(total[half], _mm512_add_ps(even, odd));
        const __m512i both = to_bf16(even, odd);
        const __m512i upper = _mm512_castsi256_si512(_mm512_extracti64x4_epi64(both, 1));
        _mm512_store_si512(tiles + half * kBytes + r / 2 * 64, zip_low(both, upper));
      }
  }

  // The sums so far, and the totals, in the scale of a larger score.
  void rescale(const __m512* larger, __m512 scale) {
    const __mmask16 rose = _mm512_cmp_ps_mask(larger[0], most[0], _CMP_NEQ_UQ) |
                           _mm512_cmp_ps_mask(larger[1], most[1], _CMP_NEQ_UQ);
    if (!rose) return;
    __m512 factor[2];
    for (int half = 0; half < 2; ++half) {
      factor[half] = exp2(_mm512_mul_ps(_mm512_sub_ps(most[half], larger[half]), scale));
      total[half] = _mm512_mul_ps(total[half], factor[half]);
      most[half] = larger[half];
    }
    for (int64_t place = 0; place < shape.size * kBlock; place += 16)
      _mm512_store_ps(sums + place, _mm512_mul_ps(_mm512_load_ps(sums + place), factor[place / 16 % 2]));
  }

  void add_strip(int64_t first, int64_t last, int64_t query) {
    const __m512 scale = _mm512_set1_ps(shape.scale * kLog2e);
    __m512 larger[2] = {most[0], most[1]};
    for (int64_t key = first; key < last; key += kBlock) {
      float* block = scores + (key - first) * kBlock;
      score(key, query, block);
      for (int64_t place = 0; place < kBlock * kBlock; place += 32) {
        larger[0] = _mm512_max_ps(larger[0], _mm512_load_ps(block + place));
        larger[1] = _mm512_max_ps(larger[1], _mm512_load_ps(block + place + 16));
      }
    }
    if (first > 0) rescale(larger, scale);
    most[0] = larger[0], most[1] = larger[1];
    for (int64_t key = first; key < last; key += kBlock)
      exponentiate(scores + (key - first) * kBlock, scale, p + (key - first) / 16 * kBytes);
    const int64_t across = shape.size / 16, steps = (last - first) / kBlock;
    const uint8_t* values = v + first * shape.size * 2;
    for (int64_t d = 0; d < across; d += 2) {
      float* to = sums + d * 16 * kBlock;
      first > 0 ? load_sums(to, kBlock) : zero_sums();
      const uint8_t* left = values + d * kBytes;
      add_products({left, left + kBytes, across * kBytes}, {p, p + kBytes, 2 * kBytes}, steps);
      store_sums(to, kBlock);
    }
  }

  void queries(int64_t batch, int64_t head, int64_t query) {
    const int64_t rows = shape.queries - query < kBlock ? shape.queries - query : kBlock;
    cut_rows(call.q.at(batch, head), call.q.row, query, shape.queries, shape.size, q);
    turn_rows(q, shape.size, q);
    most[0] = most[1] = _mm512_set1_ps(-__builtin_inff());
    total[0] = total[1] = _mm512_setzero_ps();
    const int64_t seen = shape.causal && query + kBlock < keys ? query + kBlock : keys;
    for (int64_t first = 0; first < seen; first += kScored)
      add_strip(first, first + kScored < seen ? first + kScored : seen, query);
    const __m512 one = _mm512_set1_ps(1.0f);
    const int64_t every = shape.batches * shape.heads * shape.queries;
    float* norms = call.norms + (batch * shape.heads + head) * shape.queries + query;
    for (int half = 0; half < 2; ++half) {
      const __mmask16 there = mask_of(rows) >> (16 * half) & 0xffff;
      _mm512_mask_storeu_ps(norms + half * 16, there, most[half]);
      _mm512_mask_storeu_ps(norms + every + half * 16, there, log2(total[half]));
    }
    write_turned(sums, shape.size, _mm512_div_ps(one, total[0]), _mm512_div_ps(one, total[1]),
                 call.out.at(batch, head) + query * call.out.row, call.out.row, rows);
  }
};

}  // namespace

size_t amx_attention_forward_scratch(const AttentionShape& shape) {
  const int64_t keys = rounded_up(shape.keys, kBlock);
  return 4 * keys * shape.size + 2 * kBlock * shape.size + 6 * kScored * kBlock + 4 * kBlock * shape.size;
}

void amx_attention_forward(const AttentionForward& call, int64_t task, uint8_t* scratch) {
  const AttentionShape& shape = call.shape;
  const int64_t chunks = blocks(shape.queries, kChunk), together = shape.heads / shape.groups;
  const int64_t batch = task / chunks / shape.groups, group = task / chunks % shape.groups;
  const int64_t first = task % chunks * kChunk, last = first + kChunk < shape.queries ? first + kChunk : shape.queries;
  Forward forward(call, scratch);
  forward.cut_keys(batch, group, shape.causal && last < shape.keys ? last : shape.keys);
  for (int64_t head = group * together; head < (group + 1) * together; ++head)
    for (int64_t query = first; query < last; query += kBlock) forward.queries(batch, head, query);
  _mm_sfence();  // what was streamed is there before other threads read it
}

}  // namespace pennyweight
#endif
