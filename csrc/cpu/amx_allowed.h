// Whether this process may use tiles: the processor has them for bfloat16, and Linux gives a process the room for them
// when it asks (https://docs.kernel.org/arch/x86/xstate.html).
#pragma once

#include "kernels.h"

#if defined(FUSEGRAD_HAS_AMX) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fusegrad {

inline bool are_tiles_allowed() {
#if defined(FUSEGRAD_HAS_AMX) && defined(__linux__)
  constexpr unsigned kTiles = 1 << 24, kOfBFloat16 = 1 << 22;
  constexpr long kAsk = 0x1023, kDataOfTiles = 18;  // ARCH_REQ_XCOMP_PERM, and its number of what tiles hold
  unsigned a, b, c, features;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &features)) return false;
  return (features & kTiles) && (features & kOfBFloat16) && syscall(SYS_arch_prctl, kAsk, kDataOfTiles) == 0;
#else
  return false;
#endif
}

}  // namespace fusegrad
