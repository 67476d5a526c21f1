// Which activations there are: those of the kernels, and those that came at run time.
#pragma once

#include <string>

#include "kernels.h"

namespace fusegrad {

// The kernels of an activation for the instruction set that runs; nullptr for one that only the reference computes.
const Activation* activation(const std::string& name);

// Whether it keeps its input for backward, or its output: that of an activation that nobody told of is true.
bool saves_input(const std::string& name);

// Notes an activation that only the reference computes. What has been noted of a name stays.
void know_activation(const std::string& name, bool saves_input);

// Takes the kernels that a shared object has of an activation (own.h), for good; std::invalid_argument, with what is
// wrong, if it is none of ours. They are used while their instruction set is.
void load_activation(const std::string& path);

}  // namespace fusegrad
