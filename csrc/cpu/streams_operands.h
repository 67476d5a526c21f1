// The streams of what a chain, or a program, is given.
#pragma once

#include <array>

#include "chain_operands.h"

namespace fusegrad {

constexpr int64_t kMostOfTaylor = 3;  // derivatives along one direction, before the highest

// Whether activations have kernels of their own for r derivatives along one direction, and the next (taylor.h).
inline bool need_taylor(int64_t r) { return r > 1; }

// The streams of x, which is (..., k): t, (r, k) or (r, ..., k), and l, (..., k) or none.
struct GivenStreams {
  int64_t r;
  bool alike;
  Rows t;
  std::optional<Rows> l;
  GivenStreams(const char* op, const Tensor& x, const Rows& rows, const Tensor& given,
               const std::optional<Tensor>& of_l, bool of_taylor = false)
      : r(given.dim() ? given.size(0) : 0), alike(given.dim() == 2 && x.dim() != 1), t(given, alike ? 0 : 1) {
    Shape shape = shape_of(x);
    if (alike) shape = {rows.k};
    shape.insert(shape.begin(), r);
    require(
        (of_taylor ? r <= kMostOfTaylor : r > 0) && shape_of(given) == shape && given.scalar_type() == x.scalar_type(),
        op, ": t is ", described(given), " and x ", described(x),
        of_taylor ? "; need t (r, k) or (r, ..., k) of up to 3 derivatives, of the dtype of x"
                  : "; need t (r, k) or (r, ..., k) of at least one direction, of the dtype of x");
    if (!of_l) return;
    require(!alike && shape_of(*of_l) == shape_of(x) && of_l->scalar_type() == x.scalar_type(), op, ": l is ",
            described(*of_l), " and x ", described(x), "; need l as x, and t of each row");
    l.emplace(*of_l);
  }
  ChainStreams args(const Chain& chain) const {
    return {chain, r, t.operand, alike, t.step, l ? l->operand : Operand{}, nullptr, nullptr};
  }
};

inline Shape along(int64_t directions, Shape shape) {
  shape.insert(shape.begin(), directions);
  return shape;
}

// Runs a backward kernel: gx, gt, gl, and gw and gb of each layer, empty if not needed; `needed` has a bit for each,
// from the lowest on. Cotangents, of y (..., n) and its streams, that are not there are zero.
template <class Run> Tensors streams_gradients(const char* op, const std::array<std::optional<Tensor>, 3>& of_y,
                                               const Tensor& x, const GivenStreams& given, const Rows& rows,
                                               std::vector<ChainLayer>& layers, const Tensor& saved, int64_t n,
                                               Type type, int64_t needed, const Run& run) {
  Shape shape = shape_of(x);
  shape.back() = n;
  Tensors cotangents;  // as long as they are read
  const auto operand = [&](const char* name, const std::optional<Tensor>& g, const Shape& shape) -> Operand {
    if (!g) return {nullptr, n, 1};
    require(shape_of(*g) == shape && g->scalar_type() == x.scalar_type(), op, ": ", name, " is ", described(*g),
            " and x ", described(x), "; need ", n, " features of ", given.r, " directions, of the dtype of x");
    cotangents.push_back(dense(*g));
    return {cotangents.back().const_data_ptr(), n, 1};
  };
  require(!given.alike || !(needed & 6), op, ": t is the same for all rows; there is no gradient of it here");
  Tensors gradients;
  const auto result = [&](int bit, const Shape& shape) -> void* {
    const bool is_needed = needed >> bit & 1;
    gradients.push_back(empty(x, is_needed ? shape : Shape{0}));
    return is_needed ? gradients.back().mutable_data_ptr() : nullptr;
  };
  Chain chain{type, rows.m, 0, nullptr, rows.operand, nullptr, const_cast<void*>(saved.const_data_ptr())};
  chain.gy = operand("gy", of_y[0], shape);
  chain.gx = result(0, shape_of(x));
  void *gt = result(1, shape_of(given.t.tensor)), *gl = result(2, shape_of(x));
  for (size_t i = 0; i < layers.size(); i++) {
    layers[i].gw = result(int(3 + 2 * i), {layers[i].n, layers[i].k});
    layers[i].gb = result(int(4 + 2 * i), {layers[i].n});
  }
  chain.count = int(layers.size());
  chain.layers = layers.data();
  ChainStreams args = given.args(chain);
  args.gty = operand("gty", of_y[1], along(given.r, shape));
  args.gty_step = rows.m * n;
  args.gly = operand("gly", of_y[2], along(1, shape));
  args.gt = gt;
  args.gl = gl;
  const Flush flush;
  run(args);
  return gradients;
}

}  // namespace fusegrad
