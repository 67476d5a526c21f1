// Results that are too small to be normal numbers.
#pragma once

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "kernels.h"

namespace fusegrad {
namespace {  // a copy for each file, as in kernels.h

// While there is one of these, on Intel, what would come out below the smallest normal number, 2^-126 in float32 and
// 2^-1022 in float64, is zero on this thread; what is read is as it is. So what only a kernel sees is made: the layers
// of a chain, gradients before an activation. Those of steep activations are full of such numbers, and an instruction
// that meets one takes 150 cycles there. Products and activations by themselves compute them.
struct Flush {
#if defined(__x86_64__)
  static constexpr unsigned kToZero = 1 << 15;
  const unsigned before = _mm_getcsr();
  Flush() {
    if (is_intel()) _mm_setcsr(before | kToZero);
  }
  ~Flush() { _mm_setcsr(before); }
#else
  Flush() {}
#endif
  Flush(const Flush&) = delete;
};

}  // namespace
}  // namespace fusegrad
