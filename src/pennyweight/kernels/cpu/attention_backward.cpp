// Attention backward on AMX tiles: P and dS again from the scores, block by block, transposed; then three gradients.
#include "attention.h"

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 11
#pragma GCC target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")
#define PENNYWEIGHT_BF16
#include <initializer_list>

#include "attention_tiles.h"

namespace pennyweight {
namespace {

constexpr int64_t kDown = 128, kAcross = 256;  // keys and queries whose P and dS are kept at a time

// Memory in pieces, each a multiple of 64 bytes; from null, their size.
class Pieces {
 public:
  explicit Pieces(uint8_t* from) : next_(from) {}
  uint8_t* bytes(int64_t size) { return (next_ += size) - size; }
  float* floats(int64_t size) { return reinterpret_cast<float*>(bytes(4 * size)); }
  uint8_t* end() const { return next_; }

 private:
  uint8_t* next_;
};

// What one task keeps. Tiles of the keys' head: k and v as left operands of the scores and of dP, k_turned of dQ. Of a
// queries' head: q and grad as right operands of the scores and of dP, their pairs as those of dK and dV.
struct Scratch {
  int64_t keys, queries;  // rounded up to whole blocks
  uint8_t *k, *v, *k_turned, *q, *grad, *q_pairs, *grad_pairs;
  uint8_t *p, *ds, *ds_pairs;                    // [kDown, kAcross]
  float *most, *log, *delta, *scores, *dp;       // [queries] each, two blocks each
  float *grad_k, *grad_v, *grad_q;               // [keys, size], [keys, size], [queries / 32, size, 32]
  uint8_t* end;

  Scratch(const AttentionShape& shape, uint8_t* from) {
    keys = rounded_up(shape.keys, kBlock), queries = rounded_up(shape.queries, kBlock);
    Pieces pieces(from);
    for (uint8_t** tiles : {&k, &v, &k_turned}) *tiles = pieces.bytes(keys * shape.size * 2);
    for (uint8_t** tiles : {&q, &grad, &q_pairs, &grad_pairs}) *tiles = pieces.bytes(queries * shape.size * 2);
    for (uint8_t** tiles : {&p, &ds, &ds_pairs}) *tiles = pieces.bytes(kDown * kAcross * 2);
    most = pieces.floats(queries), log = pieces.floats(queries), delta = pieces.floats(queries);
    scores = pieces.floats(2 * kBlock * kBlock), dp = pieces.floats(2 * kBlock * kBlock);
    grad_k = pieces.floats(keys * shape.size), grad_v = pieces.floats(keys * shape.size);
    grad_q = pieces.floats(queries * shape.size);
    end = pieces.end();
  }
};

// The sum of a row's products, in float32.
inline float dot(const uint16_t* a, const uint16_t* b, int64_t size) {
  __m512 sum = _mm512_setzero_ps();
  for (int64_t d = 0; d < size; d += 32)
    sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_loadu_si512(a + d), (__m512bh)_mm512_loadu_si512(b + d));
  return _mm512_reduce_add_ps(sum);
}

struct Backward : Scratch {
  const AttentionBackward& call;
  const AttentionShape& shape;

  Backward(const AttentionBackward& backward, uint8_t* scratch)
      : Scratch(backward.shape, scratch), call(backward), shape(backward.shape) {}

  void cut_keys(int64_t batch, int64_t group) {
    for (int64_t first = 0; first < keys; first += kBlock) {
      const int64_t place = first * shape.size * 2;
      cut_rows(call.k.at(batch, group), call.k.row, first, shape.keys, shape.size, k + place);
      cut_rows(call.v.at(batch, group), call.v.row, first, shape.keys, shape.size, v + place);
      pair_rows(k + place, shape.size, k_turned + place);
      turn_rows(k_turned + place, shape.size, k_turned + place);
    }
  }

  void cut_queries(int64_t batch, int64_t head) {
    for (int64_t first = 0; first < queries; first += kBlock) {
      const int64_t place = first * shape.size * 2;
      cut_rows(call.q.at(batch, head), call.q.row, first, shape.queries, shape.size, q + place);
      pair_rows(q + place, shape.size, q_pairs + place);
      turn_rows(q + place, shape.size, q + place);
      cut_rows(call.grad.at(batch, head), call.grad.row, first, shape.queries, shape.size, grad + place);
      pair_rows(grad + place, shape.size, grad_pairs + place);
      turn_rows(grad + place, shape.size, grad + place);
    }
    const uint16_t *g = call.grad.at(batch, head), *out = call.out.at(batch, head);
    const float* from = call.norms + (batch * shape.heads + head) * shape.queries;
    const int64_t every = shape.batches * shape.heads * shape.queries;
    for (int64_t t = 0; t < queries; ++t) {
      const bool there = t < shape.queries;  // a query that is not there gives every key a weight of 0
      most[t] = there ? from[t] : 0.0f;
      log[t] = there ? from[every + t] : __builtin_inff();
      delta[t] = there ? dot(g + t * call.grad.row, out + t * call.out.row, shape.size) : 0.0f;
    }
  }

