#pragma once

#include <string>

namespace fusegrad {

// GFLOP/s (a multiply-add counts as two) of a loop that only multiplies and adds in registers, run
// by `threads` threads at once for `seconds`. This is the most that any kernel can reach. dtype is
// "float32", "float64" or "bfloat16" (products of bfloat16 summed in float32); 0 where the
// processor has no instruction.
double peak_gflops(const std::string& dtype, int threads, double seconds);

}  // namespace fusegrad
