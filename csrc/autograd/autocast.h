// torch.autocast of the CPU: products are made of numbers of its dtype, activations of what they are given.
#pragma once

#include <ATen/autocast_mode.h>

#include "eager.h"

namespace fusegrad {

// The dtype of products, if it is on.
inline std::optional<at::ScalarType> autocast_type() {
  if (!at::autocast::is_autocast_enabled(at::kCPU)) return std::nullopt;
  return at::autocast::get_autocast_dtype(at::kCPU);
}

// The type of a tensor in a product.
inline at::ScalarType type_in_product(const at::Tensor& t, std::optional<at::ScalarType> autocast) {
  const at::ScalarType type = t.scalar_type();
  return autocast && at::isFloatingType(type) && type != at::kDouble ? *autocast : type;
}

// While one lives autocast is off, and this casts in its place what products are made of.
class WithoutAutocast {
 public:
  WithoutAutocast() : WithoutAutocast(autocast_type()) {}

  // t in a product: of a weight the copy that all functions of torch's share within a region.
  at::Tensor cast(const at::Tensor& t) const {
    if (!to_ || !t.defined() || t.scalar_type() == type_in_product(t, to_)) return t;
    at::Tensor made = at::autocast::cached_cast(*to_, t, at::kCPU);
    // a copy that was made where no gradient was asked for does not lead to the weight
    const bool leads = made.requires_grad() || !t.requires_grad() || !at::GradMode::is_enabled();
    return leads ? made : t.to(*to_);
  }
  void cast(variable_list& tensors) const {
    for (at::Tensor& t : tensors) t = cast(t);
  }

 private:
  const std::optional<at::ScalarType> to_;
  const c10::impl::ExcludeDispatchKeyGuard off_{c10::DispatchKey::AutocastCPU};

  explicit WithoutAutocast(std::optional<at::ScalarType> to) : to_(to) {}
};

}  // namespace fusegrad
