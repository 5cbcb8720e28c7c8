// Products of int8 codes on AMX tiles: 16 x 16 sums of 64 terms an instruction.
#include "door.h"

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 11
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <optional>
#pragma GCC target("amx-tile,amx-int8,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")
#define PENNYWEIGHT_BF16
#include "finish.h"

namespace pennyweight {
namespace {

struct alignas(64) TileConfiguration {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

void load_tiles() {
  TileConfiguration configuration;
  for (int tile = 0; tile < 8; ++tile) {
    configuration.row_bytes[tile] = kTerms;
    configuration.rows[tile] = kTile;
  }
  asm volatile("" : : "r"(&configuration) : "memory");  // gcc believes that only the first 8 bytes are read
  _tile_loadconfig(&configuration);
}

void release_tiles() { _tile_release(); }

// Tile (i, j) of a left operand that may end within it, with zeros behind its end.
void copy_edge(const Left& left, int64_t i, int64_t j, int8_t* tile) {
  std::memset(tile, 0, kTile * kTerms);
  const int64_t rows = left.rows - i * kTile, terms = left.terms - j * kTerms;
  const int8_t* from = left.data + i * left.down + j * left.across;
  for (int64_t r = 0; r < rows && r < kTile; ++r)
    std::memcpy(tile + r * kTerms, from + r * left.stride, terms < kTerms ? terms : kTerms);
  asm volatile("" : : "r"(tile) : "memory");
}

inline void sum_tiles(const int8_t* upper, const int8_t* lower, int64_t stride, const int8_t* right) {
  _tile_loadd(6, right, 64);
  _tile_loadd(4, upper, stride);
  _tile_loadd(7, right + kTile * kTerms, 64);
  _tile_dpbssd(0, 4, 6);
  _tile_loadd(5, lower, stride);
  _tile_dpbssd(1, 4, 7);
  _tile_dpbssd(2, 5, 6);
  _tile_dpbssd(3, 5, 7);
}

// Rows [m, m + rows), at most 32, times one panel; `beside` is called after every 64 terms.
template <class Beside>
inline void multiply_block(const Left& left, const int8_t* right, int64_t m, int64_t rows, int32_t* sums,
                           const Beside& beside) {
  alignas(64) int8_t edge[2][kTile * kTerms];
  const int64_t i = m / kTile, steps = blocks(left.terms, kTerms);
  const int64_t whole = rows == 2 * kTile ? left.terms / kTerms : 0;
  const int8_t* upper = left.data + i * left.down;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t j = 0; j < whole; ++j) {
    sum_tiles(upper + j * left.across, upper + left.down + j * left.across, left.stride, right + j * kTerms * kPanel);
    beside(j);
  }
  for (int64_t j = whole; j < steps; ++j) {
    copy_edge(left, i, j, edge[0]);
    copy_edge(left, i + 1, j, edge[1]);
    sum_tiles(edge[0], edge[1], kTerms, right + j * kTerms * kPanel);
  }
  _tile_stored(0, sums, kPanel * 4);
  _tile_stored(1, sums + kTile, kPanel * 4);
  _tile_stored(2, sums + kTile * kPanel, kPanel * 4);
  _tile_stored(3, sums + kTile * kPanel + kTile, kPanel * 4);
  asm volatile("" : : "r"(sums) : "memory");
}

// Blocks of terms, summed with the zeros behind them: while the tiles sum one, the vectors scale the one before it.
void multiply_blocks(const Left& left, const int8_t* packed, int64_t from, int64_t to, int64_t first, int64_t last,
                     const Result& out) {
  alignas(64) int32_t sums[2][kPanel * kPanel];
  alignas(64) float totals[kPanel * kPanel];
  const Blocks& scales = out.blocks;
  const int64_t share = blocks(kPanel, scales.step / kTerms);
  for (int64_t m = first; m < last; m += kPanel)
    for (int64_t panel = from; panel < to; ++panel) {
      const int64_t rows = last - m < kPanel ? last - m : kPanel, n = panel * kPanel;
      const int8_t* right = packed + panel * panel_bytes(left.terms);
      std::memset(totals, 0, sizeof totals);
      for (int64_t b = 0; b < scales.count; ++b, right += scales.step * kPanel) {
        int64_t done = b > 0 ? 0 : rows;  // of the block before
        const auto scale_up_to = [&](int64_t end) {
          end = end < rows ? end : rows;
          if (done < end) add_scaled(sums[~b & 1], scales, b - 1, m, n, done, end, totals);
          done = done < end ? end : done;
        };
        multiply_block(part_of(left, b * scales.step, scales.step), right, m, rows, sums[b & 1],
                       [&](int64_t j) { scale_up_to((j + 1) * share); });
        scale_up_to(rows);
      }
      const int64_t final = scales.count - 1;
      add_scaled(sums[final & 1], scales, final, m, n, 0, rows, totals);
      finish(totals, m, n, rows, out);
    }
}

// While the tiles sum one block, the vectors scale and store the one before it.
void multiply(const Left& left, const int8_t* packed, int64_t from, int64_t to, int64_t first, int64_t last,
              const Result& out) {
  if (out.blocks.step) return multiply_blocks(left, packed, from, to, first, last, out);
  alignas(64) int32_t sums[2][kPanel * kPanel];
  const int64_t share = blocks(kPanel, blocks(left.terms, kTerms));  // rows to finish beside each step
  std::optional<Finish> before;
  int64_t turn = 0;
  for (int64_t m = first; m < last; m += kPanel)
    for (int64_t panel = from; panel < to; ++panel, turn ^= 1) {
      const int64_t rows = last - m < kPanel ? last - m : kPanel;
      const int8_t* right = packed + panel * panel_bytes(left.terms);
      if (before) {
        multiply_block(left, right, m, rows, sums[turn], [&](int64_t j) { before->rows((j + 1) * share); });
        before->end();
      } else {
        multiply_block(left, right, m, rows, sums[turn], [](int64_t) {});
      }
      before.emplace(sums[turn], m, panel * kPanel, rows, out);
    }
  if (before) before->end();
}

// Linux hands out the tiles' registers, once a process, to who asks for them.
bool permitted() {
  constexpr long request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

const Door* made() {
  const Door* wide = avx512();
  const bool able = wide && __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-int8") &&
                    __builtin_cpu_supports("avx512bf16");
  if (!able || !permitted()) return nullptr;
  static Door door = *wide;
  door.name = "AMX";
  door.enter = load_tiles;
  door.leave = release_tiles;
  door.multiply = multiply;
  return &door;
}

}  // namespace

const Door* amx() {
  static const Door* door = made();
  return door;
}

}  // namespace pennyweight
#else
namespace pennyweight {
const Door* amx() { return nullptr; }
}  // namespace pennyweight
#endif
