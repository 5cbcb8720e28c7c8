// The AdamW steps on 8-bit moments as PyTorch sees them: threads, and in what order a weight without a master copy is
// read, moved and written. The Python that calls them (kernels/written_adamw.py) checks shapes and dtypes.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <mutex>
#include <numeric>
#include <optional>
#include <vector>

#include "door.h"
#include "moments.h"
#include "stored.h"
#include "tasks.h"

namespace pennyweight {
namespace {

using at::Tensor;

constexpr int64_t kMomentsTask = 64 * 1024;  // elements that a task steps: what it asks for ahead is wasted at its end
constexpr int64_t kChunk = 4096;  // elements of a weight that are numbers at once: they stay in a first-level cache
constexpr int64_t kLargestChunk = 64 * 1024;  // where rows begin blocks only that far apart: a second-level cache

// Moments in place; `weights` is not set yet. The keys of the noise come together, or not at all.
Slice slice_of(const Tensor& gradient, Tensor& m_codes, Tensor& m_scales, int64_t m_block, Tensor& v_codes,
               Tensor& v_scales, Tensor& v_spans, int64_t v_block, std::optional<int64_t> m_key,
               std::optional<int64_t> v_key, int64_t start) {
  return {nullptr, gradient.const_data_ptr(), gradient.scalar_type() == at::kBFloat16, gradient.numel(),
          m_codes.data_ptr<int8_t>(), m_scales.data_ptr<float>(), m_block, v_codes.data_ptr<uint8_t>(),
          v_scales.data_ptr<float>(), v_spans.data_ptr<float>(), v_block, m_key && v_key,
          static_cast<uint64_t>(m_key.value_or(0)), static_cast<uint64_t>(v_key.value_or(0)),
          static_cast<uint64_t>(start)};
}

// Elements [first, last) of a slice, where `first` begins a block of both moments, and their weights.
Slice part_of(Slice s, int64_t first, int64_t last, float* weights) {
  s.weights = weights;
  s.gradient = static_cast<const char*>(s.gradient) + first * (s.bf16 ? 2 : 4);
  s.size = last - first;
  s.m_codes += first, s.m_scales += first / s.m_block;
  s.v_codes += first, s.v_scales += first / s.v_block, s.v_spans += first / s.v_block;
  s.start += first;
  return s;
}

Step step_of(at::ArrayRef<double> step) {
  const auto f = [&](int i) { return static_cast<float>(step[i]); };
  return {f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7)};
}

// Elements of a task: `unit` or a multiple of it.
int64_t task_of(int64_t size, int64_t unit) {
  const int64_t fair = size / (4 * at::get_num_threads());
  return blocks(std::clamp<int64_t>(fair, 4096, kMomentsTask), unit) * unit;
}

// One slice's share of a call, from its task `first` on.
struct Part {
  Slice slice;
  Step step;
  int64_t task_size, first;
};

// Steps all slices, each in tasks of its own; the threads take them from all slices as from one.
void step_all(std::vector<Part>& parts) {
  int64_t tasks = 0;
  for (Part& part : parts) {
    part.task_size = task_of(part.slice.size, std::max(part.slice.m_block, part.slice.v_block));
    part.first = tasks;
    tasks += blocks(part.slice.size, part.task_size);
  }
  share(tasks, [&](int64_t task) {
    const auto later = [](int64_t task, const Part& part) { return task < part.first; };
    const Part& part = *std::prev(std::upper_bound(parts.begin(), parts.end(), task, later));
    const int64_t begin = (task - part.first) * part.task_size;
    adamw(part.slice, part.step, begin, std::min(part.slice.size, begin + part.task_size));
  });
}

// One step of AdamW in place on a slice of a parameter and of its written moments; `step` holds the fields of Step.
void adamw_step(Tensor& weights, const Tensor& gradient, Tensor& m_codes, Tensor& m_scales, int64_t m_block,
                Tensor& v_codes, Tensor& v_scales, Tensor& v_spans, int64_t v_block, at::ArrayRef<double> step,
                const std::optional<int64_t> m_key, const std::optional<int64_t> v_key, int64_t start) {
  Slice slice = slice_of(gradient, m_codes, m_scales, m_block, v_codes, v_scales, v_spans, v_block, m_key, v_key, start);
  slice.weights = weights.data_ptr<float>();
  std::vector<Part> parts{{slice, step_of(step)}};
  step_all(parts);
}

// The same on many whole parameters; `steps` holds the fields of Step for each, one behind the other, and no keys are
// given where codes are rounded to nearest.
void adamw_steps(at::TensorList weights, at::TensorList gradients, at::TensorList m_codes, at::TensorList m_scales,
                 int64_t m_block, at::TensorList v_codes, at::TensorList v_scales, at::TensorList v_spans,
                 int64_t v_block, at::ArrayRef<double> steps, at::IntArrayRef m_keys, at::IntArrayRef v_keys) {
  std::vector<Part> parts;
  for (size_t i = 0; i < weights.size(); ++i) {
    Tensor m = m_codes[i], m_scale = m_scales[i], v = v_codes[i], v_scale = v_scales[i], v_span = v_spans[i];
    std::optional<int64_t> m_key, v_key;
    if (!m_keys.empty()) m_key = m_keys[i], v_key = v_keys[i];
    Slice slice = slice_of(gradients[i], m, m_scale, m_block, v, v_scale, v_span, v_block, m_key, v_key, 0);
    slice.weights = weights[i].data_ptr<float>();
    parts.push_back({slice, step_of(steps.slice(8 * i, 8))});
  }
  step_all(parts);
}

// Calls work(first, last, numbers) for every chunk of a weight, with numbers for one chunk in float32.
template <class Take, class Work>
void each_chunk(const Take& take, int64_t size, int64_t task_size, int64_t chunk, const Work& work) {
  Tensor numbers = at::empty({chunk}, at::kFloat);
  for (int64_t task; (task = take()) >= 0;)
    for (int64_t first = task * task_size, end = std::min(size, first + task_size); first < end; first += chunk)
      work(first, std::min(end, first + chunk), numbers.data_ptr<float>());
}

// The same step on a weight that is its codes, with a fresh scale for each output: how many of its numbers were told to
// move, and how many of those stayed. Where chunks are whole rows of outputs, everything is done on a chunk while it is
// in the cache. Else every chunk is moved twice, first to measure the outputs.
Tensor adamw_step_on_codes(Tensor& codes, Tensor& scales, bool turned, bool power, const Tensor& gradient,
                           Tensor& m_codes, Tensor& m_scales, int64_t m_block, Tensor& v_codes, Tensor& v_scales,
                           Tensor& v_spans, int64_t v_block, at::ArrayRef<double> step, const std::optional<int64_t> key,
                           const std::optional<int64_t> m_key, const std::optional<int64_t> v_key) {
  const Slice slice = slice_of(gradient, m_codes, m_scales, m_block, v_codes, v_scales, v_spans, v_block, m_key, v_key, 0);
  const Step scalars = step_of(step);
  const int64_t size = codes.numel(), columns = codes.size(1), large = std::max(m_block, v_block);
  Tensor fresh = at::empty({2, scales.numel()}, scales.options());
  const StoredWeight w{codes.data_ptr<int8_t>(), scales.const_data_ptr<float>(), fresh.data_ptr<float>(),
                       fresh.data_ptr<float>() + scales.numel(), codes.size(0), columns, turned, power,
                       key.has_value(), static_cast<uint64_t>(key.value_or(0))};
  const int64_t rows = std::lcm(columns, large);
  const bool whole = !turned && rows <= kLargestChunk;
  const int64_t unit = whole ? rows : large, chunk = blocks(kChunk, unit) * unit, task_size = task_of(size, chunk);
  std::vector<uint32_t> largest(w.outputs());
  std::mutex mutex;
  if (!whole) {
    share_by_thread(blocks(size, task_size), [&](const auto& take) {
      std::vector<uint32_t> own(w.outputs());
      each_chunk(take, size, task_size, chunk, [&](int64_t first, int64_t last, float* numbers) {
        read_codes(w, first, last, numbers);
        adamw_move(part_of(slice, first, last, numbers), scalars, 0, last - first);
        measure_outputs(w, first, last, numbers, own.data());
      });
      const std::lock_guard<std::mutex> lock(mutex);
      for (size_t o = 0; o < own.size(); ++o) largest[o] = std::max(largest[o], own[o]);
    });
    scale_outputs(w, 0, w.outputs(), largest.data());
  }
  Moves total;
  share_by_thread(blocks(size, task_size), [&](const auto& take) {
    Moves own;
    each_chunk(take, size, task_size, chunk, [&](int64_t first, int64_t last, float* numbers) {
      read_codes(w, first, last, numbers);
      adamw(part_of(slice, first, last, numbers), scalars, 0, last - first);
      if (whole) {
        measure_outputs(w, first, last, numbers, largest.data());
        scale_outputs(w, first / columns, last / columns, largest.data());
      }
      const Moves moves = write_codes(w, first, last, numbers);
      own.moved += moves.moved, own.swallowed += moves.swallowed;
    });
    const std::lock_guard<std::mutex> lock(mutex);
    total.moved += own.moved, total.swallowed += own.swallowed;
  });
  scales.copy_(fresh[0]);
  Tensor counts = at::empty({2}, at::kLong);
  counts.data_ptr<int64_t>()[0] = total.moved;
  counts.data_ptr<int64_t>()[1] = total.swallowed;
  return counts;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pennyweight, m) {
  m.def("adamw_step(Tensor(a!) weights, Tensor gradient, Tensor(b!) m_codes, Tensor(c!) m_scales, int m_block,"
        " Tensor(d!) v_codes, Tensor(e!) v_scales, Tensor(f!) v_spans, int v_block, float[] step, int? m_key, int? v_key,"
        " int start) -> ()");
  m.def("adamw_steps(Tensor(a!)[] weights, Tensor[] gradients, Tensor(b!)[] m_codes, Tensor(c!)[] m_scales, int m_block,"
        " Tensor(d!)[] v_codes, Tensor(e!)[] v_scales, Tensor(f!)[] v_spans, int v_block, float[] steps, int[] m_keys,"
        " int[] v_keys) -> ()");
  m.def("adamw_step_on_codes(Tensor(a!) codes, Tensor(b!) scales, bool turned, bool power, Tensor gradient,"
        " Tensor(c!) m_codes, Tensor(d!) m_scales, int m_block, Tensor(e!) v_codes, Tensor(f!) v_scales,"
        " Tensor(g!) v_spans, int v_block, float[] step, int? key, int? m_key, int? v_key) -> Tensor");
  m.def("has_adamw() -> bool", has_adamw);
}

TORCH_LIBRARY_IMPL(pennyweight, CPU, m) {
  m.impl("adamw_step", adamw_step);
  m.impl("adamw_steps", adamw_steps);
  m.impl("adamw_step_on_codes", adamw_step_on_codes);
}

}  // namespace pennyweight
