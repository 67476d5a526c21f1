#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#define FUSEGRAD_ISA avx2
#define FUSEGRAD_VECTOR_BYTES 32
#define FUSEGRAD_F16C
#define FUSEGRAD_FMA
#include "isa.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
