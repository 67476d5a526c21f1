// What the nodes of a chain save.
#pragma once

#include "eager.h"

namespace fusegrad {

// What is saved: what the layers save, y or nothing, x, w_1, b_1, ...
constexpr size_t kX = 2, kWeights = 3;

inline std::vector<int64_t> places(const variable_list& saved, size_t weights = kWeights) {
  std::vector<int64_t> at;
  at.reserve(saved.size() / 2);
  for (size_t i = weights; i < saved.size(); i += 2)
    at.push_back(saved[i].defined() ? reinterpret_cast<int64_t>(saved[i].data_ptr()) : 0);
  return at;
}

inline c10::List<std::optional<at::Tensor>> weights_of(const variable_list& saved, size_t weights = kWeights) {
  c10::List<std::optional<at::Tensor>> found;
  found.reserve(saved.size() - weights);
  for (size_t i = weights; i < saved.size(); i++) {
    found.push_back(saved[i].defined() ? std::optional<at::Tensor>(saved[i]) : std::nullopt);
  }
  return found;
}

// hooks may give back copies of what is saved
inline std::vector<int64_t> places_if_they_stay(const variable_list& saved, size_t weights = kWeights) {
  return at::SavedTensorDefaultHooks::get_hooks() ? std::vector<int64_t>() : places(saved, weights);
}

inline void check_places(const variable_list& saved, const std::vector<int64_t>& at, const char* op = "chain",
                         size_t weights = kWeights) {
  if (at.empty()) return;
  const std::vector<int64_t> now = places(saved, weights);
  for (size_t i = 0; i < at.size(); i++) {
    const at::Tensor &w = saved[weights + 2 * i], &b = saved[weights + 2 * i + 1];
    const bool is_elsewhere = now[i] != at[i];
    const bool has_other_bias = w.defined() && b.defined() && b.size(0) != w.size(0);
    TORCH_CHECK(!is_elsewhere && !has_other_bias, op, is_elsewhere ? ": a weight, " : ": a bias, ",
                (is_elsewhere ? w : b).sizes(),
                ", was given other data between forward and backward, which needs the old; call backward before "
                "`.data = ...` and nn.utils.vector_to_parameters");
  }
}

}  // namespace fusegrad
