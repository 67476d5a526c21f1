// A chain with derivatives along directions: of each tensor y its value, tangents t_1, ..., t_r, and l, the sum over
// the directions of the second derivatives along each. Each of these streams is a panel; those of the same rows lie one
// after another and take the same way, so a layer is one product of r + 2 panels, while its weights are in cache:
//
//     z = y w^T + b,  tz_i = t_i w^T,  lz = l w^T
//     y = act(z),  t_i = act'(z) tz_i,  l = act'(z) lz + act''(z) sum_i tz_i^2
//
// "Forward Laplacian", Li et al., arXiv:2307.08214.
#pragma once

#include "chain_backward.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

template <class T> struct Streamed : ChainGradients<T> {
  using Base = ChainGradients<T>;
  using Base::g, Base::is_whole, Base::kPanel, Base::multiply, Base::pack_weights;
  using Base::panels, Base::read, Base::roomy, Base::rows_in, Base::size_of_packed, Base::step, Base::streams,
      Base::widest;
  using Base::write;
  using typename Base::P;
  using typename Base::S;
  using typename Base::V;
  using typename Base::Weights;
  const ChainStreams& h;
  const int64_t r;  // directions

  explicit Streamed(const ChainStreams& h) : Base{{h.chain, h.tangents + 2}}, h(h), r(h.tangents) {}

  // The streams that an activation makes of a panel's, which may be in the same place; y to `saved` too.
  void apply(const ChainLayer& layer, const S* from, S* to, S* saved) const {
    layer.streams[0]({layer.n * kPanel, step(layer.n), r, from, to, saved, nullptr}, layer.param);
  }

  // --- of x ----------------------------------------------------------------------------------------------------------

  Operand tangent(const Operand& t, int64_t step, int64_t i) const {
    return {at(t.data, i * step * int64_t(sizeof(T))), t.row_stride, t.column_stride};
  }
  // The streams of x that are given for each row, of k features from the q-th on.
  void read_input(int64_t panel, int64_t k, S* to, int64_t q = 0) const {
    const int64_t step = this->step(k);
    read(from_column(g.x, q), panel, k, to);
    if (!h.alike) read_tangents(from_column(h.t, q), panel, k, to + step);
    if (h.l.data)
      read(from_column(h.l, q), panel, k, to + (r + 1) * step);
    else if (!h.alike)
      __builtin_memset(to + (r + 1) * step, 0, k * kPanel * sizeof(S));
  }
  void read_tangents(const Operand& t, int64_t panel, int64_t k, S* to) const {
    const int64_t step = this->step(k);
    if (!are_adjacent()) {
      for (int64_t i = 0; i < r; i++) read(tangent(t, h.t_step, i), panel, k, to + i * step);
      return;
    }
    for (int64_t j = 0; j < k; j++) {
      const T* from = static_cast<const T*>(t.data) + panel * kPanel * t.row_stride + j * t.column_stride;
      for (int64_t i = 0; i < r; i += kBlockOfStreams) {
        S block[kBlockOfStreams * kPanel + kLanes<V>];
        const int64_t some = least(kBlockOfStreams, r - i);
        for (int64_t row = 0; row < rows_in(panel); row++)
          __builtin_prefetch(from + i + row * t.row_stride + kColumnsAhead * t.column_stride);
        pack_panel<kPanel>(from + i, t.row_stride, 1, rows_in(panel), some, block);
        for (int64_t s = 0; s < some; s++)
          __builtin_memcpy(to + (i + s) * step + j * kPanel, block + s * kPanel, kPanel * sizeof(S));
      }
    }
  }
  // Whether the tangents of a number of x follow one another: then they are read together, each line once.
  bool are_adjacent() const { return !h.alike && h.t_step == 1 && r > 1; }
  static constexpr int64_t kBlockOfStreams = 16, kColumnsAhead = 8;
  static Operand from_column(const Operand& x, int64_t q) {
    return {at(x.data, q * x.column_stride * int64_t(sizeof(T))), x.row_stride, x.column_stride};
  }
  // tz of the first layer where t is alike, (n, kPanel) for each panel of directions.
  int64_t size_of_alike() const { return h.alike ? ceil_div(r, kPanel) * g.layers[0].n * kPanel : 0; }
  void multiply_alike(const Weights& weights, S* tz, S* room) const {
    const ChainLayer& layer = g.layers[0];
    for (int64_t i = 0; i < r; i += kPanel, tz += layer.n * kPanel) {
      pack_panel<kPanel>(static_cast<const T*>(h.t.data) + i * h.t.row_stride, h.t.row_stride, h.t.column_stride,
                         least(kPanel, r - i), layer.k, room);
      multiply(weights.data + weights.at[0], nullptr, layer.n, layer.k, room, kPanel, tz);
    }
  }

  // --- what is saved -------------------------------------------------------------------------------------------------

  bool saves_value_alone(int l) const { return saved_streams(h.alike, r, l) == 1; }
  int64_t saved_before(int l) const {
    int64_t count = 0;
    for (int i = 0; i < l; i++) count += saved_streams(h.alike, r, i) * roomy(g.layers[i].n);
    return count * g.m;
  }
  S* saved(int l, int64_t panel) const {
    return static_cast<S*>(g.saved) + saved_before(l) + panel * saved_streams(h.alike, r, l) * step(g.layers[l].n);
  }
  S* saved_tangents() const {
    const int layers = g.layers[g.count - 1].value ? g.count : g.count - 1;
    return static_cast<S*>(g.saved) + saved_before(layers);
  }
  void keep(const S* values, int l, int64_t panel) const {
    Base::keep(values, saved_streams(h.alike, r, l) * roomy(g.layers[l].n), rows_in(panel), saved(l, panel));
  }
  // All streams: what was kept, or made of it in `room`.
  const S* kept(int l, int64_t panel, S* room) const {
    const int64_t n = g.layers[l].n, size = step(n), streams_kept = saved_streams(h.alike, r, l);
    const S* from = Base::kept(saved(l, panel), streams_kept * roomy(n), rows_in(panel), room);
    if (!saves_value_alone(l)) return from;
    if (from != room) __builtin_memcpy(room, from, n * kPanel * sizeof(S));
    const S* tz = saved_tangents();
    for (int64_t k = 1; k <= r; k++, tz += n)
      for (int64_t j = 0; j < n; j++)
        for (int64_t i = 0; i < kPanel; i += kLanes<V>) store<V>(room + k * size + j * kPanel + i, all<V>(tz[j]));
    __builtin_memset(room + (r + 1) * size, 0, n * kPanel * sizeof(S));
    return room;
  }

  // --- forward -------------------------------------------------------------------------------------------------------

  // Of the first layer, where tangents are the same for all rows.
  void products(int l, const Weights& weights, const S* alike, const S* from, int64_t rows, S* z) const {
    const ChainLayer& layer = g.layers[l];
    const S* w = weights.data + weights.at[l];
    const S* bias = layer.bias ? w + size_of_packed(layer.n, layer.k) : nullptr;
    const int64_t size = layer.n * kPanel;
    for (int64_t k = 0; k < streams; k++) {
      S* to = z + k * step(layer.n);
      if (l == 0 && k > r) {
        __builtin_memset(to, 0, size * sizeof(S));
      } else if (l == 0 && k > 0) {
        const S* tz = alike + (k - 1) / kPanel * size + (k - 1) % kPanel;
        for (int64_t j = 0; j < size; j += kPanel)
          for (int64_t i = 0; i < kPanel; i += kLanes<V>) store<V>(to + j + i, all<V>(tz[j]));
      } else {
        multiply(w, k == 0 ? bias : nullptr, layer.n, layer.k, from + k * step(layer.k), rows, to);
      }
    }
  }

  // Of the first layer, where there are tangents of each row: by blocks of columns of x, which are read just before use
  // and stay in L2 with the sums of all streams.
  void first_products(const Weights& weights, int64_t panel, S* in, S* z) const {
    const ChainLayer& layer = g.layers[0];
    const S* w = weights.data + weights.at[0];
    const S* bias = w + size_of_packed(layer.n, layer.k);
    const int64_t there = h.l.data ? streams : streams - 1, wide = rows_in(panel) > kLanes<V>;
    for (int64_t q = 0, k; q < layer.k; q += k) {
      k = least(kChain, layer.k - q);
      const bool ends = layer.bias && q + k == layer.k;
      read_input(panel, k, in, q);
      for (int64_t s = 0; s < there; s++)
        for (int64_t i = 0; i < layer.n; i += kMR) {
          S* to = z + s * step(layer.n) + i * kPanel;
          const auto kernel = kKernel<P, true>.tile[wide][least(kMR, layer.n - i) - 1];
          kernel(k, w + i * layer.k + q * kMR, in + s * step(k), s == 0 && ends ? bias + i : nullptr,
                 q > 0 ? to : nullptr, kPanel, to, kPanel, kNothing);
        }
    }
    if (there < streams) __builtin_memset(z + there * step(layer.n), 0, layer.n * kPanel * sizeof(S));
  }

  void forward(const Weights& weights, const S* alike, int64_t panel, S* in, S* out) const {
    const int64_t rows = rows_in(panel);
    const bool whole = is_whole(panel);
    if (h.alike) read_input(panel, g.layers[0].k, in);
    const S* from = in;
    for (int l = 0; l < g.count; l++) {
      const ChainLayer& layer = g.layers[l];
      const bool ends = l == g.count - 1, keeps = g.saved && (layer.value || !ends);
      const bool in_place = keeps && whole && !saves_value_alone(l);
      S* z = in_place ? saved(l, panel) : out;
      if (l == 0 && !h.alike)
        first_products(weights, panel, in, z);
      else
        products(l, weights, alike, from, rows, z);
      S* y = z;
      if (layer.value) {
        if (keeps) y = z == out ? in : out;  // what `from` was is not needed any more
        apply(layer, z, y, keeps && !layer.saves_input ? z : nullptr);
      }
      if (keeps && !in_place) keep(z, l, panel);
      if (ends) {
        const int64_t step = this->step(layer.n), all = g.m * layer.n;
        write(y, panel, layer.n, g.y);
        for (int64_t i = 0; i < r; i++) write(y + (1 + i) * step, panel, layer.n, static_cast<T*>(h.ty) + i * all);
        return write(y + (1 + r) * step, panel, layer.n, h.ly);
      }
      from = y;
      if (y == out) {
        out = in;
        in = y;
      }
    }
  }

  void forward(int count) const {
    const Weights weights = pack_weights(false);
    const int64_t width = streams * (widest() + 4) * kPanel + kLanes<V>, room_for_alike = widest() * kPanel + kLanes<V>;
    const Scratch fixed(kSlotOfSums, (size_of_alike() + room_for_alike) * int64_t(sizeof(S)));
    S* alike = static_cast<S*>(fixed.data);
    if (h.alike) {
      const int64_t n = g.layers[0].n;
      multiply_alike(weights, alike, alike + size_of_alike());
      for (int64_t k = 0; g.saved && k < r; k++)
        for (int64_t j = 0; j < n; j++) saved_tangents()[k * n + j] = alike[(k / kPanel * n + j) * kPanel + k % kPanel];
    }
    share(count, panels(), [&](int64_t panel, int64_t end) {
      S* room = static_cast<S*>(scratch(kSlotOfA, 2 * width * int64_t(sizeof(S))));
      for (; panel < end; panel++) forward(weights, alike, panel, room, room + width);
    });
    give_back(kSlotOfWeights);
  }
};

inline int threads_for(const ChainStreams& h, double products) {
  return threads_for(h.chain, products * double(h.tangents + 2));
}

inline void chain_streams(const ChainStreams& h) {
  if (h.chain.m == 0) return;
  if (h.chain.type == Type::f32)
    Streamed<float>(h).forward(threads_for(h, 1));
  else
    Streamed<double>(h).forward(threads_for(h, 1));
}

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
