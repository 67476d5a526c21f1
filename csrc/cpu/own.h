// One activation of a user's, compiled by itself at run time, for one instruction set (python/fusegrad/activations/
// compile.py): FUSEGRAD_OWN is the file that has it, as a struct that it calls Own. None of this converts numbers, so
// it is compiled without the intrinsics for that, whose header alone takes as long to compile as all of this.
#pragma once

#undef FUSEGRAD_F16C
#include "elementwise.h"
#include FUSEGRAD_OWN

extern "C" __attribute__((visibility("default"))) constinit const fusegrad::OwnActivation fusegrad_own_activation = {
    fusegrad::kInterface, FUSEGRAD_NAME(FUSEGRAD_ISA),
    fusegrad::FUSEGRAD_ISA::kernels_of<fusegrad::FUSEGRAD_ISA::Own>()};
