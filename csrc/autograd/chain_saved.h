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
    TORCH_CHECK(now[i] == at[i], op, ": a weight, ", saved[weights + 2 * i].sizes(),
                ", was given other data between forward and backward, which needs the old; call backward before "
                "`weight.data = ...` and nn.utils.vector_to_parameters");
  }
}

}  // namespace fusegrad
