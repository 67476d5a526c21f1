#include <charconv>
#include <cstring>

#include "tensors.h"

namespace fusegrad {
namespace {

using Tensors = std::vector<Tensor>;
using Weights = std::vector<std::optional<Tensor>>;  // w and b of each layer, one after another

// The layers of a chain, without gradients, after all has been checked. `acts` has a name and a parameter for each, as
// in "tanh 0.0,identity 0.0".
std::vector<ChainLayer> layers_of(const char* op, Type type, const Tensor& x, const Weights& weights,
                                  const std::string& acts) {
  require(type == Type::f32 || type == Type::f64, op, ": x is ", described(x), "; need float32 or float64");
  std::vector<ChainLayer> layers;
  layers.reserve(weights.size() / 2);
  int64_t k = x.size(x.dim() - 1);
  std::string name;
  for (const char* at = acts.c_str(); *at; at += *at == ',') {
    const size_t l = layers.size(), length = std::strcspn(at, " ");
    require(l < kMostLayers && 2 * l + 1 < weights.size() && at[length] == ' ', op, ": ", weights.size(),
            " weights and acts '", acts, "'; need w, b and 'name parameter' of each of 1 to ", kMostLayers, " layers");
    const Tensor *w = if_any(weights[2 * l]), *bias = if_any(weights[2 * l + 1]);
    require(w != nullptr && w->const_data_ptr() != nullptr && (!bias || bias->const_data_ptr() != nullptr), op,
            ": layer ", l, " has no numbers in w or b");
    check(op, "w (n, k), b (n)", {w, bias});
    const int64_t n = w->size(0);
    require(w->size(1) == k && k > 0 && n > 0 && w->scalar_type() == x.scalar_type(), op, ": layer ", l, " has w ",
            described(*w), " and an input of ", k, " features, x is ", described(x), "; need w (n, ", k,
            ") of the dtype of x, of no empty size");
    ChainLayer layer{k, n, matrix(*w, false)};
    if (bias) {
      layer.bias = bias->const_data_ptr();
      layer.bias_stride = bias->stride(0);
    }
    name.assign(at, length);
    const Activation* a = activation(name);
    require(a != nullptr, op, ": no kernel of act '", name, "'");
    if (name != "identity") {
      layer.value = derivative(*a, 0, type);
      layer.first = derivative(*a, 1, type);
    }
    const char* end = acts.c_str() + acts.size();
    at = std::from_chars(at + length + 1, end, layer.param).ptr;  // which knows no locale
    layer.saves_input = a->saves_input;
    layers.push_back(layer);
    k = n;
    require(*at == ',' || *at == 0, op, ": acts '", acts, "'; need 'name parameter' of each layer, and commas");
  }
  require(2 * layers.size() == weights.size() && !layers.empty(), op, ": ", weights.size(), " weights and acts '", acts,
          "'; need w and b of each layer");
  return layers;
}

// Numbers that the last layer saves: its output is saved as such.
int64_t saved_of_last(const ChainLayer& last) { return last.value && last.saves_input ? last.n : 0; }

std::tuple<Tensor, Tensor> chain(Tensor x, Weights weights, StringHandle acts_, bool save) {
  std::string acts = text_of(acts_);
  const Type type = check("chain", "x (..., k)", {&x});
  const std::vector<ChainLayer> layers = layers_of("chain", type, x, weights, acts);
  const Rows rows(x);
  int64_t width = saved_of_last(layers.back());
  for (size_t l = 0; l + 1 < layers.size(); l++) width += layers[l].n;
  Tensor y = output(x, *weights[weights.size() - 2]), saved = empty(x, {save ? rows.m * width : 0});
  kernels().chain({type, rows.m, int(layers.size()), layers.data(), rows.operand, y.mutable_data_ptr(),
                   save ? saved.mutable_data_ptr() : nullptr});
  return {y, saved};
}

// gx, and gw and gb of each layer, empty if not needed. Of `needed` the lowest bit is that of x, then those of w and b
// of each layer follow.
Tensors chain_backward(Tensor gy, Tensor x, Weights weights, Tensor y, Tensor saved, StringHandle acts_,
                       int64_t needed) {
  std::string acts = text_of(acts_);
  const Type type = check("chain_backward", "gy (..., n), y (..., n), x (..., k), saved (s)", {&gy, &y, &x, &saved});
  std::vector<ChainLayer> layers = layers_of("chain_backward", type, x, weights, acts);
  const Rows rows(x), given(gy), out(dense(y));
  const ChainLayer& last = layers.back();
  int64_t width = saved_of_last(last);
  for (size_t l = 0; l + 1 < layers.size(); l++) width += layers[l].n;
  require(last.n == given.k && saved.size(0) == rows.m * width && saved.is_contiguous(), "chain_backward: gy is ",
          described(gy), " and saved ", described(saved), "; need ", last.n, " features and ", rows.m * width,
          " numbers");
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
  kernels().chain_backward({type, rows.m, int(layers.size()), layers.data(), rows.operand,
                            const_cast<void*>(out.operand.data), const_cast<void*>(saved.const_data_ptr()),
                            given.operand, needed & 1 ? gradients[0].mutable_data_ptr() : nullptr});
  return gradients;
}

STABLE_TORCH_LIBRARY_IMPL(fusegrad, CPU, m) {
  m.impl("chain", TORCH_BOX(&chain));
  m.impl("chain_backward", TORCH_BOX(&chain_backward));
}

}  // namespace
}  // namespace fusegrad
