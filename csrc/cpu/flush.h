// Results that are too small to be normal numbers.
#pragma once

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "kernels.h"

namespace fusegrad {
namespace {  // a copy for each file, as in kernels.h

// How this thread rounds, until the scope ends.
struct Rounding {
#if defined(__x86_64__)
  const unsigned before = _mm_getcsr();
  const bool differs;
  explicit Rounding(unsigned mode) : differs(mode != before) {
    if (differs) _mm_setcsr(mode);
  }
  ~Rounding() {
    if (differs) _mm_setcsr(before);
  }
  static unsigned mode() { return _mm_getcsr(); }
#else
  explicit Rounding(unsigned) {}
  static unsigned mode() { return 0; }
#endif
  Rounding(const Rounding&) = delete;
};

// While there is one of these, on Intel, what would come out below the smallest normal number, 2^-126 in float32 and
// 2^-1022 in float64, is zero on this thread and in the parts of its parallel calls; what is read is as it is. So ops
// run that activations are part of: those that are steep make many such numbers, and an instruction that meets one
// takes 150 cycles there. Products alone, and activations alone with their first derivative, compute them.
struct Flush : Rounding {
  static constexpr unsigned kToZero = 1 << 15;
  explicit Flush(bool wanted = true) : Rounding(mode() | (wanted && is_intel() ? kToZero : 0)) {}
};

}  // namespace
}  // namespace fusegrad
