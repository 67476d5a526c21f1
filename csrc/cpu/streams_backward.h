// The gradients of a chain with streams: from cotangents of y, t_i, l back through each activation (jets.h), and each
// layer: gw is the sum over the streams of (that of the output)^T (that of the input), gb of the rows of that of z, and
// cotangents times w are those of the input.
#pragma once

#include "streams.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

template <class T> struct StreamedGradients : Streamed<T> {
  using Base = Streamed<T>;
  using Base::add_bias_gradient, Base::add_by_dots, Base::by_tiles;
  using Base::Base;
  using Base::clear_rest, Base::first_needed, Base::g, Base::h, Base::is_whole;
  using Base::kept, Base::kPanel, Base::last, Base::multiply, Base::place_sums, Base::r, Base::read, Base::rows_in;
  using Base::step, Base::streams, Base::tangent, Base::write;
  using typename Base::Room;
  using typename Base::S;
  using typename Base::Sums;
  using typename Base::V;
  using typename Base::Weights;

  // Through the activation of a layer, in place; and y, t_i, l made again in `x`, if it is not nullptr.
  void back(const ChainLayer& layer, int64_t panel, const S* kept, S* c, S* x) const {
    layer.streams[1]({layer.n * kPanel, step(layer.n), r, kept, x, nullptr, c}, layer.param);
    if (x) clear_rest(x, streams * this->roomy(layer.n), panel);
  }

  // The streams that are the input of layer l, panel after panel; `next` is free.
  const S* input(int l, int64_t panel, int64_t count, const Room& room, S* next) const {
    const int64_t k = g.layers[l].k;
    const bool as_kept = l > 0 && !g.layers[l - 1].value;
    if (as_kept && !this->saves_value_alone(l - 1)) return kept(l - 1, panel, room.x);
    for (int64_t p = 0; p < count; p++) {
      S* to = room.x + p * streams * step(k);
      if (l == 0) {
        this->read_input(panel + p, k, to);
        continue;
      }
      if (as_kept) {
        kept(l - 1, panel + p, to);
        continue;
      }
      __builtin_memset(next, 0, streams * step(k) * sizeof(S));  // of no cotangents
      back(g.layers[l - 1], panel + p, kept(l - 1, panel + p, room.one), next, to);
    }
    return room.x;
  }

  // to += c^T x of `count` panels: a tile of kRows features of c, read one number at a time as they lie in panels, and
  // of kVectors of x, which is packed by rows.
  template <int kRows, int kVectors>
  static void add_tile(int64_t count, const S* c, int64_t step, const S* x, S* to, int64_t ld) {
    V sum[kRows][kVectors] = {};
    for (int64_t p = 0; p < count; p++, c += step) {
      for (int64_t row = 0; row < kPanel; row += 4, x += 4 * kPanel) {
#pragma GCC unroll 4
        for (int u = 0; u < 4; u++) {
          V of_row[kVectors];
#pragma GCC unroll 2
          for (int j = 0; j < kVectors; j++) of_row[j] = load<V>(x + u * kPanel + j * kLanes<V>);
#pragma GCC unroll 16
          for (int i = 0; i < kRows; i++) {
            const V factor = all<V>(c[i * kPanel + row + u]);
#pragma GCC unroll 2
            for (int j = 0; j < kVectors; j++) sum[i][j] += factor * of_row[j];
          }
        }
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++)
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; j++) {
        S* at = to + i * ld + j * kLanes<V>;
        store<V>(at, load<V>(at) + sum[i][j]);
      }
  }
  struct Tiles {  // for 1 or 2 vectors, 1 to kMR features
    decltype(&add_tile<1, 1>) of[2][kMR];
    constexpr Tiles() : of{} { fill(typename Count<kMR>::type{}); }
    template <int... I> constexpr void fill(Indices<I...>) {
      ((of[0][I] = add_tile<I + 1, 1>, of[1][I] = add_tile<I + 1, 2>), ...);
    }
  };

  // Panels whose rows are added one after another: those of x stay in L1 (of a Zen 4 with six of them add_tile takes a
  // tenth longer).
  static constexpr int64_t kRowsOfChain = kChain / kPanel, kInL1 = (16 << 10) / (kPanel * kPanel * int64_t(sizeof(S))),
                           kPanelsOfChain = kInL1 < kRowsOfChain ? kInL1 : kRowsOfChain;
  static constexpr int64_t kStreamsPacked = 24;  // at most, for columns of x of the first layer
  // Of columns [j, j + columns) of x, that are packed.
  void add_columns_of(int64_t count, const S* c, int64_t n, int64_t k, int64_t j, int64_t columns, const S* rows,
                      S* gw) const {
    static constexpr Tiles tiles;
    for (int64_t i = 0; i < n; i += kMR) {
      const int64_t height = least(kMR, n - i);
      const auto add = tiles.of[columns > kLanes<V>][height - 1];
      if (columns == kPanel) {
        add(count, c + i * kPanel, step(n), rows, gw + i * k + j, k);
        continue;
      }
      alignas(64) S tile[kMR * kPanel] = {};
      add(count, c + i * kPanel, step(n), rows, tile, kPanel);
      for (int64_t q = 0; q < height; q++) Product<T>::add_row(gw + (i + q) * k + j, tile + q * kPanel, columns);
    }
  }

  void add_blocks(int64_t count, const S* c, int64_t n, const S* x, int64_t k, S* gw, S* rows) const {
    for (int64_t j = 0; j < k; j += kPanel) {
      const int64_t columns = least(kPanel, k - j);
      for (int64_t p = 0; p < count; p++)
        pack_panel<kPanel>(x + p * step(k) + j * kPanel, kPanel, 1, columns, kPanel, rows + p * kPanel * kPanel);
      add_columns_of(count, c, n, k, j, columns, rows, gw);
    }
  }

  // Columns [j, j + columns) of streams [s, s + count) of x as they are given, packed by rows.
  void pack_given(int64_t panel, int64_t s, int64_t count, int64_t j, int64_t columns, S* to) const {
    const int64_t rows = rows_in(panel);
    constexpr int64_t size = kPanel * kPanel;
    const auto start = [&](const Operand& x) {
      return static_cast<const T*>(x.data) + panel * kPanel * x.row_stride + j * x.column_stride;
    };
    for (int64_t i = s, together; i < s + count; i += together, to += together * size) {
      together = this->are_adjacent() && i > 0 && i <= r ? least(s + count, r + 1) - i : 1;
      if (together > 1) {
        for (int64_t row = 0; row < rows; row++) {
          S block[kStreamsPacked * kPanel + kLanes<V>];
          const T* from = start(h.t) + row * h.t.row_stride + i - 1;
          for (int64_t q = 0; row + 1 < rows && q < columns; q++)
            __builtin_prefetch(from + h.t.row_stride + q * h.t.column_stride);
          pack_panel<kPanel>(from, h.t.column_stride, 1, columns, together, block);
          for (int64_t q = 0; q < together; q++)
            __builtin_memcpy(to + q * size + row * kPanel, block + q * kPanel, kPanel * sizeof(S));
        }
      } else {
        const Operand x = i == 0 ? g.x : i > r ? h.l : tangent(h.t, h.t_step, i - 1);
        pack_panel<kPanel>(start(x), x.column_stride, x.row_stride, columns, rows, to);
      }
      for (int64_t q = 0; q < together; q++)
        __builtin_memset(to + q * size + rows * kPanel, 0, (kPanel - rows) * kPanel * sizeof(S));
    }
  }

  // Of the first layer: by rows its input is what was given. A last stream that is not there adds nothing. Few columns
  // at a time, of many streams, so that what is added to stays in cache.
  void add_first_gradient(int64_t panel, int64_t count, const S* c, S* gw, const Room& room) const {
    const int64_t n = g.layers[0].n, k = g.layers[0].k, there = h.l.data ? streams : streams - 1;
    for (int64_t end = panel + count; panel < end; panel++, c += streams * step(n)) {
      for (int64_t s = 0, many; s < there; s += many) {
        many = least(there - s, kStreamsPacked);
        for (int64_t j = 0; j < k; j += kPanel) {
          const int64_t columns = least(kPanel, k - j);
          pack_given(panel, s, many, j, columns, room.packed);
          for (int64_t p = 0, some; p < many; p += some) {
            some = ceil_div(many - p, ceil_div(many - p, kPanelsOfChain));
            add_columns_of(some, c + (s + p) * step(n), n, k, j, columns, room.packed + p * kPanel * kPanel, gw);
          }
        }
      }
    }
  }

  // x is the input of the layer.
  void add_weight_gradient(int l, const S* x, int64_t count, const S* c, S* gw, const Room& room) const {
    const int64_t n = g.layers[l].n, k = g.layers[l].k, all = count * streams;
    if (by_dots(all, n, k)) return add_by_dots(all, c, n, x, k, gw);
    for (int64_t p = 0; p < all; p += kPanelsOfChain)
      add_blocks(least(kPanelsOfChain, all - p), c + p * step(n), n, x + p * step(k), k, gw, room.packed);
  }

  // Which costs less, as for a chain: here the blocks transpose x alone, but compute all columns of a tile.
  static bool by_dots(int64_t count, int64_t n, int64_t k) {
    const int64_t rows = count * kPanel, dots = n * k * 35 / (kDotRows * kDotColumns) + n * k * rows / 64;
    return dots < k * rows * 2 / 5 + n * (round_up(k, kPanel) - k) * rows / kPanel + n * k / 2;
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
    const auto through = [&](int l, int64_t p, S* to, S* x) {
      const ChainLayer& layer = g.layers[l];
      if (layer.value) back(layer, panel + p, kept(l, panel + p, room.one), to, x);
      clear_rest(to, streams * this->roomy(layer.n), panel + p);
    };
    for (int64_t p = 0; p < count; p++) {
      const int64_t n = last().n, size = step(n);
      S* to = c + p * streams * size;
      read_if_any(g.gy, panel + p, n, to);
      for (int64_t i = 0; i < r; i++) read_if_any(tangent(h.gty, h.gty_step, i), panel + p, n, to + (1 + i) * size);
      read_if_any(h.gly, panel + p, n, to + (1 + r) * size);
      through(g.count - 1, p, to, nullptr);
    }
    const bool of_input = g.gx || h.gt || h.gl;
    const int end = first_needed(of_input);
    for (int l = g.count - 1; l >= end; l--) {
      const ChainLayer& layer = g.layers[l];
      const int64_t n = layer.n, size = step(n);
      const bool ends = l == end && !(l == 0 && of_input), makes = !ends && l > 0 && g.layers[l - 1].value;
      if (layer.gb) add_bias_gradient(count, c, n, streams * size, of_layer[l].gb);
      if (!ends && l > 0) {
        for (int64_t p = 0; p < count; p++) {
          const int64_t at = p * streams * step(layer.k);
          multiply_back(l, packed, streams, panel + p, c + p * streams * size, next + at);
          through(l - 1, p, next + at, makes && layer.gw ? room.x + at : nullptr);
        }
      }
      if (l == 0 && h.alike) {
        if (layer.gw) add_alike(count, c, of_layer[0].gw);
        for (int64_t p = 1; p < count; p++) __builtin_memmove(c + p * size, c + p * streams * size, size * sizeof(S));
        if (layer.gw) Base::Base::add_weight_gradient(0, panel, count, c, of_layer[0].gw, room);
      } else if (layer.gw && l == 0 && !by_dots(count * streams, n, layer.k)) {
        add_first_gradient(panel, count, c, of_layer[0].gw, room);
      } else if (layer.gw) {
        const S* x = makes ? room.x : input(l, panel, count, room, next);
        add_weight_gradient(l, x, count, c, of_layer[l].gw, room);
      }
      if (ends) return;
      const int64_t there = h.alike ? 1 : streams;  // of which x has gradients
      for (int64_t p = 0; l == 0 && p < count; p++) {
        multiply_back(0, packed, there, panel + p, c + p * there * size, next);
        write_input(next, panel + p, layer.k);
      }
      S* done = c;
      c = next;
      next = done;
    }
  }

  void read_if_any(const Operand& from, int64_t panel, int64_t k, S* to) const {
    if (from.data) return read(from, panel, k, to);
    __builtin_memset(to, 0, k * kPanel * sizeof(S));
  }

  // to = c w of `count` streams of layer l.
  void multiply_back(int l, const Weights& packed, int64_t count, int64_t panel, const S* c, S* to) const {
    const ChainLayer& layer = g.layers[l];
    for (int64_t i = 0; i < count; i++)
      multiply(packed.data + packed.at[l], nullptr, layer.k, layer.n, c + i * step(layer.n), rows_in(panel),
               to + i * step(layer.k));
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
