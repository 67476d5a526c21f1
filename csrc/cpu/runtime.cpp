// Threads and memory for the kernels: torch's threads, and scratch that is kept from call to call, as fresh pages cost
// more than what is written to them.
#include "runtime.h"

#include <pthread.h>
#include <sys/mman.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>

#include "flush.h"
#include "kernels.h"

namespace fusegrad {
namespace {

// Bytes that a thread keeps between calls; what a layer needs beyond them is taken for the call. To touch new memory
// for the first time takes 0.65 ms a MiB in pages of 4 KiB, 0.11 ms in pages of 2 MiB, where there are such (a Zen 3 in
// a virtual machine, 2026-11-25).
constexpr int64_t kKept = 32 << 20, kLine = 64, kHugePage = 2 << 20;

constexpr int64_t kPartsOfThread = 8;  // (two threads of a Zen 4 beside a busy process, 2026-11-27)

std::atomic<int64_t> held{0};  // by all threads

class Memory {
 public:
  void* at_least(int slot, int64_t bytes) {
    Buffer& buffer = buffers_[slot];
    if (bytes > buffer.size) {
      free(slot);
      const int64_t wanted = bytes + bytes / 8, unit = wanted > 2 * kHugePage ? kHugePage : kLine;
      const int64_t size = (wanted + unit - 1) / unit * unit;
      buffer.data = std::aligned_alloc(unit, size);
      if (buffer.data == nullptr) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
      if (unit == kHugePage) madvise(buffer.data, size, MADV_HUGEPAGE);
#endif
      add(buffer.size = size);
    }
    return buffer.data;
  }

  void give_back(int slot) {
    if (size_ > kKept) free(slot);
  }

  void free(int slot) {
    Buffer& buffer = buffers_[slot];
    std::free(buffer.data);
    add(-buffer.size);
    buffer = {};
  }

  ~Memory() {
    for (int slot = 0; slot < kSlots; slot++) free(slot);
  }

 private:
  struct Buffer {
    void* data = nullptr;
    int64_t size = 0;
  };
  Buffer buffers_[kSlots];
  int64_t size_ = 0;

  void add(int64_t bytes) {
    size_ += bytes;
    held += bytes;
  }
};

thread_local Memory memory;

// The child of a fork has none of the threads that OpenMP believes in, and would wait for them for ever.
bool forked = false;
const int at_fork = pthread_atfork(nullptr, nullptr, [] { forked = true; });

}  // namespace

bool is_intel() {
#if defined(__x86_64__)
  return __builtin_cpu_is("intel");
#else
  return false;
#endif
}

int threads() { return forked ? 1 : int(torch::stable::get_num_threads()); }

// A part is taken by whichever thread is free: one whose core is busy with something else holds up no more than its
// own.
void parallel(int64_t n, int64_t grain, void (*body)(int64_t, int64_t, void*), void* context) {
  const int64_t count = std::min<int64_t>(threads(), (n + grain - 1) / grain);
  if (count <= 1) return n > 0 ? body(0, n, context) : void();
  const int64_t part = std::max(grain, n / (count * kPartsOfThread));
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, count, 1, [&, mode = Rounding::mode()](int64_t, int64_t) {
    const Rounding same(mode);
    for (int64_t begin; (begin = next.fetch_add(part)) < n;) body(begin, std::min(begin + part, n), context);
  });
}

void* scratch(int slot, int64_t bytes) { return memory.at_least(slot, bytes); }
void give_back(int slot) { memory.give_back(slot); }

bool is_forked() { return forked; }

int64_t scratch_bytes() { return held; }

void empty_cache() {
  const auto free = [](int64_t, int64_t) {
    for (int slot = 0; slot < kSlots; slot++) memory.free(slot);
  };
  if (forked) return free(0, 1);
  torch::stable::parallel_for(0, threads(), 1, free);  // a part for each thread
}

}  // namespace fusegrad
