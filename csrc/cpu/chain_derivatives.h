// Derivatives of a chain, and their gradients, by tiles of rows that pass through all layers twice while in cache:
// those of <gy, y> + <gl, l>, where l = D y[t] + sum_ij f_ij D^2 y[e_i, e_j] is a stream as in streams.h, but starts
// from t, and gets a quadratic form of each row's own from the tangents along the e_i:
//
//     tz_i = t_i w^T,  lz = l w^T,   t_i = act' tz_i,  l = act' lz + act'' sum_ij f_ij tz_i tz_j
//
// What the activations saved of the values is that of the chain's own forward pass. tz_i and lz stay in cache until the
// cotangents come back (streams_backward.h).
#pragma once

#include "streams_backward.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

template <class T> struct Derived : StreamedGradients<T> {
  using Base = StreamedGradients<T>;
  using Base::add_alike, Base::add_bias_gradient, Base::add_blocks, Base::add_by_dots, Base::by_dots, Base::by_tiles;
  using Base::clear_rest, Base::first_needed, Base::g, Base::kPanel, Base::kPanelsOfChain, Base::last, Base::multiply;
  using Base::multiply_alike, Base::multiply_back, Base::pack_weights, Base::place_sums, Base::r, Base::read,
      Base::read_if_any;
  using Base::roomy, Base::rows_in, Base::size_of_alike, Base::step, Base::streams, Base::widest, Base::write;
  using typename Base::Room;
  using typename Base::S;
  using typename Base::Sums;
  using typename Base::V;
  using typename Base::Weights;
  const ChainDerivatives& d;
  const ChainGradients<T> value_alone, cotangents;  // which saved these

  Derived(const ChainDerivatives& d, const ChainStreams& h, const Chain& of_slope)
      : Base(h), d(d), value_alone{{d.chain}}, cotangents{{of_slope}} {}

  // What a tile keeps: forms of its panels, and tz_i and lz of each layer, panel after panel.
  struct Tile {
    S *forms, *z[kMostLayers];
  };
  Tile tile_of(int64_t count) const {
    int64_t size = count * r * r * kPanel;
    for (int l = 0; l < g.count; l++) size += count * (r + 1) * step(g.layers[l].n);
    Tile tile;
    tile.forms = static_cast<S*>(scratch(kSlotOfGz, size * int64_t(sizeof(S))));
    S* at = tile.forms + count * r * r * kPanel;
    for (int l = 0; l < g.count; l++) {
      tile.z[l] = at;
      at += count * (r + 1) * step(g.layers[l].n);
    }
    return tile;
  }
  S* z_of(const Tile& tile, int l, int64_t p) const { return tile.z[l] + p * (r + 1) * step(g.layers[l].n); }

  void read_forms(int64_t panel, S* to) const {
    const int64_t k = g.layers[0].k, rows = rows_in(panel);
    const T* from = static_cast<const T*>(d.forms) + panel * kPanel * k * k;
    for (int64_t i = 0; i < r; i++)
      for (int64_t j = 0; j < r; j++, to += kPanel) {
        const T *a = from + d.features[i] * k + d.features[j], *b = from + d.features[j] * k + d.features[i];
        for (int64_t row = 0; row < kPanel; row++) to[row] = row < rows ? (a[row * k * k] + b[row * k * k]) / 2 : 0;
      }
  }

  // What the activation of a layer saved; of a layer without one, y.
  const S* saved_value(int l, int64_t panel, S* room) const {
    const ChainLayer& layer = g.layers[l];
    const bool is_y = l == g.count - 1 && !layer.saves_input;
    if (!is_y && !d.by_rows) return value_alone.kept(l, panel, room);
    read({is_y ? g.y : value_alone.saved(l, 0), layer.n, 1}, panel, layer.n, room);
    return room;
  }

  // --- forward -------------------------------------------------------------------------------------------------------

  void products(int l, const Weights& weights, const S* alike, const S* from, int64_t rows, S* z) const {
    const ChainLayer& layer = g.layers[l];
    const S* w = weights.data + weights.at[l];
    const int64_t size = layer.n * kPanel, step = this->step(layer.n);
    if (l > 0) {
      for (int64_t k = 0; k <= r; k++)
        multiply(w, nullptr, layer.n, layer.k, from + (1 + k) * this->step(layer.k), rows, z + k * step);
      return;
    }
    for (int64_t k = 0; k < r; k++) {
      const S* tz = alike + k / kPanel * size + k % kPanel;
      for (int64_t j = 0; j < size; j += kPanel)
        for (int64_t i = 0; i < kPanel; i += kLanes<V>) store<V>(z + k * step + j + i, all<V>(tz[j]));
    }
    if (d.t.data)
      multiply(w, nullptr, layer.n, layer.k, from, rows, z + r * step);
    else
      __builtin_memset(z + r * step, 0, size * sizeof(S));
  }

  void forward(const Weights& weights, const S* alike, int64_t panel, int64_t p, const Tile& tile, Room room) const {
    S *in = room.next, *out = room.x;
    if (d.t.data) read(d.t, panel, g.layers[0].k, in);
    for (int l = 0; l < g.count; l++) {
      const ChainLayer& layer = g.layers[l];
      const int64_t step = this->step(layer.n);
      const bool ends = l == g.count - 1;
      if (ends && !layer.value && !d.l) return;
      S* z = z_of(tile, l, p);
      products(l, weights, alike, in, rows_in(panel), z);
      if (ends && !d.l) return;
      if (layer.value)
        layer.forms[0](pass_of(l, panel, p, tile, room, out, nullptr), layer.param);
      else
        __builtin_memcpy(out + step, z, (r + 1) * step * sizeof(S));
      if (ends) return write(out + (r + 1) * step, panel, layer.n, d.l);
      S* done = in;
      in = out;
      out = done;
    }
  }

  FormsPass pass_of(int l, int64_t panel, int64_t p, const Tile& tile, Room room, S* out, S* c) const {
    const ChainLayer& layer = g.layers[l];
    const S* s = saved_value(l, panel, room.one);
    const int64_t size = step(layer.n);
    const S* of_l = c ? c + (r + 1) * size : nullptr;
    if (c && d.cotangents && l < g.count - 1) of_l = cotangents.kept(l, panel, room.one + size);
    return {layer.n * kPanel, size, r, s, z_of(tile, l, p), out, c, of_l, tile.forms + p * r * r * kPanel};
  }

  // --- backward ------------------------------------------------------------------------------------------------------

  // Through the activation of a layer, in place; and y, t_i, l made again in `x`, if it is not nullptr.
  void back(int l, int64_t panel, int64_t p, const Tile& tile, Room room, S* c, S* x) const {
    const ChainLayer& layer = g.layers[l];
    const int64_t size = step(layer.n), all = streams * roomy(layer.n);
    if (layer.value) {
      layer.forms[1](pass_of(l, panel, p, tile, room, x, c), layer.param);
    } else if (x) {
      __builtin_memcpy(x, saved_value(l, panel, room.one), layer.n * kPanel * sizeof(S));
      __builtin_memcpy(x + size, z_of(tile, l, p), (r + 1) * size * sizeof(S));
    }
    if (!layer.value && d.cotangents && l < g.count - 1) {
      const S* of_l = cotangents.kept(l, panel, room.one + size);
      __builtin_memcpy(c + (r + 1) * size, of_l, layer.n * kPanel * sizeof(S));
    }
    if (x) clear_rest(x, all, panel);
    clear_rest(c, all, panel);
  }

  void seed(int64_t panel, S* c) const {
    const int64_t n = last().n, size = step(n);
    read_if_any(g.gy, panel, n, c);
    __builtin_memset(c + size, 0, r * size * sizeof(S));
    S* of_l = c + (r + 1) * size;
    if (d.gl.data) return read(d.gl, panel, n, of_l);
    for (int64_t i = 0; i < n * kPanel; i++) of_l[i] = 1;
  }

  void add_products(int64_t count, const S* c, int64_t n, const S* x, int64_t k, S* gw, const Room& room) const {
    if (by_dots(count, n, k)) return add_by_dots(count, c, n, x, k, gw);
    for (int64_t p = 0; p < count; p += kPanelsOfChain)
      add_blocks(least(kPanelsOfChain, count - p), c + p * step(n), n, x + p * step(k), k, gw, room.packed);
  }

  // gw of the first layer, whose tangents are the same for all rows; of the streams of each panel, c keeps value and l.
  int64_t add_first_gradient(int64_t panel, int64_t count, S* c, S* gw, const Room& room) const {
    const int64_t n = g.layers[0].n, k = g.layers[0].k, size = step(n), of_x = step(k), there = d.t.data ? 2 : 1;
    if (r > 0) add_alike(count, c, gw);
    for (int64_t p = 0; p < count; p++) {
      S* x = room.x + p * there * of_x;
      read(g.x, panel + p, k, x);
      __builtin_memmove(c + p * there * size, c + p * streams * size, size * sizeof(S));
      if (!d.t.data) continue;
      read(d.t, panel + p, k, x + of_x);
      __builtin_memmove(c + (2 * p + 1) * size, c + (p * streams + r + 1) * size, size * sizeof(S));
    }
    add_products(count * there, c, n, room.x, k, gw, room);
    return there;
  }

  void backward(const Weights& packed, const Tile& tile, int64_t panel, int64_t count, Room room, Sums sums,
                bool first) const {
    S *c = room.gz, *next = room.next;
    Sums of_layer[kMostLayers];
    place_sums(sums, first, of_layer);
    for (int64_t p = 0; p < count; p++) {
      S* to = c + p * streams * step(last().n);
      seed(panel + p, to);
      back(g.count - 1, panel + p, p, tile, room, to, nullptr);
    }
    const int end = first_needed(g.gx);
    const int64_t through = d.cotangents ? streams - 1 : streams;
    for (int l = g.count - 1; l >= end; l--) {
      const ChainLayer& layer = g.layers[l];
      const int64_t n = layer.n, k = layer.k, size = step(n);
      const bool ends = l == end && !(l == 0 && g.gx);
      if (layer.gb) add_bias_gradient(count, c, n, streams * size, of_layer[l].gb);
      if (l == 0) {
        const int64_t there = layer.gw ? add_first_gradient(panel, count, c, of_layer[0].gw, room) : streams;
        for (int64_t p = 0; g.gx && p < count; p++) {
          multiply_back(0, packed, 1, panel + p, c + p * there * size, next);
          write(next, panel + p, k, g.gx);
        }
        return;
      }
      for (int64_t p = 0; p < count; p++) {
        const int64_t at = p * streams * step(k);
        if (!ends) multiply_back(l, packed, through, panel + p, c + p * streams * size, next + at);
        if (ends) __builtin_memset(next + at, 0, streams * step(k) * sizeof(S));  // only its input is made
        if (!ends || layer.gw) back(l - 1, panel + p, p, tile, room, next + at, layer.gw ? room.x + at : nullptr);
      }
      if (layer.gw) add_products(count * streams, c, n, room.x, k, of_layer[l].gw, room);
      S* done = c;
      c = next;
      next = done;
    }
  }

  void run(int threads) const {
    const Weights weights = pack_weights(false, kSlotOfB);
    const int64_t room_for_alike = widest() * kPanel + kLanes<V>;
    const Scratch fixed(kSlotOfPartial, (size_of_alike() + room_for_alike) * int64_t(sizeof(S)));
    S* alike = static_cast<S*>(fixed.data);
    if (r > 0) multiply_alike(weights, alike, alike + size_of_alike());
    by_tiles(threads, [&](const Weights& packed, int64_t panel, int64_t count, Room room, Sums sums, bool first) {
      const Tile tile = tile_of(count);
      for (int64_t p = 0; p < count; p++) {
        if (r > 0) read_forms(panel + p, tile.forms + p * r * r * kPanel);
        forward(weights, alike, panel + p, p, tile, room);
      }
      backward(packed, tile, panel, count, room, sums, first);
    });
    give_back(kSlotOfB);
  }
};

inline void chain_derivatives(const ChainDerivatives& d) {
  const int64_t k = d.chain.layers[0].k;
  const ChainStreams streams{d.chain, d.r, {d.unit, k, 1}, true, 0, {}, nullptr, nullptr};
  Chain of_slope = d.chain;
  of_slope.saved = const_cast<void*>(d.cotangents);
  const int threads = threads_for(d.chain, 3 * double(d.r + 2));
  if (d.chain.type == Type::f32)
    Derived<float>(d, streams, of_slope).run(threads);
  else
    Derived<double>(d, streams, of_slope).run(threads);
}

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
