// The operators as PyTorch sees them: outputs, threads, and which door is taken. Shapes and dtypes are checked by the
// Python that calls them (kernels/integer_linear.py); every loop here trusts them.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "door.h"
#include "reads.h"
#include "squares.h"
#include "tasks.h"

namespace pennyweight {

const Door*& taken() {
  static const Door* door = amx() ? amx() : avx512() ? avx512() : avxvnni() ? avxvnni() : avx2() ? avx2() : plain();
  return door;
}

namespace {

using at::Tensor;

constexpr int64_t kTileBytes = kTile * kTerms;
constexpr int64_t kHeight = 256;           // rows of the left operand that a task multiplies
constexpr int64_t kCached = 768 * 1024;    // bytes of packed panels that a task multiplies: they stay in a second-level cache
constexpr int64_t kRowsTask = 32 * 1024;   // numbers written by one task
constexpr int64_t kSquaresTask = 64 * 1024;  // numbers whose squares one task adds up

Number number_of(const Tensor& x) {
  return x.scalar_type() == at::kFloat ? Number::fp32 : x.scalar_type() == at::kHalf ? Number::fp16 : Number::bf16;
}

Matrix matrix_of(const Tensor& x) { return {x.const_data_ptr(), number_of(x), x.size(0), x.size(1), x.stride(0)}; }

const float* floats(const Tensor& x) { return x.const_data_ptr<float>(); }

Tensor new_codes(const Tensor& like, at::IntArrayRef sizes) { return at::empty(sizes, like.options().dtype(at::kChar)); }
Tensor new_floats(const Tensor& like, at::IntArrayRef sizes) { return at::empty(sizes, like.options().dtype(at::kFloat)); }

struct Written {
  Tensor codes, scales;
};

// The scales of the columns, from the largest magnitudes that each part of the rows has in them.
void scale_columns(const std::vector<float>& largest, int64_t columns, float* scales) {
  std::fill(scales, scales + columns, 0.0f);
  for (size_t part = 0; part < largest.size(); part += columns)
    for (int64_t c = 0; c < columns; ++c) {
      const float most = largest[part + c];
      scales[c] = most > scales[c] || most != most ? most : scales[c];  // a NaN stays, no number is above it
    }
  for (int64_t c = 0; c < columns; ++c) scales[c] = Group(scales[c]).stored;
}

// A matrix with one scale a row, or with one a column; its codes lie as the matrix does.
Written write(const Tensor& x, const float* fold, bool by_columns) {
  const Matrix from = matrix_of(x);
  Written to{new_codes(x, {from.rows, from.columns}), new_floats(x, {by_columns ? from.columns : from.rows})};
  int8_t* codes = to.codes.data_ptr<int8_t>();
  float* scales = to.scales.data_ptr<float>();
  const int64_t height = std::max<int64_t>(1, kRowsTask / from.columns), tasks = blocks(from.rows, height);
  const auto end = [&](int64_t task) { return std::min(from.rows, (task + 1) * height); };
  if (!by_columns) {
    share(tasks, [&](int64_t task) { taken()->write_rows(from, fold, task * height, end(task), codes, scales); });
    return to;
  }
  std::vector<float> largest(tasks * from.columns);
  share(tasks, [&](int64_t task) {
    taken()->measure_columns(from, task * height, end(task), largest.data() + task * from.columns);
  });
  scale_columns(largest, from.columns, scales);
  share(tasks, [&](int64_t task) { taken()->write_columns(from, scales, task * height, end(task), codes); });
  return to;
}

// The codes and scales of a weight: those given, or written now with one scale for each of its outputs.
Written weight_of(const Tensor& weight, const std::optional<Tensor>& scales, bool turned) {
  return scales ? Written{weight, *scales} : write(weight, nullptr, turned);
}

// The right operand of a product: from codes [columns, terms], or, turned, from codes [terms, columns].
Tensor pack(const Tensor& codes, bool turned) {
  const int64_t columns = codes.size(turned), terms = codes.size(!turned);
  const int64_t panels = blocks(columns, kPanel), deep = blocks(terms, kTerms);
  Tensor packed = new_codes(codes, {panels * panel_bytes(terms)});
  const int8_t* from = codes.const_data_ptr<int8_t>();
  int8_t* to = packed.data_ptr<int8_t>();
  const int64_t together = turned ? 1 : 4;  // blocks of a panel: runs of memory long enough for stores that are cached
  share(blocks(deep, together), [&](int64_t task) {
    for (int64_t panel = 0; panel < panels; ++panel)
      for (int64_t block = task * together; block < std::min(deep, (task + 1) * together); ++block)
        (turned ? taken()->pack_turned : taken()->pack)(from, columns, terms, panel, block, to);
  });
  return packed;
}

Left rows_of(const Tensor& codes) {
  const int64_t columns = codes.size(1);
  return {codes.const_data_ptr<int8_t>(), codes.size(0), columns, kTile * columns, kTerms, columns};
}

void multiply(const Left& left, const Tensor& packed, const Result& out) {
  const int8_t* right = packed.const_data_ptr<int8_t>();
  const int64_t panels = blocks(out.columns, kPanel);
  const int64_t width = std::max<int64_t>(1, kCached / panel_bytes(left.terms)), across = blocks(panels, width);
  const int64_t tasks = across * blocks(left.rows, kHeight);
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min<int64_t>(at::get_num_threads(), tasks), 1, [&](int64_t, int64_t) {
    taken()->enter();
    for (int64_t task; (task = next.fetch_add(1)) < tasks;) {
      const int64_t first = task / across * kHeight, from = task % across * width;
      taken()->multiply(left, right, from, std::min(panels, from + width), first, std::min(left.rows, first + kHeight),
                        out);
    }
    taken()->leave();
  });
}

Result result(Tensor& out, bool turned, const Tensor& row, const float* column, const float* bias) {
  return {out.data_ptr(), number_of(out), turned, out.size(!turned), out.size(1), floats(row), column, bias};
}

// Codes [rows, terms] with zeros behind each block, so that every block begins at a multiple of 64 terms.
Tensor spread(const Tensor& codes, int64_t block, int64_t step) {
  if (block == step) return codes;
  const int64_t rows = codes.size(0), terms = codes.size(1), count = blocks(terms, block);
  Tensor out = at::zeros({rows, count * step}, codes.options());
  const int8_t* from = codes.const_data_ptr<int8_t>();
  int8_t* to = out.data_ptr<int8_t>();
  share(blocks(rows, kStrip), [&](int64_t task) {
    for (int64_t r = task * kStrip; r < std::min(rows, (task + 1) * kStrip); ++r)
      for (int64_t b = 0; b < count; ++b)
        std::copy_n(from + r * terms + b * block, std::min(block, terms - b * block), to + (r * count + b) * step);
  });
  return out;
}

// Y [rows, columns] of codes with one scale for each `block` terms: [rows, blocks] and [columns, blocks].
Tensor int8_blocks(const Tensor& codes, const Tensor& scales, const Tensor& right, const Tensor& right_scales,
                   int64_t block, const std::optional<Tensor>& bias, at::ScalarType dtype) {
  const int64_t step = blocks(block, kTerms) * kTerms, count = scales.size(1), columns = right.size(0);
  const Tensor left = spread(codes, block, step), packed = pack(spread(right, block, step), false);
  Tensor across = at::zeros({count, blocks(columns, kPanel) * kPanel}, scales.options());
  for (int64_t n = 0; n < columns; ++n)
    for (int64_t b = 0; b < count; ++b)
      across.data_ptr<float>()[b * across.size(1) + n] = floats(right_scales)[n * count + b];
  Tensor out = at::empty({codes.size(0), columns}, codes.options().dtype(dtype));
  multiply(rows_of(left), packed,
           {out.data_ptr(), number_of(out), false, columns, columns, nullptr, nullptr, bias ? floats(*bias) : nullptr,
            {step, block, count, across.size(1), floats(scales), floats(across)}});
  return out;
}

// G [T, O], written twice: with one scale a row, after the columns' factor `fold`; and turned, with one scale a column,
// after the rows' factor `fold_down`, in tiles for the left side of a product: tile (i, j) `i down + j across` bytes on.
struct Gradient {
  Written rows;
  Tensor turned, scales, sum;
  int64_t down = 0;
};

Gradient write_gradient(const Tensor& g, const float* fold, const float* fold_down) {
  const Matrix from = matrix_of(g);
  const int64_t strips = blocks(from.rows, kStrip), columns = from.columns;
  Gradient to{{new_codes(g, {from.rows, columns}), new_floats(g, {from.rows})}, {}, new_floats(g, {columns}),
              new_floats(g, {columns})};
  std::vector<float> largest(strips * columns), sums(strips * columns);
  int8_t* codes = to.rows.codes.data_ptr<int8_t>();
  float *row_scales = to.rows.scales.data_ptr<float>(), *scales = to.scales.data_ptr<float>();
  float* total = to.sum.data_ptr<float>();
  share(strips, [&](int64_t strip) {
    const int64_t first = strip * kStrip, place = strip * columns;
    taken()->write_strip(from, fold, fold_down, first, std::min(from.rows, first + kStrip), codes, row_scales,
                         largest.data() + place, sums.data() + place);
  });
  scale_columns(largest, columns, scales);
  std::fill(total, total + columns, 0.0f);
  for (int64_t strip = 0; strip < strips; ++strip)
    for (int64_t c = 0; c < columns; ++c) total[c] += sums[strip * columns + c];
  // The tiles that a product sums lie behind each other; an odd number of them lets the next 16 rows' tiles fall on
  // other sets of the caches.
  const int64_t down = blocks(columns, kTile), group = 64, groups = blocks(down, group);
  to.down = (strips | 1) * kTileBytes;
  to.turned = new_codes(g, {down * to.down});
  int8_t* tile = to.turned.data_ptr<int8_t>();
  share(strips * groups, [&](int64_t task) {
    const int64_t strip = task / groups, start = task % groups * group;
    for (int64_t j = start; j < std::min(down, start + group); ++j)
      taken()->write_tile(from, fold_down, scales, strip, j, tile + j * to.down + strip * kTileBytes);
  });
  return to;
}

std::tuple<Tensor, Tensor> write_rows(const Tensor& x, const std::optional<Tensor>& fold) {
  Written written = write(x, fold ? floats(*fold) : nullptr, false);
  return {written.codes, written.scales};
}

Tensor read_rows_as(const Tensor& codes, const Tensor& scales, at::ScalarType dtype) {
  const int64_t rows = codes.size(0), columns = codes.size(1), height = std::max<int64_t>(1, kRowsTask / columns);
  Tensor out = at::empty(codes.sizes(), codes.options().dtype(dtype));
  const int8_t* from = codes.const_data_ptr<int8_t>();
  void* to = out.data_ptr();
  share(blocks(rows, height), [&](int64_t task) {
    const int64_t first = task * height, last = std::min(rows, first + height);
    read_rows(from, floats(scales), columns, first, last, dtype == at::kBFloat16, to);
  });
  return out;
}

Tensor int8_linear(const Tensor& codes, const Tensor& scales, const Tensor& weight, bool turned,
                   const std::optional<Tensor>& bias, at::ScalarType dtype,
                   const std::optional<Tensor>& weight_scales) {
  const Written w = weight_of(weight, weight_scales, turned);
  const Tensor packed = pack(w.codes, turned);
  Tensor out = at::empty({codes.size(0), weight.size(turned)}, codes.options().dtype(dtype));
  multiply(rows_of(codes), packed, result(out, false, scales, floats(w.scales), bias ? floats(*bias) : nullptr));
  return out;
}

std::tuple<Tensor, Tensor, Tensor> int8_linear_backward(const Tensor& grad, const Tensor& codes, const Tensor& scales,
                                                        const Tensor& weight, bool turned, at::ScalarType dtype,
                                                        const std::optional<Tensor>& weight_scales) {
  const Written w = weight_of(weight, weight_scales, turned);
  const Gradient g = write_gradient(grad, floats(w.scales), floats(scales));
  Tensor grad_x = at::empty(codes.sizes(), codes.options().dtype(dtype));
  multiply(rows_of(g.rows.codes), pack(w.codes, !turned), result(grad_x, false, g.rows.scales, nullptr, nullptr));
  Tensor grad_weight = weight_scales ? new_floats(weight, weight.sizes()) : at::empty(weight.sizes(), weight.options());
  const Left left{g.turned.const_data_ptr<int8_t>(), grad.size(1), grad.size(0), g.down, kTileBytes, kTerms};
  multiply(left, pack(codes, true), result(grad_weight, turned, g.scales, nullptr, nullptr));
  return {grad_x, grad_weight, g.sum};
}

// The sum of squares of each of many contiguous tensors of fp32 or bf16, as doubles; the number of threads changes no bit.
Tensor squares_of(at::TensorList tensors) {
  struct Part {
    size_t tensor;
    int64_t first, size;
    double sum;
  };
  std::vector<Part> parts;
  for (size_t t = 0; t < tensors.size(); ++t)
    for (int64_t first = 0, size = tensors[t].numel(); first < size; first += kSquaresTask)
      parts.push_back({t, first, std::min(kSquaresTask, size - first), 0.0});
  share(parts.size(), [&](int64_t task) {
    Part& part = parts[task];
    const Tensor& x = tensors[part.tensor];
    part.sum = x.scalar_type() == at::kFloat
                   ? squares(x.const_data_ptr<float>() + part.first, part.size)
                   : squares(static_cast<const uint16_t*>(x.const_data_ptr()) + part.first, part.size);
  });
  Tensor out = at::zeros({int64_t(tensors.size())}, at::kDouble);
  double* sums = out.data_ptr<double>();
  for (const Part& part : parts) sums[part.tensor] += part.sum;
  return out;
}

std::string door_name() { return taken()->name; }

// For tests: takes the door of that name if this machine has it.
bool take_door(const std::string& name) {
  for (const Door* door : {amx(), avx512(), avxvnni(), avx2(), plain()})
    if (door && name == door->name) {
      taken() = door;
      return true;
    }
  return false;
}

}  // namespace

