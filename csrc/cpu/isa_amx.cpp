#include "kernels.h"

#if defined(FUSEGRAD_HAS_AMX)
#if defined(__clang__)
#pragma clang attribute push(                                                                                 \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,avx512bf16,amx-tile,amx-bf16"))), \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,avx512bf16,amx-tile,amx-bf16")
#endif
#define FUSEGRAD_ISA amx
#define FUSEGRAD_VECTOR_BYTES 64
#define FUSEGRAD_F16C
#define FUSEGRAD_FMA
#define FUSEGRAD_AVX512_BF16
#define FUSEGRAD_AMX
#include "isa.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
