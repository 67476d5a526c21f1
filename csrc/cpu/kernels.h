// What the kernels of one instruction set offer to the ops: plain pointers and sizes, nothing of torch.
#pragma once

#include "arguments.h"

namespace fusegrad {

struct Kernels {
  const char* isa;
  int64_t panel_bytes;  // of one feature of a panel of rows (Chain)
  void (*gemm)(const Gemm&);
  void (*gated)(const Gated&);
  void (*chain)(const Chain&);           // y and saved
  void (*chain_backward)(const Chain&);  // gx, gw, gb, of gy, x, y and saved
  void (*chain_streams)(const ChainStreams&);
  void (*chain_streams_backward)(const ChainStreams&);
  void (*program)(const Program&);
  void (*program_backward)(const Program&);
  void (*chain_derivatives)(const ChainDerivatives&);
  // gx of a chain that ends in one number a row, and the cotangents of y of all layers but the last, where that of y of
  // the chain is 1: as much as these layers save, by panels.
  void (*chain_slope)(const Chain&, void* cotangents);
  // Of a product of tensors with streams, either of which may have one number for all that there are of the other.
  OfProduct (*product_of_streams)(Type, bool backward, bool one_a, bool one_b);
  // The same for numbers of any one type, on this thread.
  void (*act)(Type, Elementwise, const ElementwiseArgs&, double param);
  void (*differentiate)(Type, Derivative, const DerivativeArgs&, double param);
  // gz = gy D_1(s), of arguments whose g is gy and whose output is gz, and the sum of its rows in float32 or float64,
  // on this thread. Without a function gz is gy, and there is neither s nor an output; sum may be nullptr.
  void (*gz_and_sum)(Type, Elementwise, const ElementwiseArgs&, void* sum, double param);
  // gz = gy up D_1(s), gu = gy act(z), and the sums of their rows as above. Without `first` D_1 is 1, without `value`
  // act(z) is s.
  void (*gate_and_sums)(Type, Elementwise value, Elementwise first, const GateArgs&, void* sum_gz, void* sum_gu,
                        double param);
  // The sum of m rows of n numbers, in float32 or float64, rounded to the type.
  void (*sum_rows)(Type, const void* rows, void* sum, int64_t m, int64_t n);
  Elementwise scale_float32, scale_float64;  // out = param s
  const Activation* activations;
  int count;
};

namespace portable {
extern const Kernels kKernels;
}
namespace avx2 {
extern const Kernels kKernels;
}
namespace avx512 {
extern const Kernels kKernels;
void gemm(const Gemm&);
void gated(const Gated&);
}  // namespace avx512
namespace avx512_bf16 {
void gemm(const Gemm&);
void gated(const Gated&);
extern const Elementwise (*const kBFloat16)[2];  // those of all activations
}  // namespace avx512_bf16
#if defined(__x86_64__) && (__has_include(<amxbf16intrin.h>) || __has_include(<amxintrin.h>))
#define FUSEGRAD_HAS_AMX  // which compilers know from GCC 11 and Clang 12 on
#endif
namespace amx {
void gemm(const Gemm&);
void gated(const Gated&);
}  // namespace amx

// --- what the kernels need of their surroundings: torch (runtime.cpp) or a plain program (tests/kernels.cpp) --------

// Whether the processor is one of Intel's: some algorithms and limits of AVX-512 are faster there alone.
bool is_intel();

// Computes a product, if it is plain, by another library that is there and faster: false if not.
bool multiply_by_mkl(const Gemm&);

// The number of threads that a parallel call will use, 1 inside one.
int threads();

// Calls body(begin, end, context) for ranges that together are [0, n), of at least `grain`, on several threads.
void parallel(int64_t n, int64_t grain, void (*body)(int64_t begin, int64_t end, void* context), void* context);

// Scratch memory of this thread, aligned to a cache line, good until its next call with the same slot.
void* scratch(int slot, int64_t bytes);
constexpr int kSlotOfA = 0, kSlotOfB = 1, kSlotOfPartial = 2, kSlotOfGz = 3, kSlotOfSums = 4, kSlotOfWeights = 5,
              kSlotOfLayers = 6, kSlotOfMade = 7, kSlots = 8;

// What a slot holds is not needed any more: it may be given back.
void give_back(int slot);

template <class Body> void parallel(int64_t n, int64_t grain, const Body& body) {
  parallel(
      n, grain, [](int64_t begin, int64_t end, void* context) { (*static_cast<const Body*>(context))(begin, end); },
      const_cast<Body*>(&body));
}

// A copy for each file: of one for all files the linker may keep that which was compiled for AVX-512.
namespace {

// Features that a panel of streams has room for: if streams were multiples of 2 KiB apart, they would all meet in the
// same lines of L1.
constexpr int64_t roomy(int64_t n) { return n % 32 ? n : n + 4; }

// Those of avx512_bf16, which are avx512's but for bfloat16: products, and activations.
inline Kernels with_bf16() {
  static const Activation* const activations = [] {
    const Kernels& wide = avx512::kKernels;
    Activation* made = new Activation[wide.count];
    for (int i = 0; i < wide.count; i++) {
      made[i] = wide.activations[i];
      for (int order = 0; order < 2; order++) made[i].bfloat16[order] = avx512_bf16::kBFloat16[i][order];
    }
    return made;
  }();
  Kernels all = avx512::kKernels;
  all.isa = "avx512_bf16";
  all.gemm = avx512_bf16::gemm;
  all.gated = avx512_bf16::gated;
  all.activations = activations;
  return all;
}

// Those of amx, which are avx512_bf16's but for products of bfloat16.
inline Kernels with_amx() {
  Kernels all = with_bf16();
#if defined(FUSEGRAD_HAS_AMX)
  all.isa = "amx";
  all.gemm = amx::gemm;
  all.gated = amx::gated;
#endif
  return all;
}

// What is so many bytes past an address; nullptr, which has no address to add to, stays.
inline const void* at(const void* data, int64_t bytes) {
  return data ? static_cast<const char*>(data) + bytes : nullptr;
}
inline void* at(void* data, int64_t bytes) { return data ? static_cast<char*>(data) + bytes : nullptr; }

// `count` rows of the arguments, from `row` on, of numbers of so many bytes.
inline ElementwiseArgs rows_of(const ElementwiseArgs& args, int64_t row, int64_t count, int64_t size) {
  ElementwiseArgs part = args;
  part.rows = count;
  part.s = at(args.s, row * args.s_row * size);
  part.g = at(args.g, row * args.g_row * size);
  part.out = at(args.out, row * args.out_row * size);
  return part;
}

inline GateArgs rows_of(const GateArgs& args, int64_t row, int64_t count, int64_t size) {
  GateArgs part = args;
  part.rows = count;
  part.gy = at(args.gy, row * args.gy_row * size);
  part.s = at(args.s, row * args.s_row * size);
  part.up = at(args.up, row * args.up_row * size);
  part.gz = at(args.gz, row * args.out_row * size);
  part.gu = at(args.gu, row * args.out_row * size);
  return part;
}

// Scratch for the time of a scope; nullptr if it is of no bytes.
struct Scratch {
  int slot;
  void* data;

  Scratch(int slot, int64_t bytes) : slot(slot), data(bytes > 0 ? scratch(slot, bytes) : nullptr) {}
  Scratch(const Scratch&) = delete;
  ~Scratch() {
    if (data) give_back(slot);
  }
};

}  // namespace
}  // namespace fusegrad
