// Activation functions in one pass over memory, forward and backward, and their slopes in 8 bits.
//
// All of them are y = x s(x) with s the logistic function of a x + b x^3 (SiLU, GELU by tanh, quick GELU) or the normal
// distribution (GELU). One source for all instruction sets.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <tuple>

#include "activation_functions.h"
#include "door.h"

namespace pennyweight {
namespace {

using at::Tensor;

constexpr int64_t kTask = 32 * 1024;   // numbers of one task
constexpr int64_t kLarge = 512 * 1024;  // numbers of a result that no cache of one core keeps

Curve curve_of(int64_t kind) {
  const float c = 1.5957691216057308f;  // 2 sqrt(2 / pi)
  switch (kind) {
    case 0: return {false, 1.0f, 0.0f};             // SiLU
    case 1: return {false, c, c * 0.044715f};       // GELU by tanh
    case 2: return {false, 1.702f, 0.0f};           // quick GELU
    default: return {true, 0.0f, 0.0f};             // GELU
  }
}

template <Way way, class Number>
void run(const Pass<Number>& p, int64_t size) {
  const Door* door = taken();
  const Loop<Number> loop = door == amx() || door == avx512() ? loop_avx512<way, Number>()
                            : door == plain()                 ? loop_plain<way, Number>()
                                                              : loop_avx2<way, Number>();
  at::parallel_for(0, (size + kTask - 1) / kTask, 1, [&](int64_t from, int64_t to) {
    loop(p, from * kTask, std::min(size, to * kTask));
  });
}

template <class Number>
const Number* read(const Tensor& x) {
  return static_cast<const Number*>(x.const_data_ptr());
}

template <Way way>
void each(const Tensor* x, const Tensor* grad, Tensor& out, uint8_t* slopes, int64_t kind) {
  const auto as = [&](auto number) {
    using Number = decltype(number);
    const Pass<Number> p{x ? read<Number>(*x) : nullptr, grad ? read<Number>(*grad) : nullptr,
                         static_cast<Number*>(out.data_ptr()), slopes, curve_of(kind), out.numel() >= kLarge};
    run<way>(p, out.numel());
  };
  out.scalar_type() == at::kFloat ? as(float{}) : as(uint16_t{});
}

Tensor activation(const Tensor& x, int64_t kind) {
  Tensor y = at::empty(x.sizes(), x.options());
  each<Way::forward>(&x, nullptr, y, nullptr, kind);
  return y;
}

std::tuple<Tensor, Tensor> activation_saving(const Tensor& x, int64_t kind) {
  Tensor y = at::empty(x.sizes(), x.options()), slopes = at::empty(x.sizes(), x.options().dtype(at::kByte));
  each<Way::saving>(&x, nullptr, y, slopes.data_ptr<uint8_t>(), kind);
  return {y, slopes};
}

Tensor activation_backward(const Tensor& grad, const Tensor& x, int64_t kind) {
  Tensor out = at::empty(x.sizes(), x.options());
  each<Way::backward>(&x, &grad, out, nullptr, kind);
  return out;
}

Tensor times_slopes(const Tensor& grad, const Tensor& slopes) {
  Tensor out = at::empty(grad.sizes(), grad.options());
  each<Way::slopes>(nullptr, &grad, out, const_cast<uint8_t*>(slopes.const_data_ptr<uint8_t>()), 0);
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pennyweight, m) {
  m.def("activation(Tensor x, int kind) -> Tensor");
  m.def("activation_saving(Tensor x, int kind) -> (Tensor, Tensor)");
  m.def("activation_backward(Tensor grad, Tensor x, int kind) -> Tensor");
  m.def("times_slopes(Tensor grad, Tensor slopes) -> Tensor");
}

TORCH_LIBRARY_IMPL(pennyweight, CPU, m) {
  m.impl("activation", activation);
  m.impl("activation_saving", activation_saving);
  m.impl("activation_backward", activation_backward);
  m.impl("times_slopes", times_slopes);
}

}  // namespace pennyweight
