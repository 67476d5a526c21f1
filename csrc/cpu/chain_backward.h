// The gradients of a chain: back through all layers by tiles of panels.
#pragma once

#include "chain.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

constexpr int64_t kBytesOfTile = 96 << 10;  // of the widest layer: three such stay in L2
constexpr int64_t kTasksOfThread = 4;       // at most, each with sums of its own

template <class T> struct ChainGradients : Chained<T> {
  using Base = Chained<T>;
  using Base::activate, Base::clear_rest, Base::g, Base::is_whole, Base::kept, Base::kPanel, Base::last, Base::multiply;
  using Base::pack_weights, Base::panels, Base::read, Base::rows_in, Base::saved, Base::size_of_packed, Base::step,
      Base::streams;
  using Base::write;
  using typename Base::P;
  using typename Base::S;
  using typename Base::V;
  using typename Base::Weights;

  struct Room {  // of one thread, for a tile of panels
    S *gz, *next, *x, *one, *packed;
  };

  // to += a b^T over the rows of `count` panels, of kRows features of a and kColumns of b.
  template <int kRows, int kColumns>
  static void add_products(int64_t count, const S* a, int64_t a_step, const S* b, int64_t b_step, S* to, int64_t ld) {
    constexpr int n = kLanes<V>, kGroups = (kRows * kColumns + n - 1) / n;
    V sum[kGroups * n];
#pragma GCC unroll 32
    for (int q = 0; q < kGroups * n; q++) sum[q] = V{};
    for (int64_t p = 0; p < count; p++, a += a_step, b += b_step) {
#pragma GCC unroll 2
      for (int v = 0; v < 2; v++) {
        V column[kColumns];
#pragma GCC unroll 6
        for (int j = 0; j < kColumns; j++) column[j] = load<V>(b + j * kPanel + v * n);
#pragma GCC unroll 4
        for (int i = 0; i < kRows; i++) {
          const V row = load<V>(a + i * kPanel + v * n);
#pragma GCC unroll 6
          for (int j = 0; j < kColumns; j++) sum[i * kColumns + j] += row * column[j];
        }
      }
    }
    S sums[kGroups * n];
#pragma GCC unroll 24
    for (int q = 0; q < kGroups; q++) store<V>(sums + q * n, sums_of_lanes<n / 2>(sum + q * n));
#pragma GCC unroll 4
    for (int i = 0; i < kRows; i++)
#pragma GCC unroll 6
      for (int j = 0; j < kColumns; j++) to[i * ld + j] += sums[i * kColumns + j];
  }

  template <int kColumns> void add_columns(int64_t count, const S* gz, int64_t n, const S* x, int64_t k, S* gw) const {
    int64_t i = 0;
    for (; i + kDotRows <= n; i += kDotRows)
      add_products<kDotRows, kColumns>(count, gz + i * kPanel, step(n), x, step(k), gw + i * k, k);
    for (; i < n; i++) add_products<1, kColumns>(count, gz + i * kPanel, step(n), x, step(k), gw + i * k, k);
  }

  // gw += gz^T x of panels, by sums of products of vectors: each is added up over its lanes at the end.
  void add_by_dots(int64_t count, const S* gz, int64_t n, const S* x, int64_t k, S* gw) const {
    int64_t j = 0;
    for (; j + kDotColumns <= k; j += kDotColumns) add_columns<kDotColumns>(count, gz, n, x + j * kPanel, k, gw + j);
    add_rest<kDotColumns - 1>(k - j, count, gz, n, x + j * kPanel, k, gw + j);
  }
  template <int kColumns>
  void add_rest(int64_t columns, int64_t count, const S* gz, int64_t n, const S* x, int64_t k, S* gw) const {
    if (columns == kColumns) return add_columns<kColumns>(count, gz, n, x, k, gw);
    if constexpr (kColumns > 1) add_rest<kColumns - 1>(columns, count, gz, n, x, k, gw);
  }

  // The same by the micro-kernel, of gz transposed first, and columns of x that pack_x(j, columns, to) packs by rows.
  template <class F>
  void add_by_blocks(int64_t count, const S* gz, int64_t n, int64_t k, S* gw, S* room, const F& pack_x) const {
    const int64_t rows = count * kPanel;
    S *a = room, *b = room + size_of_packed(n, rows);
    for (int64_t i = 0; i < n; i += kMR)
      for (int64_t p = 0; p < count; p++)
        pack_panel<kMR>(gz + p * step(n) + i * kPanel, kPanel, 1, n - i, kPanel, a + i * rows + p * kPanel * kMR);
    for (int64_t j = 0; j < k; j += kPanel) {
      const int64_t columns = least(kPanel, k - j);
      pack_x(j, columns, b);
      for (int64_t i = 0; i < n; i += kMR) {
        alignas(64) S tile[kMR * kPanel];
        const int64_t height = least(kMR, n - i);
        const auto kernel = kKernel<P>.tile[columns > kLanes<V>][height - 1];
        const bool whole = columns == kPanel;
        S* to = whole ? gw + i * k + j : tile;
        const int64_t ld = whole ? k : kPanel;
        for (int64_t q = 0; q < rows; q += kChain)
          kernel(least(kChain, rows - q), a + i * rows + q * kMR, b + q * kPanel, nullptr,
                 whole || q > 0 ? to : nullptr, ld, to, ld,
                 Beside{whole && q == 0 ? Near::of(to, k, height, columns) : Near{}});
        for (int64_t r = 0; !whole && r < height; r++)
          Product<T>::add_row(gw + (i + r) * k + j, tile + r * kPanel, columns);
      }
    }
  }

  // Which costs less, in cycles: the dots to add up lanes, some 35 for each tile, and to wait for panels that L1 cannot
  // hold, one for 64 products; or the blocks to transpose, 0.4 for each number (a Zen 3).
  static bool by_dots(int64_t count, int64_t n, int64_t k) {
    const int64_t rows = count * kPanel, dots = n * k * 35 / (kDotRows * kDotColumns) + n * k * rows / 64;
    return dots < (n + k) * rows * 2 / 5 + n * k / 2;
  }

  // gw += gz^T x of layer l, of panels that follow one another; x is the input of the layer, made if it is nullptr.
  void add_weight_gradient(int l, int64_t panel, int64_t count, const S* gz, S* gw, const Room& room,
                           const S* x = nullptr) const {
    const int64_t n = g.layers[l].n, k = g.layers[l].k;
    if (l == 0 && !by_dots(count, n, k)) {  // by rows it is what was given
      const int64_t rows = least(count * kPanel, g.m - panel * kPanel);
      const T* x = static_cast<const T*>(g.x.data) + panel * kPanel * g.x.row_stride;
      const int64_t column = g.x.column_stride;
      return add_by_blocks(count, gz, n, k, gw, room.packed, [&](int64_t j, int64_t columns, S* to) {
        pack_panel<kPanel>(x + j * column, column, g.x.row_stride, columns, rows, to);
        __builtin_memset(to + rows * kPanel, 0, (count * kPanel - rows) * kPanel * sizeof(S));
      });
    }
    if (x == nullptr) x = input(l, panel, count, room.x);
    if (by_dots(count, n, k)) return add_by_dots(count, gz, n, x, k, gw);
    add_by_blocks(count, gz, n, k, gw, room.packed, [&](int64_t j, int64_t columns, S* to) {
      for (int64_t p = 0; p < count; p++)
        pack_panel<kPanel>(x + p * step(k) + j * kPanel, kPanel, 1, columns, kPanel, to + p * kPanel * kPanel);
    });
  }

  // gb += the sums of rows of panels that start so many numbers after each other.
  static void add_bias_gradient(int64_t count, const S* gz, int64_t n, int64_t step, double* gb) {
    for (int64_t i = 0; i < n; i++) {
      V sum = V{};
      for (int64_t p = 0; p < count; p++) {
        const S* from = gz + p * step + i * kPanel;
        sum += load<V>(from) + load<V>(from + kLanes<V>);
      }
      double total = 0;
      for (int q = 0; q < kLanes<V>; q++) total += sum[q];
      gb[i] += total;
    }
  }

  // Sums for the gradients of the layers, those that are needed, layer after layer: gb in float64, as it is of as many
  // terms as there are rows, all of one sign maybe, then gw.
  int64_t biases() const {
    int64_t count = 0;
    for (int l = 0; l < g.count; l++) count += g.layers[l].gb ? g.layers[l].n : 0;
    return count;
  }
  int64_t weights() const {
    int64_t count = 0;
    for (int l = 0; l < g.count; l++) count += g.layers[l].gw ? g.layers[l].n * g.layers[l].k : 0;
    return count;
  }
  struct Sums {
    double* gb;
    S* gw;
  };

  void place_sums(Sums sums, bool first, Sums* of_layer) const {
    for (int l = 0; l < g.count; l++) {
      of_layer[l] = sums;
      if (first) of_layer[l].gw = static_cast<S*>(g.layers[l].gw);
      if (g.layers[l].gb) sums.gb += g.layers[l].n;
      if (g.layers[l].gw && !first) sums.gw += g.layers[l].n * g.layers[l].k;
    }
  }
  // The first layer whose gradients are needed, or that of its input.
  int first_needed(bool of_input) const {
    int l = 0;
    while (!of_input && l < g.count && !g.layers[l].gw && !g.layers[l].gb) l++;
    return l;
  }

  // The panels [panel, panel + count), which are all whole or are one. The first task adds up gw where it is to be.
  void backward(const Weights& packed, int64_t panel, int64_t count, Room room, Sums sums, bool first) const {
    S *gz = room.gz, *next = room.next;
    Sums of_layer[kMostLayers];
    place_sums(sums, first, of_layer);
    const auto through = [&](int l, int64_t p, S* gradient, bool ends) {  // gy -> gz of layer l
      const ChainLayer& layer = g.layers[l];
      if (layer.first) {
        const S* s = room.one;
        if (ends && !layer.saves_input)
          read({g.y, layer.n, 1}, panel + p, layer.n, room.one);
        else
          s = kept(l, panel + p, room.one);
        activate(layer.first, layer.n, s, gradient, gradient, layer.param);
      }
      clear_rest(gradient, layer.n, panel + p);
    };
    for (int64_t p = 0; p < count; p++) {
      S* to = gz + p * step(last().n);
      read(g.gy, panel + p, last().n, to);
      through(g.count - 1, p, to, true);
    }
    const int end = first_needed(g.gx);
    for (int l = g.count - 1; l >= end; l--) {
      const ChainLayer& layer = g.layers[l];
      const bool ends = l == end && !(l == 0 && g.gx);
      // an input that is to be made of z is made with gz of the layer before
      const Remade remade = layer.gw && l > 0 && !ends ? g.layers[l - 1].remade : nullptr;
      if (layer.gw && !remade) add_weight_gradient(l, panel, count, gz, of_layer[l].gw, room);
      if (layer.gb) add_bias_gradient(count, gz, layer.n, step(layer.n), of_layer[l].gb);
      if (ends) return;
      for (int64_t p = 0; p < count; p++) {
        S *to = next + p * step(layer.k), *x = room.x + p * step(layer.k);
        multiply(packed.data + packed.at[l], nullptr, layer.k, layer.n, gz + p * step(layer.n), rows_in(panel + p), to);
        if (remade) {
          remade(layer.k * kPanel, kept(l - 1, panel + p, room.one), to, x, g.layers[l - 1].param);
          clear_rest(to, layer.k, panel + p);
          clear_rest(x, layer.k, panel + p);
        } else if (l > 0) {
          through(l - 1, p, to, false);
        } else {
          write(to, panel + p, layer.k, g.gx);
        }
      }
      if (remade) add_weight_gradient(l, panel, count, gz, of_layer[l].gw, room, room.x);
      S* done = gz;
      gz = next;
      next = done;
    }
  }

  // The inputs of layer l, panel after panel: x, or y of the layer before, which is what was saved or made of it.
  const S* input(int l, int64_t panel, int64_t count, S* room) const {
    const int64_t k = g.layers[l].k;
    if (l > 0) {
      const ChainLayer& before = g.layers[l - 1];
      const bool is_kept = !before.value || !before.saves_input;
      if (is_kept) return is_whole(panel) ? saved(l - 1, panel) : kept(l - 1, panel, room);
      for (int64_t p = 0; p < count; p++) {
        S* y = room + p * step(k);
        activate(before.value, k, kept(l - 1, panel + p, y), nullptr, y, before.param);
        clear_rest(y, k, panel + p);
      }
      return room;
    }
    for (int64_t p = 0; p < count; p++) read(g.x, panel + p, k, room + p * step(k));
    return room;
  }

  void backward(int count) const {
    by_tiles(count, [&](const Weights& packed, int64_t panel, int64_t panels, Room room, Sums sums, bool first) {
      backward(packed, panel, panels, room, sums, first);
    });
  }

  // The same where nothing was saved: each tile is a chain of its own that goes forward first, and saves in cache.
  void recompute(int count) const {
    const Weights weights = this->pack_weights(false, kSlotOfB);
    by_tiles(count, [&](const Weights& packed, int64_t panel, int64_t panels, Room room, Sums sums, bool first) {
      Chain tile = g;
      tile.m = least(panels * kPanel, g.m - panel * kPanel);
      tile.x.data = static_cast<const T*>(g.x.data) + panel * kPanel * g.x.row_stride;
      tile.gy.data = static_cast<const T*>(g.gy.data) + panel * kPanel * g.gy.row_stride;
      if (g.gx) tile.gx = static_cast<T*>(g.gx) + panel * kPanel * g.layers[0].k;
      int64_t width = last().n;  // of y
      for (int l = 0; l < g.count; l++) width += g.layers[l].n;
      T* y = static_cast<T*>(scratch(kSlotOfGz, (tile.m * width + kLanes<V>)*int64_t(sizeof(T))));
      tile.y = y;
      tile.saved = y + tile.m * last().n;
      const ChainGradients of_tile{{tile}};
      for (int64_t p = 0; p < panels; p++) of_tile.forward(weights, p, room.gz, room.next);
      of_tile.backward(packed, 0, panels, room, sums, first);
    });
    give_back(kSlotOfB);
  }

  // Calls back(packed, panel, count, room, sums, first) for tiles that together are all rows, and adds up the sums.
  template <class F> void by_tiles(int count, const F& back) const {
    const Weights packed = pack_weights(true);
    const int64_t widest = this->widest() + (streams > 1 ? 4 : 0);
    const int64_t one = streams * widest * kPanel + kLanes<V>, row = one * int64_t(sizeof(S));
    const int64_t tile = clamp(kBytesOfTile / row, ceil_div(8, streams), 64);
    const int64_t width = tile * streams * widest * kPanel + kLanes<V>;
    const int64_t of_thread = count > 1 ? clamp(panels() / (tile * count), 1, kTasksOfThread) : 1;
    const int64_t tasks = clamp(panels(), 1, count * of_thread), each = ceil_div(panels(), tasks);
    const int64_t of_gb = round_up(biases() * int64_t(sizeof(double)), 64);
    const int64_t bytes = of_gb + round_up(weights() * int64_t(sizeof(S)), 64),
                  size_of_all = (tasks - 1) * bytes + of_gb;
    char* partial = static_cast<char*>(scratch(kSlotOfSums, size_of_all + 64));  // of the first task gb alone
    __builtin_memset(partial, 0, size_of_all);
    for (int l = 0; l < g.count; l++) {
      const ChainLayer& layer = g.layers[l];
      if (layer.gw) __builtin_memset(layer.gw, 0, layer.n * layer.k * sizeof(S));
    }
    const auto sums_of = [&](int64_t task) -> Sums {
      char* at = task == 0 ? partial : partial + of_gb + (task - 1) * bytes;
      return {reinterpret_cast<double*>(at), reinterpret_cast<S*>(task == 0 ? nullptr : at + of_gb)};
    };
    share(int(tasks), tasks, [&](int64_t task, int64_t end) {
      const int64_t of_gz = size_of_packed(widest, tile * streams * kPanel);
      const int64_t of_packed = of_gz + tile * streams * kPanel * kPanel + kLanes<V>;
      const int64_t size = 3 * width + one + of_packed;
      S* at = static_cast<S*>(scratch(kSlotOfA, size * int64_t(sizeof(S))));
      const Room room{at, at + width, at + 2 * width, at + 3 * width, at + 3 * width + one};
      for (; task < end; task++) {
        const int64_t stop = least((task + 1) * each, panels());
        for (int64_t panel = task * each, step; panel < stop; panel += step) {
          step = least(tile, stop - panel);
          if (step > 1 && !is_whole(panel + step - 1)) step--;
          back(packed, panel, step, room, sums_of(task), task == 0);
        }
      }
    });
    const double* gb = sums_of(0).gb;
    for (int64_t task = 1; task < tasks; task++) {
      Sums more = sums_of(task);
      for (int64_t i = 0; i < biases(); i++) sums_of(0).gb[i] += more.gb[i];
      for (int l = 0; l < g.count; l++) {
        const int64_t count = g.layers[l].n * g.layers[l].k;
        if (!g.layers[l].gw) continue;
        Product<T>::add_row(static_cast<S*>(g.layers[l].gw), more.gw, count);
        more.gw += count;
      }
    }
    for (int l = 0; l < g.count; l++) {
      const ChainLayer& layer = g.layers[l];
      for (int64_t i = 0; layer.gb && i < layer.n; i++) static_cast<T*>(layer.gb)[i] = T(*gb++);
    }
    give_back(kSlotOfWeights);
    give_back(kSlotOfSums);
  }

  static int64_t clamp(int64_t a, int64_t low, int64_t high) { return a < low ? low : a > high ? high : a; }
};

template <class T> void run_backward(const ChainGradients<T>& gradients) {
  const Chain& g = gradients.g;
  if (g.recomputes)
    gradients.recompute(threads_for(g, 3));
  else
    gradients.backward(threads_for(g, 2));
}

inline void chain_backward(const Chain& g) {
  if (g.type == Type::f32)
    run_backward(ChainGradients<float>{{g}});
  else
    run_backward(ChainGradients<double>{{g}});
}

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
