// The gradients of a chain with streams: from cotangents c, c_i, c_l of y, t_i, l back through each activation,
//
//     of z      act' c + act'' (sum_i c_i tz_i + c_l lz) + act''' c_l sum_i tz_i^2
//     of tz_i   act' c_i + 2 act'' c_l tz_i
//     of lz     act' c_l
//
// and each layer: gw is the sum over the streams of (that of the output)^T (that of the input), gb of the rows of that
// of z, and cotangents times w are those of the input.
#pragma once

#include "streams.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

template <class T> struct StreamedGradients : Streamed<T> {
  using Base = Streamed<T>;
  using Base::add_bias_gradient, Base::add_by_blocks, Base::add_by_dots, Base::by_dots, Base::by_tiles;
  using Base::apply, Base::clear_rest, Base::differentiate, Base::first_needed, Base::g, Base::h, Base::is_whole;
  using Base::Base;
  using Base::kept, Base::kPanel, Base::last, Base::multiply, Base::place_sums, Base::r, Base::read, Base::rows_in;
  using Base::saved, Base::step, Base::streams, Base::tangent, Base::write;
  using typename Base::Room;
  using typename Base::S;
  using typename Base::Sums;
  using typename Base::V;
  using typename Base::Weights;

  // Through the activation of a layer, in place.
  void back(const ChainLayer& layer, const S* kept, S* c, S* few) const {
    const int64_t size = layer.n * kPanel, step = this->step(layer.n), l = (r + 1) * step;
    S *first = few, *second = few + kChunk, *third = second + kChunk;
    for (int64_t at = 0; at < size; at += kChunk) {
      const int64_t n = least(kChunk, size - at);
      differentiate(layer, kept + at, n, first, second, third);
      for (int64_t i = 0; i < n; i += kLanes<V>) {
        const S* z = kept + at + i;
        S* to = c + at + i;
        const V slope = load<V>(first + i), curve = load<V>(second + i), of_l = load<V>(to + l);
        const V twice = curve * of_l * 2;
        V along = of_l * load<V>(z + l), squares = V{};
        for (int64_t k = 1; k <= r; k++) {
          const V tz = load<V>(z + k * step), of_t = load<V>(to + k * step);
          along += of_t * tz;
          squares += tz * tz;
          store<V>(to + k * step, slope * of_t + twice * tz);
        }
        store<V>(to, slope * load<V>(to) + curve * along + load<V>(third + i) * of_l * squares);
        store<V>(to + l, slope * of_l);
      }
    }
  }

  // The streams that are the input of layer l, panel after panel.
  const S* input(int l, int64_t panel, int64_t count, const Room& room) const {
    const int64_t k = g.layers[l].k;
    if (l > 0 && !g.layers[l - 1].value) return is_whole(panel) ? saved(l - 1, panel) : kept(l - 1, panel, room.x);
    for (int64_t p = 0; p < count; p++) {
      S* to = room.x + p * streams * step(k);
      if (l == 0) {
        this->read_input(panel + p, to);
        continue;
      }
      apply(g.layers[l - 1], kept(l - 1, panel + p, to), to, true, room.few);
      clear_rest(to, streams * this->roomy(k), panel + p);
    }
    return room.x;
  }

  void add_weight_gradient(int l, int64_t panel, int64_t count, const S* c, S* gw, const Room& room) const {
    const int64_t n = g.layers[l].n, k = g.layers[l].k, all = count * streams;
    const S* x = input(l, panel, count, room);
    if (by_dots(all, n, k)) return add_by_dots(all, c, n, x, k, gw);
    add_by_blocks(all, c, n, k, gw, room.packed, [&](int64_t j, int64_t columns, S* to) {
      for (int64_t p = 0; p < all; p++)
        pack_panel<kPanel>(x + p * step(k) + j * kPanel, kPanel, 1, columns, kPanel, to + p * kPanel * kPanel);
    });
  }

  // What tangents that are the same for all rows add to gw of the first layer: sums of rows, times these.
  void add_alike(int64_t count, const S* c, S* gw) const {
    const int64_t n = g.layers[0].n, k = g.layers[0].k;
    for (int64_t i = 0; i < r; i++) {
      const T* t = static_cast<const T*>(h.t.data) + i * h.t.row_stride;
      for (int64_t j = 0; j < n; j++) {
        double sum = 0;
        add_bias_gradient(count, c + (1 + i) * step(n) + j * kPanel, 1, streams * step(n), &sum);
        for (int64_t q = 0; q < k; q++) gw[j * k + q] += S(sum) * t[q * h.t.column_stride];
      }
    }
  }

  void backward(const Weights& packed, int64_t panel, int64_t count, Room room, Sums sums, bool first) const {
    S *c = room.gz, *next = room.next;
    Sums of_layer[kMostLayers];
    place_sums(sums, first, of_layer);
    const auto through = [&](int l, int64_t p, S* to) {
      const ChainLayer& layer = g.layers[l];
      if (layer.value) back(layer, kept(l, panel + p, room.one), to, room.few);
      clear_rest(to, streams * this->roomy(layer.n), panel + p);
    };
    for (int64_t p = 0; p < count; p++) {
      const int64_t n = last().n, size = step(n);
      S* to = c + p * streams * size;
      read(g.gy, panel + p, n, to);
      for (int64_t i = 0; i < r; i++) read(tangent(h.gty, h.gty_step, i), panel + p, n, to + (1 + i) * size);
      read(h.gly, panel + p, n, to + (1 + r) * size);
      through(g.count - 1, p, to);
    }
    const bool of_input = g.gx || h.gt || h.gl;
    const int end = first_needed(of_input);
    for (int l = g.count - 1; l >= end; l--) {
      const ChainLayer& layer = g.layers[l];
      const int64_t n = layer.n, size = step(n);
      if (layer.gb) add_bias_gradient(count, c, n, streams * size, of_layer[l].gb);
      int64_t there = streams;  // of which there are products
      if (l == 0 && h.alike) {
        if (layer.gw) add_alike(count, c, of_layer[0].gw);
        for (int64_t p = 1; p < count; p++) __builtin_memmove(c + p * size, c + p * streams * size, size * sizeof(S));
        there = 1;
        if (layer.gw) Base::Base::add_weight_gradient(0, panel, count, c, of_layer[0].gw, room);
      } else if (layer.gw) {
        add_weight_gradient(l, panel, count, c, of_layer[l].gw, room);
      }
      if (l == end && !(l == 0 && of_input)) return;
      for (int64_t p = 0; p < count; p++) {
        S* to = next + p * there * step(layer.k);
        for (int64_t k = 0; k < there; k++)
          multiply(packed.data + packed.at[l], nullptr, layer.k, n, c + (p * there + k) * size, rows_in(panel + p),
                   to + k * step(layer.k));
        if (l > 0)
          through(l - 1, p, to);
        else
          write_input(to, panel + p, layer.k);
      }
      S* done = c;
      c = next;
      next = done;
    }
  }

  void write_input(const S* from, int64_t panel, int64_t k) const {
    const int64_t size = step(k), all = g.m * k;
    if (g.gx) write(from, panel, k, g.gx);
    for (int64_t i = 0; h.gt && i < r; i++) write(from + (1 + i) * size, panel, k, static_cast<T*>(h.gt) + i * all);
    if (h.gl) write(from + (1 + r) * size, panel, k, h.gl);
  }

  void backward(int count) const {
    by_tiles(count, [&](const Weights& packed, int64_t panel, int64_t panels, Room room, Sums sums, bool first) {
      backward(packed, panel, panels, room, sums, first);
    });
  }
};

inline void chain_streams_backward(const ChainStreams& h) {
  if (h.chain.type == Type::f32)
    StreamedGradients<float>(h).backward(threads_for(h, 2));
  else
    StreamedGradients<double>(h).backward(threads_for(h, 2));
}

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
