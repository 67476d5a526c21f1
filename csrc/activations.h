// Made by `python -m fusegrad.activations.generate` from definitions.py; not to be edited.
//
// The activations in C++. Each has
//
//   kSavesInput      whether it saves its input z for backward, or its output y
//   value(z, p)      act(z), p the parameter
//   first(g, s, p)   g D_1(s), of what it saves, s
//   second(s, p)     D_2 = dD_1/ds
//   third(s, p)      D_3 = dD_2/ds
//   fourth, fifth    D_4, D_5
#pragma once

#include "activations_elu.h"
#include "activations_gated.h"
#include "activations_pieces.h"
#include "activations_sigmoidal.h"
#include "activations_waves.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

template <class... Ts> struct List {
  static constexpr int kSize = sizeof...(Ts);
};
using Activations =
    List<Identity, Relu, Relu6, LeakyRelu, LeakyReluInPlace, Hardtanh, Hardsigmoid, Hardswish, ReluSquared, Elu, Selu,
         Celu, Gelu, GeluTanh, QuickGelu, Silu, Swish, Mish, Softplus, ShiftedSoftplus, Squareplus, Softsign, Sigmoid,
         Logsigmoid, Tanh, Tanhshrink, Sin, Snake, Morlet, Gaussian, Exp, Square>;

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
