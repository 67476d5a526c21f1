#include "capability.h"

#include <stdexcept>

#include "amx_allowed.h"

namespace fusegrad {
namespace {

struct Isa {
  const char* name;
  bool available;
  const Kernels* kernels;
};

const std::vector<Isa>& isas() {
#if defined(__x86_64__)
  static const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  static const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  static const bool avx512_bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  static const Kernels bf16 = with_bf16(), tiles = with_amx();
  static const std::vector<Isa> all = {{"amx", avx512_bf16 && are_tiles_allowed(), &tiles},
                                       {"avx512_bf16", avx512_bf16, &bf16},
                                       {"avx512", avx512, &avx512::kKernels},
                                       {"avx2", avx2, &avx2::kKernels},
                                       {"portable", true, &portable::kKernels}};
#else
  static const std::vector<Isa> all = {{"portable", true, &portable::kKernels}};
#endif
  return all;
}

const Isa* widest() {
  const Isa* isa = isas().data();
  while (!isa->available) isa++;
  return isa;
}

struct Choice {
  const Isa* isa;
  bool torch_multiplies_faster;
};

// No processor was measured on which only the portable kernels run; they serve where they are asked for by name.
Choice& choice() {
  static Choice chosen = {widest(), widest()->kernels == &portable::kKernels};
  return chosen;
}

}  // namespace

std::vector<std::pair<std::string, bool>> instruction_sets() {
  std::vector<std::pair<std::string, bool>> all;
  for (const Isa& isa : isas()) all.emplace_back(isa.name, isa.available);
  return all;
}

void use_instruction_set(const std::string& name) {
  std::string there;
  for (const Isa& isa : isas()) {
    if (isa.available && name == isa.name) {
      choice() = {&isa, false};
      return;
    }
    if (isa.available) there += (there.empty() ? "" : ", ") + std::string(isa.name);
  }
  throw std::invalid_argument("this processor has no " + name + ", but " + there);
}

const char* capability() { return choice().isa->name; }
const Kernels& kernels() { return *choice().isa->kernels; }
bool torch_multiplies_faster() { return choice().torch_multiplies_faster; }

}  // namespace fusegrad
