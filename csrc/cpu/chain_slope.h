// The gradient in x of a chain that ends in one number a row, gx = c dy/dx, and what its own derivatives read: the
// cotangents of y of each layer but the last, from 1 for the chain's y. They lie as what the forward pass saved.
#pragma once

#include "chain_backward.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

template <class T> struct Slope : ChainGradients<T> {
  using Base = ChainGradients<T>;
  using Base::activate, Base::by_tiles, Base::clear_rest, Base::g, Base::is_whole, Base::keep, Base::kept, Base::kPanel;
  using Base::last, Base::multiply, Base::read, Base::rows_in, Base::saved, Base::step, Base::write;
  using typename Base::Room;
  using typename Base::S;
  using typename Base::Sums;
  using typename Base::V;
  using typename Base::Weights;
  const Base cotangents;  // whose `saved` they are

  explicit Slope(const Chain& g, const Chain& unit) : Base{{g}}, cotangents{{unit}} {}

  // From the cotangent of y of a layer to that of z.
  void through(int l, int64_t panel, const S* from, S* to, S* room) const {
    const ChainLayer& layer = g.layers[l];
    if (!layer.first) {
      __builtin_memcpy(to, from, layer.n * kPanel * sizeof(S));
      return;
    }
    const S* s = room;
    if (l == g.count - 1 && !layer.saves_input)
      read({g.y, layer.n, 1}, panel, layer.n, room);
    else
      s = kept(l, panel, room);
    activate(layer.first, layer.n, s, from, to, layer.param);
    clear_rest(to, layer.n, panel);
  }

  void run(const Weights& packed, int64_t panel, const Room& room) const {
    S *gz = room.gz, *gy = room.next;
    for (int64_t i = 0; i < kPanel; i++) gy[i] = i < rows_in(panel) ? 1 : 0;
    through(g.count - 1, panel, gy, gz, room.one);
    for (int l = g.count - 1; l >= 0; l--) {
      const ChainLayer& layer = g.layers[l];
      S* to = l > 0 && is_whole(panel) ? cotangents.saved(l - 1, panel) : gy;
      multiply(packed.data + packed.at[l], nullptr, layer.k, layer.n, gz, rows_in(panel), to);
      if (l == 0) break;
      if (!is_whole(panel)) cotangents.keep(to, l - 1, panel);
      through(l - 1, panel, to, gz, room.one);
    }
    S* c = room.one;
    read(g.gy, panel, 1, c);
    for (int64_t i = 0; i < step(g.layers[0].k); i += kPanel)
      for (int64_t v = 0; v < kPanel; v += kLanes<V>) store<V>(gy + i + v, load<V>(gy + i + v) * load<V>(c + v));
    write(gy, panel, g.layers[0].k, g.gx);
  }

  void run(int threads) const {
    by_tiles(threads, [&](const Weights& packed, int64_t panel, int64_t count, Room room, Sums, bool) {
      for (int64_t p = 0; p < count; p++) run(packed, panel + p, room);
    });
  }
};

inline void chain_slope(const Chain& g, void* unit) {
  Chain of_unit = g;
  of_unit.saved = unit;
  if (g.type == Type::f32)
    Slope<float>(g, of_unit).run(threads_for(g, 1));
  else
    Slope<double>(g, of_unit).run(threads_for(g, 1));
}

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
