// Attention as PyTorch sees it: outputs, threads and scratch. The Python that calls it (kernels/tiled_attention.py) checks
// shapes and dtypes; every loop here trusts them.
#include "attention.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <tuple>

#include "door.h"

namespace pennyweight {

const AttentionDoor* amx_attention() {
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 11
  static const Door* tiles = amx();
  if (!tiles || !__builtin_cpu_supports("amx-bf16")) return nullptr;
  static const AttentionDoor door{tiles->enter, tiles->leave, amx_attention_forward_scratch, amx_attention_forward,
                                  amx_attention_backward_scratch, amx_attention_backward};
  return &door;
#else
  return nullptr;
#endif
}

namespace {

using at::Tensor;

// A tensor [batch, head, row, size].
Heads heads_of(const Tensor& x) {
  return {static_cast<uint16_t*>(const_cast<void*>(x.const_data_ptr())), x.stride(0), x.stride(1), x.stride(2)};
}

AttentionShape shape_of(const Tensor& q, const Tensor& k, bool causal, double scale) {
  return {q.size(0), q.size(1), k.size(1), q.size(2), k.size(2), q.size(3), causal, static_cast<float>(scale)};
}

// New numbers [batch, row, head, size], and how they are seen as [batch, head, row, size].
Tensor rows_like(const Tensor& x) { return at::empty({x.size(0), x.size(2), x.size(1), x.size(3)}, x.options()); }

// Tasks taken by the next free thread; no sum goes over two tasks, so threads change no bit.
template <class Call>
void share(const Call& call, int64_t tasks, size_t bytes, void (*work)(const Call&, int64_t, uint8_t*)) {
  const AttentionDoor* door = amx_attention();
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min<int64_t>(at::get_num_threads(), tasks), 1, [&](int64_t, int64_t) {
    Tensor memory = at::empty({static_cast<int64_t>(bytes) + 64}, at::kByte);
    uint8_t* start = memory.data_ptr<uint8_t>();
    start += -reinterpret_cast<uintptr_t>(start) % 64;
    door->enter();
    for (int64_t task; (task = next.fetch_add(1)) < tasks;) work(call, task, start);
    door->leave();
  });
}

std::tuple<Tensor, Tensor> attention(const Tensor& q, const Tensor& k, const Tensor& v, bool causal, double scale) {
  Tensor out = rows_like(q);
  Tensor norms = at::empty({2, q.size(0), q.size(1), q.size(2)}, q.options().dtype(at::kFloat));
  const AttentionForward call{shape_of(q, k, causal, scale), heads_of(q), heads_of(k), heads_of(v),
                              heads_of(out.transpose(1, 2)), norms.data_ptr<float>()};
  const int64_t tasks = q.size(0) * k.size(1) * blocks(q.size(2), kChunk);
  share(call, tasks, amx_attention()->forward_scratch(call.shape), amx_attention()->forward);
  return {out, norms};
}

std::tuple<Tensor, Tensor, Tensor> attention_backward(const Tensor& grad, const Tensor& q, const Tensor& k,
                                                      const Tensor& v, const Tensor& out, const Tensor& norms,
                                                      bool causal, double scale) {
  Tensor grad_q = rows_like(q), grad_k = rows_like(k), grad_v = rows_like(v);
  const AttentionBackward call{shape_of(q, k, causal, scale),
                               heads_of(q),
                               heads_of(k),
                               heads_of(v),
                               heads_of(out.transpose(1, 2)),
                               heads_of(grad.transpose(1, 2)),
                               heads_of(grad_q.transpose(1, 2)),
                               heads_of(grad_k.transpose(1, 2)),
                               heads_of(grad_v.transpose(1, 2)),
                               norms.const_data_ptr<float>()};
  share(call, q.size(0) * k.size(1), amx_attention()->backward_scratch(call.shape), amx_attention()->backward);
  return {grad_q, grad_k, grad_v};
}

bool has_attention() { return amx_attention() != nullptr; }

}  // namespace

TORCH_LIBRARY_FRAGMENT(pennyweight, m) {
  m.def("attention(Tensor q, Tensor k, Tensor v, bool causal, float scale) -> (Tensor, Tensor)");
  m.def("attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor norms, bool causal,"
        " float scale) -> (Tensor, Tensor, Tensor)");
  m.def("has_attention() -> bool", has_attention);
}

TORCH_LIBRARY_IMPL(pennyweight, CPU, m) {
  m.impl("attention", attention);
  m.impl("attention_backward", attention_backward);
}

}  // namespace pennyweight
