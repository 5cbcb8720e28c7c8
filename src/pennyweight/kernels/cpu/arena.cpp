// An arena for what PyTorch allocates on the CPU: large blocks lie in one reserved range of addresses, on large pages.
// Freed ones are kept, and the lowest hole that is wide enough is taken, so that a training step's blocks stay packed
// from the bottom.
#if defined(__linux__)
#include <c10/core/CPUAllocator.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <mutex>
#include <unordered_map>
#endif
#include <torch/library.h>

namespace pennyweight {
namespace {

#if defined(__linux__)
constexpr size_t kLarge = 64 * 1024;    // bytes: smaller blocks stay with the allocator that was there before
constexpr size_t kAlign = 64;           // what PyTorch promises of a tensor's first byte
constexpr size_t kHuge = 2 * 1024 * 1024;  // a large page: one entry of the translation buffers instead of 512

size_t rounded(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

class Arena final : public c10::Allocator {
 public:
  // Reserves addresses, not memory, for twice what the machine has: holes take some of them.
  Arena() : small_(c10::GetCPUAllocator()), page_(sysconf(_SC_PAGESIZE)) {
    const size_t size = 2 * size_t(sysconf(_SC_PHYS_PAGES)) * page_;
    void* range = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) return;
    madvise(range, size, MADV_HUGEPAGE);  // where the system has none, small ones do
    end_ = static_cast<char*>(range) + size;
    base_ = top_ = reinterpret_cast<char*>(rounded(reinterpret_cast<uintptr_t>(range), kHuge));
  }

  bool able() const { return base_ != nullptr && small_->raw_deleter() != nullptr; }

  c10::DataPtr allocate(size_t bytes) override;
  c10::DeleterFnPtr raw_deleter() const override;
  void copy_data(void* to, const void* from, size_t count) const override { default_copy_data(to, from, count); }

  void give_back(void* place);
  void trim();
  std::mutex& lock() { return lock_; }

 private:
  char* take(size_t size);
  char* grow(size_t size);

  c10::Allocator* small_;
  size_t page_;
  std::mutex lock_;
  char *base_ = nullptr, *top_ = nullptr, *end_ = nullptr;  // [base, top) can be read and written
  std::map<char*, size_t> holes_;                           // by address; no two of them touch
  std::unordered_map<char*, size_t> taken_;
};

Arena& arena() {
  static Arena* one = new Arena;  // never destroyed: tensors may outlive every static object
  return *one;
}

void delete_block(void* place) { arena().give_back(place); }

c10::DeleterFnPtr Arena::raw_deleter() const { return &delete_block; }

c10::DataPtr Arena::allocate(size_t bytes) {
  void* place = bytes < kLarge ? nullptr : take(rounded(bytes, kAlign));
  if (place)
    c10::profiledCPUMemoryReporter().New(place, bytes);
  else
    place = small_->allocate(bytes).release_context();  // out of memory: it says so in PyTorch's words
  return {place, place, &delete_block, c10::Device(c10::DeviceType::CPU)};
}

char* Arena::take(size_t size) {
  const std::lock_guard<std::mutex> held(lock_);
  const auto wide = [&](const auto& hole) { return hole.second >= size; };
  auto hole = std::find_if(holes_.begin(), holes_.end(), wide);
  if (hole == holes_.end()) {
    if (!grow(size)) return nullptr;
    hole = std::prev(holes_.end());
  }
  const auto [place, room] = *hole;
  holes_.erase(hole);
  if (room > size) holes_.emplace(place + size, room - size);
  taken_.emplace(place, size);
  return place;
}

// Makes the last hole, or a new one at the top, wide enough; null where the system refuses.
char* Arena::grow(size_t size) {
  const auto last = holes_.empty() ? holes_.end() : std::prev(holes_.end());
  const bool ends = last != holes_.end() && last->first + last->second == top_;
  const size_t more = rounded(size - (ends ? last->second : 0), kHuge);
  if (more > size_t(end_ - top_) || mprotect(top_, more, PROT_READ | PROT_WRITE) != 0) return nullptr;
  char* place = ends ? last->first : top_;
  top_ += more;
  holes_[place] = top_ - place;
  return place;
}

void Arena::give_back(void* place) {
  if (place < base_ || place >= end_) return small_->raw_deleter()(place);
  c10::profiledCPUMemoryReporter().Delete(place);
  const std::lock_guard<std::mutex> held(lock_);
  const auto block = taken_.find(static_cast<char*>(place));
  const auto [start, size] = *block;
  taken_.erase(block);
  auto hole = holes_.emplace(start, size).first;
  if (const auto next = std::next(hole); next != holes_.end() && start + size == next->first) {
    hole->second += next->second;
    holes_.erase(next);
  }
  if (hole == holes_.begin()) return;
  if (const auto before = std::prev(hole); before->first + before->second == start) {
    before->second += hole->second;
    holes_.erase(hole);
  }
}

// Hands the memory of the holes back to the system, and the addresses above the last block.
void Arena::trim() {
  const std::lock_guard<std::mutex> held(lock_);
  for (auto hole = holes_.begin(); hole != holes_.end();) {
    auto [start, size] = *hole;
    char* first = base_ + rounded(start - base_, page_);
    char* last = base_ + (start + size - base_) / page_ * page_;
    if (first < last) madvise(first, last - first, MADV_DONTNEED);
    const bool ends = start + size == top_ && first < last && mprotect(first, last - first, PROT_NONE) == 0;
    if (!ends) {
      ++hole;
      continue;
    }
    top_ = first;
    hole = holes_.erase(hole);
    if (start < first) holes_.emplace(start, first - start);
  }
}

bool has_arena() { return arena().able(); }

bool use_arena() {
  if (!has_arena()) return false;
  static const bool once = [] {
    c10::SetCPUAllocator(&arena());
    // A forked process begins with the lock free.
    pthread_atfork([] { arena().lock().lock(); }, [] { arena().lock().unlock(); }, [] { arena().lock().unlock(); });
    return true;
  }();
  return once && c10::GetCPUAllocator() == &arena();
}

void trim_arena() { arena().trim(); }
#else
bool has_arena() { return false; }
bool use_arena() { return false; }
void trim_arena() {}
#endif

}  // namespace

TORCH_LIBRARY_FRAGMENT(pennyweight, m) {
  m.def("has_arena() -> bool", has_arena);
  m.def("use_arena() -> bool", use_arena);
  m.def("trim_arena() -> ()", trim_arena);
}

}  // namespace pennyweight
