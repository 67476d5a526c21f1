// What differs between processors of one instruction set, asked when the kernels run.
#pragma once

namespace fusegrad {

// A copy for each file, as in kernels.h.
namespace {

inline bool is_intel() {
#if defined(__x86_64__)
  return __builtin_cpu_is("intel");
#else
  return false;
#endif
}

}  // namespace
}  // namespace fusegrad
