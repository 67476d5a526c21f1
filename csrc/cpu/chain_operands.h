// The layers of a chain, as its ops are given them.
#pragma once

#include <charconv>
#include <cstring>

#include "layers.h"
#include "tensors.h"

namespace fusegrad {

using Tensors = std::vector<Tensor>;
using Maybe = std::optional<Tensor>;
using Weights = std::vector<Maybe>;  // w and b of each layer, one after another

// The activation of a layer, and its parameter.
struct ActOfLayer {
  std::string name;
  double param = 0;
  const Activation* kernels = nullptr;
  bool is_identity = false;

  void of(Type type, ChainLayer& layer) const {
    layer.param = param;
    layer.saves_input = kernels->saves_input;
    if (is_identity) return;
    layer.value = derivative(*kernels, 0, type);
    layer.first = derivative(*kernels, 1, type);
    layer.streams = type == Type::f64 ? kernels->streams_float64 : kernels->streams_float32;
    layer.taylor = type == Type::f64 ? kernels->taylor_float64 : kernels->taylor_float32;
    layer.forms = type == Type::f64 ? kernels->forms_float64 : kernels->forms_float32;
    layer.remade = type == Type::f64 ? kernels->remade_float64 : kernels->remade_float32;
  }
};

// The next of those in a text, which has a name and a parameter for each, as in "tanh 0.0,identity 0.0"; false at its
// end, and where there is something else.
inline bool next_act(const char*& at, ActOfLayer& act) {
  const size_t length = std::strcspn(at, " ");
  if (at[length] != ' ') return false;
  act.name.assign(at, length);
  act.kernels = activation(act.name);
  act.is_identity = act.name == "identity";
  const char* parameter = at + length + 1;
  at = std::from_chars(parameter, parameter + std::strlen(parameter), act.param).ptr;  // which knows no locale
  if (*at != ',' && *at != 0) return false;
  at += *at == ',';
  return true;
}

// The layers of a chain, without gradients, after all has been checked.
inline std::vector<ChainLayer> layers_of(const char* op, Type type, const Tensor& x, const Weights& weights,
                                         const std::string& acts) {
  std::vector<ChainLayer> layers;
  layers.reserve(weights.size() / 2);
  int64_t k = x.size(x.dim() - 1);
  ActOfLayer act;
  for (const char* at = acts.c_str(); *at;) {
    const size_t l = layers.size();
    require(l < kMostLayers && 2 * l + 1 < weights.size() && next_act(at, act), op, ": ", weights.size(),
            " weights and acts '", acts, "'; need w, b and 'name parameter' of each of 1 to ", kMostLayers,
            " layers, and commas");
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
    require(act.kernels != nullptr, op, ": no kernel of act '", act.name, "'");
    act.of(type, layer);
    layers.push_back(layer);
    k = n;
  }
  require(2 * layers.size() == weights.size() && !layers.empty(), op, ": ", weights.size(), " weights and acts '", acts,
          "'; need w and b of each layer");
  return layers;
}

inline void require_wide(const char* op, Type type, const Tensor& x) {
  require(type == Type::f32 || type == Type::f64, op, ": x is ", described(x), "; need float32 or float64");
}

// Numbers that the last layer saves: its output is saved as such.
inline int64_t saved_of_last(const ChainLayer& last) { return last.value && last.saves_input ? last.n : 0; }

// Numbers of a row that all layers save.
inline int64_t saved_width(const std::vector<ChainLayer>& layers) {
  int64_t width = saved_of_last(layers.back());
  for (size_t l = 0; l + 1 < layers.size(); l++) width += layers[l].n;
  return width;
}

}  // namespace fusegrad
