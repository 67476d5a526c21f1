// For any processor: SSE2 on x86-64, NEON on 64-bit Arm.
#define FUSEGRAD_ISA portable
#define FUSEGRAD_VECTOR_BYTES 16
#include "isa.h"
