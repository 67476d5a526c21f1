#include "capability.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace fusegrad {
namespace {

struct Isa {
  const char* name;
  bool available;
  const Kernels* kernels;
  bool forced = false;
};

const Isa& choose(const char* forced) {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  static const Isa isas[] = {{"avx512_bf16", bf16, &avx512_bf16::kKernels},
                             {"avx512", avx512, &avx512::kKernels},
                             {"avx2", avx2, &avx2::kKernels},
                             {"portable", true, &portable::kKernels}};
#else
  static const Isa isas[] = {{"portable", true, &portable::kKernels}};
#endif
  if (forced == nullptr || *forced == 0) {
    for (const Isa& isa : isas)
      if (isa.available) return isa;
  }
  std::string known;
  for (const Isa& isa : isas) {
    if (std::string(forced) == isa.name && isa.available) return isa;
    if (isa.available) known += (known.empty() ? "" : ", ") + std::string(isa.name);
  }
  throw std::runtime_error("FUSEGRAD_CPU is " + std::string(forced) + "; this processor has " + known);
}

const Isa& isa() {
  static const Isa chosen = [] {
    const char* forced = std::getenv("FUSEGRAD_CPU");
    Isa best = choose(forced);
    best.forced = forced != nullptr && *forced != 0;
    return best;
  }();
  return chosen;
}

}  // namespace

const char* capability() { return isa().name; }
const Kernels& kernels() { return *isa().kernels; }

// Not measured on any such processor; the kernels serve where FUSEGRAD_CPU asks for them.
bool torch_multiplies_faster() {
  static const bool is_faster = std::string(isa().name) == "portable" && !isa().forced;
  return is_faster;
}

}  // namespace fusegrad