TORCH_LIBRARY(pennyweight, m) {
  m.def("write_rows(Tensor x, Tensor? fold) -> (Tensor, Tensor)");
  m.def("read_rows(Tensor codes, Tensor scales, ScalarType dtype) -> Tensor");
  m.def("int8_linear(Tensor codes, Tensor scales, Tensor weight, bool turned, Tensor? bias, ScalarType dtype,"
        " Tensor? weight_scales=None) -> Tensor");
  m.def("int8_linear_backward(Tensor grad, Tensor codes, Tensor scales, Tensor weight, bool turned, ScalarType dtype,"
        " Tensor? weight_scales=None) -> (Tensor, Tensor, Tensor)");
  m.def("int8_blocks(Tensor codes, Tensor scales, Tensor right, Tensor right_scales, int block, Tensor? bias,"
        " ScalarType dtype) -> Tensor");
  m.def("squares(Tensor[] tensors) -> Tensor");
  m.def("door_name() -> str", door_name);
  m.def("take_door(str name) -> bool", take_door);
}

TORCH_LIBRARY_IMPL(pennyweight, CPU, m) {
  m.impl("write_rows", write_rows);
  m.impl("read_rows", read_rows_as);
  m.impl("int8_linear", int8_linear);
  m.impl("int8_linear_backward", int8_linear_backward);
  m.impl("int8_blocks", int8_blocks);
  m.impl("squares", squares_of);
}

}  // namespace pennyweight