  // Raw scores and dP of a block, [32 keys, 32 queries].
  void multiply(int64_t key, int64_t query, int64_t turn) {
    const int64_t across = shape.size / 32, row = across * kBytes;
    const int64_t down = key / 16 * row, side = query / 16 * row;
    zero_sums();
    add_products({k + down, k + down + row, kBytes}, {q + side, q + side + row, kBytes}, across);
    store_sums(scores + turn * kBlock * kBlock, kBlock);
    zero_sums();
    add_products({v + down, v + down + row, kBytes}, {grad + side, grad + side + row, kBytes}, across);
    store_sums(dp + turn * kBlock * kBlock, kBlock);
  }

  // P = exp2(scale (score - most) - log) and dS = P (dP - delta) of a block in bf16: both as left tiles, two of them, and dS as right
  // tiles of a product that sums over the keys. `open` are the queries that see a row's key.
  template <class Open>
  inline void weigh(int64_t query, int64_t turn, uint8_t* p_at, uint8_t* ds_at, uint8_t* pairs_at, const Open& open) {
    const __m512 scale = _mm512_set1_ps(shape.scale * kLog2e);
    const __m512 most_low = _mm512_load_ps(most + query), most_high = _mm512_load_ps(most + query + 16);
    const __m512 log_low = _mm512_load_ps(log + query), log_high = _mm512_load_ps(log + query + 16);
    const __m512 delta_low = _mm512_load_ps(delta + query), delta_high = _mm512_load_ps(delta + query + 16);
    const float *s = scores + turn * kBlock * kBlock, *g = dp + turn * kBlock * kBlock;
    __m512i before = _mm512_setzero_si512();
    for (int64_t r = 0; r < kBlock; ++r, s += kBlock, g += kBlock) {
      const uint32_t mask = open(r);
      const __mmask16 first = mask & 0xffff, second = mask >> 16;
      __m512 low = exp2(_mm512_fmsub_ps(_mm512_sub_ps(_mm512_load_ps(s), most_low), scale, log_low));
      __m512 high = exp2(_mm512_fmsub_ps(_mm512_sub_ps(_mm512_load_ps(s + 16), most_high), scale, log_high));
      low = _mm512_maskz_mov_ps(first, low), high = _mm512_maskz_mov_ps(second, high);
      const int64_t place = r / 16 * tall() + r % 16 * 64;
      _mm512_store_si512(p_at + place, to_bf16(low, high));
      low = _mm512_maskz_mul_ps(first, low, _mm512_sub_ps(_mm512_load_ps(g), delta_low));
      high = _mm512_maskz_mul_ps(second, high, _mm512_sub_ps(_mm512_load_ps(g + 16), delta_high));
      const __m512i row = to_bf16(low, high);
      _mm512_store_si512(ds_at + place, row);
      if (r % 2) {
        _mm512_store_si512(pairs_at + r / 2 * 64, zip_low(before, row));
        _mm512_store_si512(pairs_at + kBytes + r / 2 * 64, zip_high(before, row));
      }
      before = row;
    }
  }

  // Left tile (i, j) of P and dS: 16 keys x 32 queries. Right tile (i, j) of dS: 32 keys x 16 queries.
  static constexpr int64_t tall() { return kAcross / 32 * kBytes; }
  static constexpr int64_t wide() { return kAcross / 16 * kBytes; }

  void weigh_block(int64_t key, int64_t query, int64_t turn, int64_t top, int64_t left) {
    const int64_t i = (key - top) / 16, j = (query - left) / 32;
    uint8_t *p_at = p + i * tall() + j * kBytes, *ds_at = ds + i * tall() + j * kBytes;
    uint8_t* pairs_at = ds_pairs + i / 2 * wide() + 2 * j * kBytes;
    if (key + kBlock <= shape.keys && !(shape.causal && key + kBlock > query + 1)) {
      weigh(query, turn, p_at, ds_at, pairs_at, [](int64_t) { return ~0u; });
      return;
    }
    weigh(query, turn, p_at, ds_at, pairs_at, [&](int64_t r) {
      const int64_t blind = key + r - query;
      return key + r >= shape.keys ? 0u : !shape.causal || blind <= 0 ? ~0u : ~mask_of(blind);
    });
  }

