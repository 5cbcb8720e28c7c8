// How operators share their work between the threads of PyTorch.
#pragma once
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace pennyweight {

// Calls `thread` once on each thread that is used; it takes tasks 0 .. tasks - 1 from its argument until that is negative.
template <class Thread>
void share_by_thread(int64_t tasks, const Thread& thread) {
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min<int64_t>(at::get_num_threads(), tasks), 1, [&](int64_t, int64_t) {
    thread([&] {
      const int64_t task = next.fetch_add(1);
      return task < tasks ? task : -1;
    });
  });
}

// Each task is taken by the next free thread: on a shared machine no thread waits for a slow one. Taking one is a locked
// instruction: what the task before has streamed past the caches is then there for all.
template <class Work>
void share(int64_t tasks, const Work& work) {
  share_by_thread(tasks, [&](const auto& take) {
    for (int64_t task; (task = take()) >= 0;) work(task);
  });
}

}  // namespace pennyweight
