#include "streams_operands.h"

namespace fusegrad {
namespace {

std::tuple<Tensor, Tensor> chain(Tensor x, Weights weights, StringHandle acts_, bool save) {
  std::string acts = text_of(acts_);
  const Type type = check("chain", "x (..., k)", {&x});
  const std::vector<ChainLayer> layers = layers_of("chain", type, x, weights, acts);
  const Rows rows(x);
  const int64_t width = saved_width(layers);
  Tensor y = output(x, *weights[weights.size() - 2]), saved = empty(x, {save ? rows.m * width : 0});
  const Chain args{type,
                   rows.m,
                   int(layers.size()),
                   layers.data(),
                   rows.operand,
                   y.mutable_data_ptr(),
                   save ? saved.mutable_data_ptr() : nullptr};
  const Flush flush(!is_linear(args));
  (is_by_layers(args) ? chain_by_layers : kernels().chain)(args);
  return {y, saved};
}

// gx, and gw and gb of each layer, empty if not needed. Of `needed` the lowest bit is that of x, then those of w and b
// of each layer follow.
Tensors chain_backward(Tensor gy, Tensor x, Weights weights, Tensor y, Tensor saved, StringHandle acts_,
                       int64_t needed) {
  std::string acts = text_of(acts_);
  const Type type = check("chain_backward", "gy (..., n), y (..., n), x (..., k), saved (s)", {&gy, &y, &x, &saved});
  saved = dense(saved);
  std::vector<ChainLayer> layers = layers_of("chain_backward", type, x, weights, acts);
  const Rows rows(x), given = adjacent_rows(gy), out(dense(y));
  const ChainLayer& last = layers.back();
  const int64_t width = saved_width(layers);
  require(last.n == given.k && saved.size(0) == rows.m * width, "chain_backward: gy is ", described(gy), " and saved ",
          described(saved), "; need ", last.n, " features and ", rows.m * width, " numbers");
  Tensors gradients{needed & 1 ? empty(x, shape_of(x)) : empty(x, {0})};
  for (size_t l = 0; l < layers.size(); l++) {
    ChainLayer& layer = layers[l];
    const auto result = [&](bool is_needed, const Shape& shape, void** to) {
      gradients.push_back(empty(x, is_needed ? shape : Shape{0}));
      if (is_needed) *to = gradients.back().mutable_data_ptr();
    };
    result(needed >> (1 + 2 * l) & 1, {layer.n, layer.k}, &layer.gw);
    result(needed >> (2 + 2 * l) & 1, {layer.n}, &layer.gb);
  }
  const Chain args{type,
                   rows.m,
                   int(layers.size()),
                   layers.data(),
                   rows.operand,
                   const_cast<void*>(out.operand.data),
                   const_cast<void*>(saved.const_data_ptr()),
                   given.operand,
                   needed & 1 ? gradients[0].mutable_data_ptr() : nullptr};
  const Flush flush(!is_linear(args));
  (is_by_layers(args) ? chain_backward_by_layers : kernels().chain_backward)(args);
  return gradients;
}

int64_t saved_of(const std::vector<ChainLayer>& layers, int64_t m, const GivenStreams& given) {
  const size_t count = layers.back().value ? layers.size() : layers.size() - 1;
  int64_t size = 0;
  for (size_t l = 0; l < count; l++) size += saved_streams(given.alike, given.r, int(l)) * roomy(layers[l].n);
  return size * m + (given.alike ? given.r * layers[0].n : 0);
}

// Of the streams of a Laplacian, or where kOfTaylor of those along one direction: t_1, ..., t_r are then the first
// derivatives along it, and l the next.
template <bool kOfTaylor>
std::tuple<Tensor, Tensor, Tensor, Tensor> chain_streams(Tensor x, Tensor t, std::optional<Tensor> l, Weights weights,
                                                         StringHandle acts_, bool save) {
  constexpr const char* op = kOfTaylor ? "chain_taylor" : "chain_streams";
  std::string acts = text_of(acts_);
  const Type type = check(op, "x (..., k)", {&x});
  require_wide(op, type, x);
  std::vector<ChainLayer> layers = layers_of(op, type, x, weights, acts);
  const Rows rows(x);
  const GivenStreams given(op, x, rows, t, l, kOfTaylor);
  if (kOfTaylor && need_taylor(given.r))
    for (ChainLayer& layer : layers) layer.streams = layer.taylor;
  Tensor y = output(x, *weights[weights.size() - 2]);
  const Shape shape = shape_of(y);
  Tensor of_t = empty(x, along(given.r, shape)), of_l = empty(x, along(1, shape)),
         saved = empty(x, {save ? saved_of(layers, rows.m, given) : 0});
  ChainStreams args = given.args({type, rows.m, int(layers.size()), layers.data(), rows.operand, y.mutable_data_ptr(),
                                  save ? saved.mutable_data_ptr() : nullptr});
  args.ty = of_t.mutable_data_ptr();
  args.ly = of_l.mutable_data_ptr();
  const Flush flush;
  kernels().chain_streams(args);
  return {y, of_t, of_l, saved};
}

// gx, gt, gl, and gw and gb of each layer, empty if not needed; `needed` has a bit for each, from the lowest on.
// Cotangents that are not there are zero.
template <bool kOfTaylor> Tensors chain_streams_backward(std::optional<Tensor> gy, std::optional<Tensor> gty,
                                                         std::optional<Tensor> gly, Tensor x, Tensor t,
                                                         std::optional<Tensor> l, Weights weights, Tensor saved,
                                                         StringHandle acts_, int64_t needed) {
  constexpr const char* op = kOfTaylor ? "chain_taylor_backward" : "chain_streams_backward";
  std::string acts = text_of(acts_);
  const Type type = check(op, "x (..., k), saved (s)", {&x, &saved});
  require_wide(op, type, x);
  std::vector<ChainLayer> layers = layers_of(op, type, x, weights, acts);
  const Rows rows(x);
  const GivenStreams given(op, x, rows, t, l, kOfTaylor);
  if (kOfTaylor && need_taylor(given.r))
    for (ChainLayer& layer : layers) layer.streams = layer.taylor;
  const int64_t n = layers.back().n, width = saved_of(layers, rows.m, given);
  require(saved.size(0) == width, op, ": saved is ", described(saved), "; need ", width, " numbers");
  saved = dense(saved);
  return streams_gradients(op, {gy, gty, gly}, x, given, rows, layers, saved, n, type, needed,
                           [](const ChainStreams& args) { kernels().chain_streams_backward(args); });
}

STABLE_TORCH_LIBRARY_IMPL(fusegrad, CPU, m) {
  m.impl("chain", TORCH_BOX(&chain));
  m.impl("chain_backward", TORCH_BOX(&chain_backward));
  m.impl("chain_streams", TORCH_BOX(&chain_streams<false>));
  m.impl("chain_streams_backward", TORCH_BOX(&chain_streams_backward<false>));
  m.impl("chain_taylor", TORCH_BOX(&chain_streams<true>));
  m.impl("chain_taylor_backward", TORCH_BOX(&chain_streams_backward<true>));
}

}  // namespace
}  // namespace fusegrad