  // dV += P^T dO and dK += dS^T Q of the keys from `key`, over the queries [first, last) of the kept part.
  void add_keys(int64_t key, int64_t top, int64_t left, int64_t first, int64_t last) {
    const int64_t across = shape.size / 16, steps = (last - first) / 32;
    const int64_t from = (key - top) / 16 * tall() + (first - left) / 32 * kBytes;
    for (int64_t d = 0; d < across; d += 2) {
      const int64_t place = (first / 32 * across + d) * kBytes, to = key * shape.size + d * 16;
      const auto add = [&](float* sums, const uint8_t* weights, const uint8_t* pairs) {
        load_sums(sums + to, shape.size);
        add_products({weights + from, weights + from + tall(), kBytes},
                     {pairs + place, pairs + place + kBytes, across * kBytes}, steps);
        store_sums(sums + to, shape.size);
      };
      add(grad_v, p, grad_pairs);
      add(grad_k, ds, q_pairs);
    }
  }

  // dQ += dS K of 32 queries, transposed, over the keys [top, last).
  void add_queries(int64_t query, int64_t top, int64_t left, int64_t last) {
    const int64_t across = shape.size / 16;
    const uint8_t* right = ds_pairs + (query - left) / 16 * kBytes;
    for (int64_t d = 0; d < across; d += 2) {
      const uint8_t* turned = k_turned + (top / 32 * across + d) * kBytes;
      float* sums = grad_q + query * shape.size + d * 16 * kBlock;
      load_sums(sums, kBlock);
      add_products({turned, turned + kBytes, across * kBytes}, {right, right + kBytes, wide()}, (last - top) / 32);
      store_sums(sums, kBlock);
    }
  }

  // Keys [top, bottom) and queries [left, right), at most kDown and kAcross.
  void part(int64_t top, int64_t bottom, int64_t left, int64_t right) {
    const auto start = [&](int64_t key) { return shape.causal && key > left ? key : left; };
    const auto step = [&](int64_t& key, int64_t& query) {
      query += kBlock;
      if (query < right) return;
      key += kBlock;
      query = start(key);
    };
    int64_t key = top, query = start(top), turn = 0;
    multiply(key, query, turn);
    while (key < bottom && query < right) {
      int64_t next_key = key, next_query = query;
      step(next_key, next_query);
      if (next_key < bottom && next_query < right) multiply(next_key, next_query, turn ^ 1);
      weigh_block(key, query, turn, top, left);
      key = next_key, query = next_query, turn ^= 1;
    }
    for (key = top; key < bottom && start(key) < right; key += kBlock) add_keys(key, top, left, start(key), right);
    for (query = start(top); query < right; query += kBlock)
      add_queries(query, top, left, shape.causal && query + kBlock < bottom ? query + kBlock : bottom);
  }

  void head(int64_t batch, int64_t which) {
    cut_queries(batch, which);
    std::memset(grad_q, 0, queries * shape.size * sizeof(float));
    for (int64_t top = 0; top < keys; top += kDown) {
      const int64_t bottom = top + kDown < keys ? top + kDown : keys;
      for (int64_t left = shape.causal ? top / kAcross * kAcross : 0; left < queries; left += kAcross) {
        const int64_t right = left + kAcross < queries ? left + kAcross : queries;
        if (!shape.causal || top < right) part(top, bottom, left, right);
      }
    }
    const __m512 scale = _mm512_set1_ps(shape.scale);
    for (int64_t query = 0; query < queries; query += kBlock)
      write_turned(grad_q + query * shape.size, shape.size, scale, scale,
                   call.grad_q.at(batch, which) + query * call.grad_q.row, call.grad_q.row, shape.queries - query);
  }

  void write_keys(const float* sums, float factor, uint16_t* to, int64_t stride) const {
    const __m512 times = _mm512_set1_ps(factor);
    for (int64_t key = 0; key < shape.keys; ++key)
      for (int64_t d = 0; d < shape.size; d += 32) {
        const float* from = sums + key * shape.size + d;
        const __m512 low = _mm512_mul_ps(_mm512_load_ps(from), times);
        stream(to + key * stride + d, to_bf16(low, _mm512_mul_ps(_mm512_load_ps(from + 16), times)));
      }
  }
};

}  // namespace

size_t amx_attention_backward_scratch(const AttentionShape& shape) {
  return reinterpret_cast<uintptr_t>(Scratch(shape, nullptr).end);
}

void amx_attention_backward(const AttentionBackward& call, int64_t task, uint8_t* scratch) {
  const AttentionShape& shape = call.shape;
  const int64_t batch = task / shape.groups, group = task % shape.groups, together = shape.heads / shape.groups;
  Backward backward(call, scratch);
  backward.cut_keys(batch, group);
  std::memset(backward.grad_k, 0, backward.keys * shape.size * sizeof(float));
  std::memset(backward.grad_v, 0, backward.keys * shape.size * sizeof(float));
  for (int64_t head = group * together; head < (group + 1) * together; ++head) backward.head(batch, head);
  backward.write_keys(backward.grad_k, shape.scale, call.grad_k.at(batch, group), call.grad_k.row);
  backward.write_keys(backward.grad_v, 1.0f, call.grad_v.at(batch, group), call.grad_v.row);
  _mm_sfence();  // what was streamed is there before other threads read it
}

}  // namespace pennyweight
#endif
