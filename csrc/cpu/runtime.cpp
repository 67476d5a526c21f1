// Threads and memory for the kernels: torch's threads, and scratch that is kept from call to call, as fresh pages cost
// more than what is written to them.
#include <pthread.h>
#include <torch/csrc/stable/ops.h>

#include <cstdlib>
#include <new>

#include "kernels.h"

namespace fusegrad {
namespace {

struct Buffer {
  void* data = nullptr;
  int64_t size = 0;

  void* at_least(int64_t bytes) {
    constexpr int64_t kLine = 64, kKept = 256 << 20;  // more than kKept is given back as soon as it is not needed
    if (bytes > size || (size > kKept && bytes <= kKept)) {
      std::free(data);
      data = nullptr;
      size = (bytes + bytes / 8 + kLine) / kLine * kLine;
      data = std::aligned_alloc(kLine, size);
      if (data == nullptr) {
        size = 0;
        throw std::bad_alloc();
      }
    }
    return data;
  }
  ~Buffer() { std::free(data); }
};

thread_local Buffer buffers[kSlots];

// The child of a fork has none of the threads that OpenMP believes in, and would wait for them for ever.
bool is_forked = false;
const int at_fork = pthread_atfork(nullptr, nullptr, [] { is_forked = true; });

}  // namespace

int threads() { return is_forked ? 1 : int(torch::stable::get_num_threads()); }

void parallel(int64_t n, int64_t grain, void (*body)(int64_t, int64_t, void*), void* context) {
  if (is_forked) return body(0, n, context);
  torch::stable::parallel_for(0, n, grain, [=](int64_t begin, int64_t end) { body(begin, end, context); });
}

void* scratch(int slot, int64_t bytes) { return buffers[slot].at_least(bytes); }

}  // namespace fusegrad
