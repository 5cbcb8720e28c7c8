// Attention: what its two passes are given, and what a processor has to be able to do to compute them.
//
// softmax(scale * q k^T) v of every head, in bf16, with the scores, the softmax and all sums in float32. The keys and
// values of one head may serve a group of queries' heads. `causal`: query i sees keys 0 .. i.
#pragma once
#include <cstddef>
#include <cstdint>

namespace pennyweight {

// bf16 numbers [batch, head, row, size]; those of one row lie side by side, all else wherever the strides say.
struct Heads {
  uint16_t* data;
  int64_t batch, head, row;

  uint16_t* at(int64_t b, int64_t h) const { return data + b * batch + h * head; }
};

struct AttentionShape {
  int64_t batches, heads, groups;  // `groups`: heads of keys and values
  int64_t queries, keys, size;
  bool causal;
  float scale;
};

constexpr int64_t kChunk = 512;  // queries of a forward task

struct AttentionForward {
  AttentionShape shape;
  Heads q, k, v, out;
  float* norms;  // [2, batch, head, query]: the largest raw score, log2(sum(exp(scale (score - largest))))
};

struct AttentionBackward {
  AttentionShape shape;
  Heads q, k, v, out, grad, grad_q, grad_k, grad_v;
  const float* norms;
};

// A task is one batch and one head of keys and values, with its group of queries' heads; forward, a chunk of their
// queries. Each thread calls `enter`, then any number of tasks with scratch of its own (aligned to 64), then `leave`.
struct AttentionDoor {
  void (*enter)();
  void (*leave)();
  size_t (*forward_scratch)(const AttentionShape&);
  void (*forward)(const AttentionForward&, int64_t task, uint8_t* scratch);
  size_t (*backward_scratch)(const AttentionShape&);
  void (*backward)(const AttentionBackward&, int64_t task, uint8_t* scratch);
};

// Null where the processor, or the compiler that made this, has no tiles of bf16.
const AttentionDoor* amx_attention();

// The passes of `amx_attention`, each in a file of its own.
size_t amx_attention_forward_scratch(const AttentionShape&);
void amx_attention_forward(const AttentionForward&, int64_t task, uint8_t* scratch);
size_t amx_attention_backward_scratch(const AttentionShape&);
void amx_attention_backward(const AttentionBackward&, int64_t task, uint8_t* scratch);

}  // namespace pennyweight
