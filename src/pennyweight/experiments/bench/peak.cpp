// How many operations a second this processor's tile or vector instructions reach when nothing has to be fetched:
// every thread multiplies registers by registers. Prints the name of the instructions, then int8 and bf16 operations a
// second (0: it has none), each the best of several windows. Usage: peak THREADS
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

namespace {

constexpr int kWindows = 8, kRounds = 1 << 16;  // a window of 2^16 rounds lasts some milliseconds

struct alignas(64) TileConfig {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

__attribute__((target("amx-tile"))) void load_tiles() {
  const TileConfig config;
  asm volatile("" : : "r"(&config) : "memory");  // gcc believes that only the first 8 bytes are read
  _tile_loadconfig(&config);
}

// Four sums from two left and two right tiles: 4 x 16 x 16 x 64 int8 or 4 x 16 x 16 x 32 bf16 terms, two operations each.
__attribute__((target("amx-tile,amx-int8"))) double tiles_int8() {
  load_tiles();
  for (int i = 0; i < kRounds; ++i) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  _tile_release();
  return 4.0 * 16 * 16 * 64 * 2 * kRounds;
}

__attribute__((target("amx-tile,amx-bf16"))) double tiles_bf16() {
  load_tiles();
  for (int i = 0; i < kRounds; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
  return 4.0 * 16 * 16 * 32 * 2 * kRounds;
}

// Twelve sums, so that two units with a latency of five cycles never wait.
__attribute__((target("avx512f,avx512vnni"))) double vectors_int8() {
  __m512i sums[12] = {}, left = _mm512_set1_epi8(1), right = left;
  for (int i = 0; i < kRounds; ++i) {
    for (auto& sum : sums) sum = _mm512_dpbusd_epi32(sum, left, right);
    asm volatile("" : "+v"(left), "+v"(right));
  }
  for (auto& sum : sums) asm volatile("" : "+v"(sum));
  return 12.0 * 64 * 2 * kRounds;
}

__attribute__((target("avx512f,avx512bf16"))) double vectors_bf16() {
  __m512 sums[12] = {};
  __m512i left = _mm512_setzero_si512(), right = left;
  for (int i = 0; i < kRounds; ++i) {
    for (auto& sum : sums) sum = _mm512_dpbf16_ps(sum, (__m512bh)left, (__m512bh)right);
    asm volatile("" : "+v"(left), "+v"(right));
  }
  for (auto& sum : sums) asm volatile("" : "+v"(sum));
  return 12.0 * 32 * 2 * kRounds;
}

double best(double (*work)(), int threads) {
  using Clock = std::chrono::steady_clock;
  double most = 0;
  for (int window = 0; window < kWindows; ++window) {
    std::atomic<int> ready{0};
    std::vector<double> rates(threads);
    std::vector<std::thread> all;
    for (int t = 0; t < threads; ++t)
      all.emplace_back([&, t] {
        for (++ready; ready < threads;) {}
        const auto began = Clock::now();
        const double done = work();
        rates[t] = done / std::chrono::duration<double>(Clock::now() - began).count();
      });
    for (auto& one : all) one.join();
    double sum = 0;
    for (double rate : rates) sum += rate;
    most = std::max(most, sum);
  }
  return most;
}

bool tiles_permitted() {
  constexpr int kRequest = 0x1023, kTileData = 18;  // arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
  return __builtin_cpu_supports("amx-int8") && __builtin_cpu_supports("amx-bf16") &&
         syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

}  // namespace

int main(int, char** words) {
  const int threads = std::max(1, std::atoi(words[1]));
  const bool tiles = tiles_permitted();
  double int8 = 0, bf16 = 0;
  if (tiles) {
    int8 = best(tiles_int8, threads), bf16 = best(tiles_bf16, threads);
  } else {
    if (__builtin_cpu_supports("avx512vnni")) int8 = best(vectors_int8, threads);
    if (__builtin_cpu_supports("avx512bf16")) bf16 = best(vectors_bf16, threads);
  }
  std::printf("%s %.6g %.6g\n", tiles ? "AMX" : "AVX-512", int8, bf16);
}
