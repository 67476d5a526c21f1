// A chain of layers, by tiles of rows that pass through all of them while they are in cache.
//
// A panel holds kNR rows, feature by feature: (n, kNR). So the weights are what is packed as `a`, once a call, a panel
// is `b` as it is, and the tile of c that the micro-kernel writes is a part of the next layer's panel: between layers
// nothing is packed, and an activation is one pass over adjacent numbers.
#pragma once

#include "gemm.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

template <class T> struct Chained {
  using V = VectorFor<T>;
  using S = ScalarOf<V>;
  using P = Packed<T>;
  static constexpr int64_t kPanel = kNR<V>;
  const Chain& g;
  int64_t streams = 1;  // panels of the same rows, one after another, that take the same way (streams.h)

  int64_t panels() const { return ceil_div(g.m, kPanel); }
  int64_t rows_in(int64_t panel) const { return least(kPanel, g.m - panel * kPanel); }
  int64_t roomy(int64_t n) const { return streams == 1 ? n : fusegrad::roomy(n); }
  int64_t step(int64_t n) const { return roomy(n) * kPanel; }
  const ChainLayer& last() const { return g.layers[g.count - 1]; }

  int64_t widest() const {
    int64_t widest = 0;
    for (int l = 0; l < g.count; l++) {
      const int64_t k = g.layers[l].k, n = g.layers[l].n, both = k < n ? n : k;
      widest = widest < both ? both : widest;
    }
    return widest;
  }

  // --- what a call packs of the weights ----------------------------------------------------------------------------

  static int64_t size_of_packed(int64_t rows, int64_t k) { return round_up(rows, kMR) * k + kPanel; }

  // Where the packed weight of each layer starts: of w in forward, of w^T in backward; and its bias.
  struct Weights {
    S* data;
    int64_t at[kMostLayers];
  };
  int64_t place(bool backward, int64_t* at) const {
    int64_t size = 0;
    for (int l = 0; l < g.count; l++) {
      const ChainLayer& layer = g.layers[l];
      at[l] = size;
      size += backward ? size_of_packed(layer.k, layer.n) : size_of_packed(layer.n, layer.k) + layer.n;
    }
    return size;
  }
  // In backward w of the first layer is needed for the gradient of x alone.
  Weights pack_weights(bool backward, int slot = kSlotOfWeights) const {
    Weights weights;
    const int64_t size = place(backward, weights.at);
    weights.data = static_cast<S*>(scratch(slot, size * int64_t(sizeof(S))));
    for (int l = 0; l < g.count; l++) {
      const ChainLayer& layer = g.layers[l];
      const T* w = static_cast<const T*>(layer.w.data);
      S* to = weights.data + weights.at[l];
      if (backward && l == 0 && streams == 1 && !g.gx) continue;
      if (backward) {
        pack<kMR>(w, layer.w.column_stride, layer.w.row_stride, layer.k, layer.n, to);
        continue;
      }
      pack<kMR>(w, layer.w.row_stride, layer.w.column_stride, layer.n, layer.k, to);
      S* bias = to + size_of_packed(layer.n, layer.k);
      for (int64_t i = 0; layer.bias && i < layer.n; i++)
        bias[i] = static_cast<const T*>(layer.bias)[i * layer.bias_stride];
    }
    return weights;
  }

  // c = a b + bias: (n, kPanel) of a packed (n, k) and a panel (k, kPanel), of whose rows there are `rows`.
  static void multiply(const S* a, const S* bias, int64_t n, int64_t k, const S* b, int64_t rows, S* c) {
    const int wide = rows > kLanes<V>;
    for (int64_t i = 0; i < n; i += kMR) {
      const auto kernel = kKernel<P, true>.tile[wide][least(kMR, n - i) - 1];
      for (int64_t q = 0; q < k; q += kChain)
        kernel(least(kChain, k - q), a + i * k + q * kMR, b + q * kPanel, bias && q + kChain >= k ? bias + i : nullptr,
               q > 0 ? c + i * kPanel : nullptr, kPanel, c + i * kPanel, kPanel, kNothing);
    }
  }

  // --- panels ------------------------------------------------------------------------------------------------------

  // A panel of a matrix with k columns; zeros for the rows that it lacks. Writes up to a vector past its end.
  void read(const Operand& from, int64_t panel, int64_t k, S* to) const {
    const T* first = static_cast<const T*>(from.data) + panel * kPanel * from.row_stride;
    pack_panel<kPanel>(first, from.row_stride, from.column_stride, rows_in(panel), k, to);
  }
  // The same back, into a matrix with n adjacent columns.
  void write(const S* from, int64_t panel, int64_t n, void* to) const {
    write_turned<T>(from, rows_in(panel), n, static_cast<T*>(to) + panel * kPanel * n, n);
  }

  // Where a panel of what layer l saves lies; one that is not whole has its rows alone.
  S* saved(int l, int64_t panel) const {
    int64_t before = 0;
    for (int i = 0; i < l; i++) before += roomy(g.layers[i].n);
    return static_cast<S*>(g.saved) + streams * (before * g.m + panel * step(g.layers[l].n));
  }
  bool is_whole(int64_t panel) const { return rows_in(panel) == kPanel; }
  void keep(const S* values, int l, int64_t panel) const {
    keep(values, streams * roomy(g.layers[l].n), rows_in(panel), saved(l, panel));
  }
  static void keep(const S* values, int64_t n, int64_t rows, S* to) {
    for (int64_t i = 0; i < n; i++) __builtin_memcpy(to + i * rows, values + i * kPanel, rows * sizeof(S));
  }
  // What was kept: itself, or, if it is not whole, made so in `room` by zeros.
  const S* kept(int l, int64_t panel, S* room) const {
    return kept(saved(l, panel), streams * roomy(g.layers[l].n), rows_in(panel), room);
  }
  static const S* kept(const S* from, int64_t n, int64_t rows, S* room) {
    if (rows == kPanel) return from;
    __builtin_memset(room, 0, n * kPanel * sizeof(S));
    for (int64_t i = 0; i < n; i++) __builtin_memcpy(room + i * kPanel, from + i * rows, rows * sizeof(S));
    return room;
  }
  // Zeros for the rows that a panel lacks: what an activation makes of them may be anything.
  void clear_rest(S* values, int64_t n, int64_t panel) const {
    const int64_t rows = rows_in(panel);
    for (int64_t i = 0; rows < kPanel && i < n; i++)
      __builtin_memset(values + i * kPanel + rows, 0, (kPanel - rows) * sizeof(S));
  }

  static void activate(Elementwise f, int64_t n, const S* s, const S* gradient, S* out, double param) {
    f({1, n * kPanel, s, 0, gradient, 0, out, 0}, param);
  }

  // --- forward -----------------------------------------------------------------------------------------------------

  void forward(const Weights& weights, int64_t panel, S* in, S* out) const {
    const int64_t rows = rows_in(panel);
    const bool whole = is_whole(panel);
    const S* from = in;
    read(g.x, panel, g.layers[0].k, in);
    for (int l = 0; l < g.count; l++) {
      const ChainLayer& layer = g.layers[l];
      const S* w = weights.data + weights.at[l];
      const S* bias = layer.bias ? w + size_of_packed(layer.n, layer.k) : nullptr;
      const bool ends = l == g.count - 1, keeps_z = g.saved && layer.value && layer.saves_input;
      const bool keeps_y = g.saved && !ends && !keeps_z;
      S* z = (keeps_z || keeps_y) && whole ? saved(l, panel) : out;
      multiply(w, bias, layer.n, layer.k, from, rows, z);
      if (keeps_z && !whole) keep(z, l, panel);
      S* y = keeps_z ? out : z;
      if (layer.value) activate(layer.value, layer.n, z, nullptr, y, layer.param);
      if (keeps_y && !whole) keep(y, l, panel);
      if (ends) return write(y, panel, layer.n, g.y);
      from = y;
      if (y == out) {
        out = in;
        in = y;
      }
    }
  }

  void forward(int count) const {
    const Weights weights = pack_weights(false);
    const int64_t width = widest() * kPanel + kLanes<V>;
    share(count, panels(), [&](int64_t panel, int64_t end) {
      S* room = static_cast<S*>(scratch(kSlotOfA, 2 * width * int64_t(sizeof(S))));
      for (; panel < end; panel++) forward(weights, panel, room, room + width);
    });
    give_back(kSlotOfWeights);
  }
};

inline int threads_for(const Chain& g, double products) {
  double cycles = 0;
  for (int l = 0; l < g.count; l++) cycles += products * double(g.m) * double(g.layers[l].n) * double(g.layers[l].k);
  return cycles / (g.type == Type::f64 ? 8 : 16) < kSerialCycles ? 1 : threads();
}

inline void chain(const Chain& g) {
  if (g.m == 0) return;
  if (g.type == Type::f32)
    Chained<float>{g}.forward(threads_for(g, 1));
  else
    Chained<double>{g}.forward(threads_for(g, 1));
}

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
