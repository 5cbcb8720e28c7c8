// Products in blocks: some rows of the left operand times two vectors of columns in registers, of any width.
// Included behind its users' target pragma, and behind finish.h or portable.h, which scale and store the sums.
//
// A Unit is one way to multiply and add:
//   Word, Vector     4 codes of the left operand as they are broadcast; 32-bit sums, or codes of the right operand
//   kRows, kHeight   rows in registers at once; rows read together, a multiple of kRows and at most a panel's 32
//   kColumns         columns of one vector, 4 terms of each
//   kShift           whether `read` adds 128 to every code, because the instruction takes words without a sign
//   read             64 codes -> 16 words
//   load, add        codes of the right operand as a vector; sums + word x codes
//   shift            sums + 128 x codes: the excess of a column, taken off again
//   store            two vectors of sums, less the excess, to memory, or added to what is there
#pragma once
#include <algorithm>
#include <cstring>
#include <memory>

#include "door.h"

namespace pennyweight {
namespace {

constexpr int64_t kDepth = 512;  // terms summed at once: a panel's 16 kB stay in a first-level cache
constexpr int64_t kGroups = kTerms / 4;
constexpr int64_t kBlockBytes = kTerms * kPanel;

// Where column c of a panel begins in every block of 64 terms.
constexpr int64_t column_place(int64_t c) { return c / kTile * kTile * kTerms + c % kTile * 4; }

// kRows rows, `stride` words apart, times two vectors of columns: `groups` times four terms.
template <class Unit>
inline void multiply_rows(const typename Unit::Word* left, int64_t stride, const int8_t* right, int64_t groups,
                          typename Unit::Vector (&total)[Unit::kRows][2]) {
  constexpr int64_t beside = column_place(Unit::kColumns);
#pragma GCC unroll 8
  for (int64_t r = 0; r < Unit::kRows; ++r) total[r][0] = total[r][1] = Unit::zero();
  for (; groups > 0; groups -= kGroups, left += kGroups, right += kBlockBytes)
    for (int64_t g = 0; g < std::min(groups, kGroups); ++g) {
      const auto low = Unit::load(right + g * 64), high = Unit::load(right + g * 64 + beside);
#pragma GCC unroll 8
      for (int64_t r = 0; r < Unit::kRows; ++r) {
        const typename Unit::Word word = left[r * stride + g];
        total[r][0] = Unit::add(total[r][0], word, low);
        total[r][1] = Unit::add(total[r][1], word, high);
      }
    }
}

// Rows [m, m + rows) of the left operand as words, zeros behind their ends; `stride` words a row.
template <class Unit>
void read_rows(const Left& left, int64_t m, int64_t rows, typename Unit::Word* to, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r) {
    const int8_t* row = left.data + (m + r) / kTile * left.down + (m + r) % kTile * left.stride;
    for (int64_t j = 0; j * kTerms < left.terms; ++j) {
      alignas(64) int8_t edge[kTerms] = {};
      const int8_t* from = row + j * left.across;
      if (left.terms - j * kTerms < kTerms)
        from = static_cast<const int8_t*>(std::memcpy(edge, from, left.terms - j * kTerms));
      Unit::read(from, to + r * stride + j * kGroups);
    }
  }
}

template <class Unit>
struct Blocked {
  using Word = typename Unit::Word;

  // Of every column of some panels and of every part of their terms: 128 times the sum of its codes.
  static void measure(const int8_t* packed, int64_t panels, int64_t terms, int64_t depth, int32_t* excess) {
    for (int64_t panel = 0; panel < panels; ++panel, packed += panel_bytes(terms))
      for (int64_t k = 0; k < terms; k += depth, excess += kPanel)
        for (int64_t c = 0; c < kPanel; c += Unit::kColumns) {
          auto total = Unit::zero();
          const int8_t* right = packed + k * kPanel + column_place(c);
          for (int64_t g = 0; g < std::min(depth, terms - k); g += 4)
            total = Unit::shift(total, Unit::load(right + g / kTerms * kBlockBytes + g % kTerms * 16));
          std::memcpy(excess + c, &total, sizeof total);
        }
  }

  static void multiply(const Left& left, const int8_t* packed, int64_t from, int64_t to, int64_t first, int64_t last,
                       const Result& out) {
    const Blocks& scales = out.blocks;
    const int64_t depth = scales.step ? scales.step : kDepth, deep = scales.step ? scales.terms : kDepth;
    const int64_t panel_size = panel_bytes(left.terms), parts = blocks(left.terms, depth);
    const int64_t stride = (blocks(left.terms, kTerms) + 1) * kGroups;  // rows on other sets of the cache
    const std::unique_ptr<Word[]> words(new Word[Unit::kHeight * stride]);
    const std::unique_ptr<int32_t[]> excess(new int32_t[(to - from) * parts * kPanel]);
    if constexpr (Unit::kShift) measure(packed + from * panel_size, to - from, left.terms, depth, excess.get());
    alignas(64) int32_t sums[kPanel * kPanel];
    alignas(64) float totals[kPanel * kPanel];
    for (int64_t m = first; m < last; m += Unit::kHeight) {
      const int64_t rows = std::min(Unit::kHeight, last - m);
      read_rows<Unit>(left, m, rows, words.get(), stride);
      for (int64_t panel = from; panel < to; ++panel) {
        if (scales.step) std::memset(totals, 0, sizeof totals);
        for (int64_t part = 0; part < parts; ++part) {
          const int64_t k = part * depth, groups = blocks(std::min(deep, left.terms - k), 4);
          const int8_t* right = packed + panel * panel_size + k * kPanel;
          const int32_t* over = excess.get() + ((panel - from) * parts + part) * kPanel;
          sum(words.get() + k / 4, stride, right, rows, groups, over, part > 0 && !scales.step, sums);
          if (scales.step) add_scaled(sums, scales, part, m, panel * kPanel, 0, rows, totals);
        }
        finish(scales.step ? static_cast<void*>(totals) : sums, m, panel * kPanel, rows, out);
      }
    }
  }

 private:
  // `rows` rows times one panel: sums [rows, 32], or added to them.
  static void sum(const Word* words, int64_t stride, const int8_t* right, int64_t rows, int64_t groups,
                  const int32_t* excess, bool again, int32_t* sums) {
    typename Unit::Vector total[Unit::kRows][2];
    for (int64_t c = 0; c < kPanel; c += 2 * Unit::kColumns)
      for (int64_t r = 0; r < rows; r += Unit::kRows) {
        multiply_rows<Unit>(words + r * stride, stride, right + column_place(c), groups, total);
#pragma GCC unroll 8
        for (int64_t i = 0; i < Unit::kRows; ++i) Unit::store(total[i], excess + c, again, sums + (r + i) * kPanel + c);
      }
  }
};

}  // namespace
}  // namespace pennyweight
