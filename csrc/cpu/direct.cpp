#include "direct.h"

#include <unordered_map>

#include "capability.h"
#include "chain_operands.h"

namespace fusegrad::direct {
namespace {

static_assert(kMostLayers == fusegrad::kMostLayers);

using Acts = std::vector<ActOfLayer>;

// The activations of a text, looked up once by each thread for each instruction set; none where one of them has no
// kernel. A lock would stay locked in the child of a fork.
const Acts& acts_of(const std::string& text) {
  static const Acts none;
  thread_local std::unordered_map<const char*, std::unordered_map<std::string, const Acts>> known;
  auto& of_set = known[kernels().isa];
  const auto found = of_set.find(text);
  if (found != of_set.end()) return found->second;
  Acts acts;
  ActOfLayer act;
  const char* at = text.c_str();
  for (; next_act(at, act); acts.push_back(act))
    if (act.kernels == nullptr || acts.size() == kMostLayers) return none;
  return *at ? none : of_set.emplace(text, std::move(acts)).first->second;
}

Operand operand(const Matrix& m) { return {m.data, m.row_stride, m.column_stride}; }

// The same chain as the kernels take it.
struct Taken {
  ChainLayer layers[kMostLayers];
  fusegrad::Chain chain;

  explicit Taken(const Chain& g) {
    const Type type = *type_of(torch::headeronly::ScalarType(g.dtype));
    const Acts& acts = acts_of(*g.acts);
    for (int l = 0; l < g.count; l++) {
      const Layer& of = g.layers[l];
      ChainLayer& layer = layers[l];
      layer.k = of.k;
      layer.n = of.n;
      layer.w = operand(of.w);
      layer.bias = of.b;
      layer.bias_stride = of.b_stride;
      layer.gw = of.gw;
      layer.gw_by_columns = of.gw_by_columns;
      layer.gb = of.gb;
      acts[l].of(type, layer);
    }
    chain = {type, g.m, g.count, layers, operand(g.x), g.y, g.saved, operand(g.gy), g.gx, g.recomputes};
  }
};

int64_t saved_width(const Chain& g) {
  const Acts& acts = acts_of(*g.acts);
  if (acts.size() != size_t(g.count) || torch_multiplies_faster()) return -1;
  int64_t width = 0;
  for (int l = 0; l < g.count; l++) {
    const bool ends = l == g.count - 1;
    if (!ends || (!acts[l].is_identity && acts[l].kernels->saves_input)) width += g.layers[l].n;
  }
  return width;
}

void chain(const Chain& g) {
  const Taken taken(g);
  const Flush flush(!is_linear(taken.chain));
  (g.by_layers || is_by_layers(taken.chain) ? chain_by_layers : kernels().chain)(taken.chain);
}

void chain_backward(const Chain& g) {
  const Taken taken(g);
  const Flush flush(!is_linear(taken.chain));
  (g.by_layers || is_by_layers(taken.chain) ? chain_backward_by_layers : kernels().chain_backward)(taken.chain);
}

bool act(const Act& a) {
  const Activation* known = activation(*a.name);
  if (known == nullptr || a.order >= kOrders) return false;
  const Type type = *type_of(torch::headeronly::ScalarType(a.dtype));
  const int64_t size = size_of(type);
  parallel(a.n, kShare, [&](int64_t i, int64_t end) {
    act_on_rows(*known, a.order, type, {1, end - i, at(a.s, i * size), 0, at(a.g, i * size), 0, at(a.out, i * size), 0},
                a.param);
  });
  return true;
}

bool act_vjp(const ActVjp& a) {
  const Activation* known = activation(*a.name);
  if (known == nullptr || a.order > kDerivativeOrders) return false;
  const Type type = *type_of(torch::headeronly::ScalarType(a.dtype));
  const int64_t size = size_of(type);
  const Flush flush(size > 2);
  parallel(a.n, kShare, [&](int64_t i, int64_t end) {
    DerivativeArgs args{1, end - i, 3, 3, {at(a.gy, i * size), at(a.s, i * size), at(a.g, i * size)}, {}, {}};
    for (int k = 0; k < 3; k++) args.out[k] = at(a.out[k], i * size);
    kernels().differentiate(type, backward(*known, a.order, type), args, a.param);
  });
  return true;
}

}  // namespace

const Table kTable{kLayout, &saved_width, &chain, &chain_backward, &act, &act_vjp};

}  // namespace fusegrad::direct
