// Numbers that are too small to be normal.
#pragma once

#include "../vec.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

// While there is one of these, they are zero on this thread: where they are read, and where they would come out. So
// products are computed: an instruction that meets one takes 150 cycles on Intel, and derivatives of steep activations
// are full of them. A step of an SDF, 8 x 512 softplus(100), takes 3.1 s with them, 0.5 s without (Emerald Rapids,
// 2026-11-27). What is lost of a sum is 2^-126 for each number and product, 2^-1022 in float64.
// Not without instructions that convert float16, whose smallest numbers are made of such.
struct Flush {
#if defined(FUSEGRAD_F16C)
  static constexpr unsigned kOut = 1 << 15, kIn = 1 << 6;
  const unsigned before = _mm_getcsr();
  Flush() { _mm_setcsr(before | kOut | kIn); }
  ~Flush() { _mm_setcsr(before); }
#else
  Flush() {}
#endif
  Flush(const Flush&) = delete;
};

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
