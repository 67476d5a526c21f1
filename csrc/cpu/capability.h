#pragma once

#include "kernels.h"

namespace fusegrad {

// The widest instruction set of this processor that the kernels are written for: "avx512_bf16", "avx512", "avx2" or
// "portable"; no wider than FUSEGRAD_CPU says, if that is set.
const char* capability();

// The kernels for it.
const Kernels& kernels();

// Whether torch multiplies faster than these kernels do, so that it is asked to.
bool torch_multiplies_faster();

}  // namespace fusegrad
