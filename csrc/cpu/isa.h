// The kernels of one instruction set. Each isa_*.cpp names it, sets its target, and includes this file.
#pragma once

#define FUSEGRAD_STRING(x) #x
#define FUSEGRAD_NAME(x) FUSEGRAD_STRING(x)

#if defined(FUSEGRAD_OWN)
#include "own.h"
#elif defined(FUSEGRAD_AMX)  // that has products of bfloat16, and else is avx512_bf16
#include "amx.h"
#else
#include "gemm.h"

#if defined(FUSEGRAD_AVX512_BF16)  // that has what of bfloat16 there is in avx512
namespace fusegrad {
namespace FUSEGRAD_ISA {

template <class L> struct OfBFloat16;
template <class... As> struct OfBFloat16<List<As...> > {
  static constexpr Elementwise kEntries[][2] = {{elementwise<As, 0, BFloat16>, elementwise<As, 1, BFloat16>}...};
};
constexpr const Elementwise (*kBFloat16)[2] = OfBFloat16<Activations>::kEntries;

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
#else
#include "chain_derivatives.h"
#include "chain_slope.h"
#include "product_streams.h"
#include "program.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

// constexpr, so that no code of this instruction set runs before the processor was asked whether it has it.
constexpr Kernels kKernels = {FUSEGRAD_NAME(FUSEGRAD_ISA),
                              kNR<F32>* int64_t(sizeof(float)),
                              gemm,
                              gated,
                              chain,
                              chain_backward,
                              chain_streams,
                              chain_streams_backward,
                              program,
                              program_backward,
                              chain_derivatives,
                              chain_slope,
                              product_of_streams,
                              act,
                              differentiate,
                              gz_and_sum,
                              gate_and_sums,
                              sum_rows,
                              elementwise<Scale, 0, float>,
                              elementwise<Scale, 0, double>,
                              Table<Activations>::kEntries,
                              Activations::kSize};

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
#endif
#endif
