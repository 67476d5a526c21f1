// What an op needs of its operands, checked before anything is computed: python/fusegrad/ops/operands.py does the same
// for the other backends, in the same words.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

#include "kernels.h"

namespace fusegrad {

using torch::stable::Tensor;
using Operands = std::initializer_list<const Tensor*>;  // nullptr for one that is absent

inline const Tensor* if_any(const std::optional<Tensor>& t) { return t ? &*t : nullptr; }

// "need" gives the shapes of all operands in their order, as in "x (..., k), w (n, k), b (n)": a letter is one size,
// and dots are the same leading sizes, wherever they stand.
inline bool have_shapes(const char* need, Operands operands) {
  int64_t known[26];
  std::fill(known, known + 26, int64_t(-1));
  const int64_t* leading = nullptr;
  int64_t leading_count = -1;
  for (const Tensor* t : operands) {
    char letters[4];
    int64_t count = 0;
    bool dots = false;
    for (need = std::strchr(need, '('); *need != ')'; need++) {
      dots |= *need == '.';
      if (*need >= 'a' && *need <= 'z') letters[count++] = *need;
    }
    if (t == nullptr) continue;
    const auto sizes = t->sizes();
    const int64_t lead = int64_t(sizes.size()) - count;
    if (dots ? lead < 0 : lead != 0) return false;
    if (dots && leading_count < 0) {
      leading = sizes.data();
      leading_count = lead;
    } else if (dots && (lead != leading_count || !std::equal(leading, leading + lead, sizes.data()))) {
      return false;
    }
    for (int64_t i = 0; i < count; i++) {
      int64_t& size = known[letters[i] - 'a'];
      if (size < 0) size = sizes[lead + i];
      if (size != sizes[lead + i]) return false;
    }
  }
  return true;
}

template <class... Says> void require(bool fits, const Says&... says) {
  if (fits) return;
  std::ostringstream all;
  (all << ... << says);
  throw std::runtime_error(all.str());
}

inline std::optional<Type> type_of(torch::headeronly::ScalarType dtype) {
  using torch::headeronly::ScalarType;
  switch (dtype) {
    case ScalarType::Float:
      return Type::f32;
    case ScalarType::Double:
      return Type::f64;
    case ScalarType::BFloat16:
      return Type::bf16;
    case ScalarType::Half:
      return Type::f16;
    default:
      return std::nullopt;
  }
}
inline std::optional<Type> type_of(const Tensor& t) { return type_of(t.scalar_type()); }

// A tensor in a text, as "(2, 4) float32": words that are put together only where they are said.
struct Described {
  const Tensor& t;
};
inline Described described(const Tensor& t) { return {t}; }
inline std::ostream& operator<<(std::ostream& to, Described d) {
  constexpr const char* kNames[] = {"float32", "float64", "bfloat16", "float16"};
  const char* between = "(";
  for (const int64_t size : d.t.sizes()) to << std::exchange(between, ", ") << size;
  const std::optional<Type> type = type_of(d.t);
  return to << (d.t.dim() == 0   ? "() "
                : d.t.dim() == 1 ? ",) "
                                 : ") ")
            << (type ? kNames[int(*type)] : torch::headeronly::toString(d.t.scalar_type()));
}

[[noreturn, gnu::cold, gnu::noinline]] inline void refuse(const char* op, const char* need, Operands operands) {
  std::ostringstream says;
  says << op;
  const char *name = need, *between = ": ";
  for (const Tensor* t : operands) {
    const char* shape = std::strchr(name, '(');
    if (t) says << std::exchange(between, ", ") << std::string(name, shape) << described(*t);
    name = std::strchr(shape, ')') + 1;
    name += std::strspn(name, ", ");
  }
  says << "; need " << need << ", of one dtype (float32, float64, bfloat16 or float16) and on one device";
  throw std::runtime_error(says.str());
}

// The type of the operands; an error that shows them all if they are not as needed. They are on the CPU: where one of
// several is not, the dispatcher calls another backend.
inline Type check(const char* op, const char* need, Operands operands) {
  const auto dtype = (*operands.begin())->scalar_type();
  for (const Tensor* t : operands)
    if (t && t->scalar_type() != dtype) refuse(op, need, operands);
  const std::optional<Type> type = type_of(**operands.begin());
  if (!type || !have_shapes(need, operands)) refuse(op, need, operands);
  return *type;
}

}  // namespace fusegrad
