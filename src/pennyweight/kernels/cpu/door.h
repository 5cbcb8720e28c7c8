// What one instruction set has to be able to do, and how the matrices it shares with the others lie in memory.
//
// A product is out[m, n] = sum_k left[m, k] right[n, k] on int8 codes. The left operand is read in tiles of 16 rows x
// 64 terms, straight from a row-major matrix or from one already cut into tiles. The right operand is packed in panels
// of 32 columns: a sequence of blocks of 64 terms, each two tiles of 16 columns, each 16 groups of 4 terms x 16 columns
// x 4 terms: the order in which tile and VNNI instructions eat them. Zeros fill the edges.
#pragma once
#include <cstdint>

namespace pennyweight {

constexpr int64_t kTile = 16;      // rows of a tile
constexpr int64_t kTerms = 64;     // terms of a tile
constexpr int64_t kPanel = 32;     // columns of a packed panel
constexpr int64_t kStrip = 64;     // rows of a gradient written together, and summed in one float32 partial sum
constexpr float kTiny = 0x1p-126f; // a scale below the smallest normal float32 would lose bits: its group is zero

enum class Number { fp32, bf16, fp16 };

// A row-major matrix of numbers: element (r, c) is data[r * stride + c].
struct Matrix {
  const void* data;
  Number number;
  int64_t rows, columns, stride;
};

// The left operand's codes: tile (i, j) starts at data + i * down + j * across; its rows lie `stride` bytes apart.
struct Left {
  const int8_t* data;
  int64_t rows, terms, down, across, stride;
};

// Scales of blocks of terms: block b begins at term b * step, a multiple of 64, and has `terms` of them.
struct Blocks {
  int64_t step = 0, terms = 0;  // step 0: one block of all terms, whose scales stand in Result itself
  int64_t count = 0, columns = 0;
  const float* row = nullptr;     // [rows, count]
  const float* column = nullptr;  // [count, columns], a multiple of 32 of them
};

// Where a product goes: sum * row[m] * column[n] + bias[n], at (m, n), or at (n, m) if turned, as fp32 or bf16; or, of
// blocks, the sum of theirs + bias[n], not turned.
struct Result {
  void* data;
  Number number;
  bool turned;
  int64_t columns, stride;
  const float* row;     // [rows]
  const float* column;  // [columns], or null for 1
  const float* bias;    // [columns], or null for 0
  Blocks blocks = {};
};

inline int64_t blocks(int64_t size, int64_t of) { return (size + of - 1) / of; }
// At most `terms` terms of a left operand from `first` on, a multiple of 64.
inline Left part_of(const Left& left, int64_t first, int64_t terms) {
  const int64_t rest = left.terms - first;
  return {left.data + first / kTerms * left.across, left.rows, rest < terms ? rest : terms,
          left.down,                                left.across, left.stride};
}

inline int64_t panel_bytes(int64_t terms) { return blocks(terms, kTerms) * kTerms * kPanel; }

// How a group of int8 codes is scaled: stored is 0 for a group of zeros and NaN for one that is not finite.
struct Group {
  float stored;
  bool live;  // has codes other than 0

  explicit Group(float largest) {
    const float scale = largest / 127.0f;
    const bool finite = scale <= 0x1.fffffep127f, dead = largest < 127.0f * kTiny;
    stored = !finite ? __builtin_nanf("") : dead ? 0.0f : scale;
    live = finite && !dead;
  }
};

struct Door {
  const char* name;
  // Called by each thread before and after its calls of `multiply`.
  void (*enter)();
  void (*leave)();
  // Rows [first, last) of the left operand times the packed panels [from, to); `first` is a multiple of 32.
  void (*multiply)(const Left&, const int8_t* packed, int64_t from, int64_t to, int64_t first, int64_t last,
                   const Result&);
  // Rows [first, last) of x times fold[column] (null: 1) -> codes [rows, columns], one scale a row.
  void (*write_rows)(const Matrix& x, const float* fold, int64_t first, int64_t last, int8_t* codes, float* scales);
  // The same, and of these rows the largest |x fold_down[row]| and the sum of x of every column.
  void (*write_strip)(const Matrix& x, const float* fold, const float* fold_down, int64_t first, int64_t last,
                      int8_t* codes, float* scales, float* largest, float* sum);
  // Of rows [first, last): the largest magnitude of every column.
  void (*measure_columns)(const Matrix& x, int64_t first, int64_t last, float* largest);
  // Rows [first, last) of x -> codes [rows, columns] by the scales of the columns.
  void (*write_columns)(const Matrix& x, const float* scales, int64_t first, int64_t last, int8_t* codes);
  // Rows [64 i, 64 i + 64) and columns [16 j, 16 j + 16) of x fold_down[row], by the scales of the columns, turned:
  // one tile of 16 columns x 64 rows.
  void (*write_tile)(const Matrix& x, const float* fold_down, const float* scales, int64_t i, int64_t j, int8_t* tile);
  // One block of 64 terms of one panel, from codes that lie [columns, terms], and from codes that lie [terms, columns].
  void (*pack)(const int8_t* codes, int64_t columns, int64_t terms, int64_t panel, int64_t block, int8_t* packed);
  void (*pack_turned)(const int8_t* codes, int64_t columns, int64_t terms, int64_t panel, int64_t block, int8_t* packed);
};

// Each is null where the processor, or the compiler that made this, does not have it.
const Door* amx();
const Door* avx512();
const Door* avxvnni();
const Door* avx2();
const Door* plain();

// The one that is used: the best there is, unless a test takes another.
const Door*& taken();

}  // namespace pennyweight
