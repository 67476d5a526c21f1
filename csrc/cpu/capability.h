#pragma once

#include <string>
#include <utility>
#include <vector>

#include "kernels.h"

namespace fusegrad {

// The instruction sets that the kernels are written for, the widest first, and whether this processor has them.
std::vector<std::pair<std::string, bool>> instruction_sets();

// Takes the kernels of one of them; std::invalid_argument if this processor does not have it. Without, those of the
// widest that it has are taken.
void use_instruction_set(const std::string& name);

// The one that is taken, and its kernels.
const char* capability();
const Kernels& kernels();

// Whether torch multiplies faster than these kernels do, so that it is asked to.
bool torch_multiplies_faster();

}  // namespace fusegrad
