// A program of tensors with streams (streams.h): layers, activations, and functions of each element, step by step. A
// panel of rows goes through all of them while it is in cache. Register 0 is x, step i makes register i + 1, and the
// last is the result.
//
// Of a layer z is saved, with its streams. Backward makes again from that what it needs, and goes back step by step:
// cotangents of a register are added up over all that read it.
#pragma once

#include "program_steps.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

template <class T> struct Programmed : ProgramSteps<T> {
  using Base = ProgramSteps<T>;
  using Base::add, Base::copy, Base::g, Base::h, Base::is_whole, Base::kPanel, Base::multiply, Base::p, Base::panels;
  using Base::read, Base::rows_in, Base::step, Base::streams, Base::width, Base::write;
  using typename Base::Room;
  using typename Base::S;
  using typename Base::Sums;
  using typename Base::V;
  using typename Base::Weights;

  int last_read[kMostSteps + 1] = {};   // the last step that reads a register
  bool is_made[kMostSteps + 1] = {};    // whether backward needs its numbers
  bool is_wanted[kMostSteps + 1] = {};  // whether it needs its cotangents

  explicit Programmed(const Program& p) : Base(p) {
    is_wanted[0] = g.gx || h.gt || h.gl;
    for (int i = 0; i < p.count; i++) {
      const ProgramStep& s = p.steps[i];
      const bool has_layer = s.kind == Step::layer || s.kind == Step::scale || s.kind == Step::shift;
      last_read[s.a] = last_read[s.b] = i;
      is_wanted[i + 1] =
          is_wanted[s.a] || is_wanted[s.b] || (has_layer && (g.layers[s.layer].gw || g.layers[s.layer].gb));
    }
    last_read[p.count] = p.count;
    for (int i = p.count - 1; i >= 0; i--) {
      const ProgramStep& s = p.steps[i];
      if (is_wanted[i + 1]) {
        const bool of_layer = s.kind == Step::layer && g.layers[s.layer].gw;
        is_made[i + 1] = is_made[i + 1] || (s.kind == Step::act && !s.saves_input);
        is_made[s.a] |=
            of_layer || s.kind == Step::act || s.kind == Step::scale || (s.kind == Step::mul && is_wanted[s.b]);
        is_made[s.b] |= s.kind == Step::mul && is_wanted[s.a];
      }
      if (is_made[i + 1] && s.kind != Step::layer) is_made[s.a] = is_made[s.b] = true;
    }
  }

  // --- rooms for registers -------------------------------------------------------------------------------------------

  struct Pool {
    S* data;
    int64_t size;
    int used = 0, left = 0;
    int free[2 * kMostSteps + 4] = {};

    S* take() { return data + (left ? free[--left] : used++) * size; }
    void give(S* room) { free[left++] = int((room - data) / size); }
  };
  int64_t size_of_room() const {
    int64_t widest = 0;
    for (int i = 0; i <= p.count; i++) widest = widest < width(i) ? width(i) : widest;
    return streams * step(widest) + kLanes<V>;
  }
  static Pool pool(int64_t size, int64_t rooms) {
    return {static_cast<S*>(scratch(kSlotOfLayers, rooms * size * int64_t(sizeof(S)))), size};
  }

  // --- what is saved -------------------------------------------------------------------------------------------------

  S* saved(int layer, int64_t panel) const {
    int64_t before = 0;
    for (int l = 0; l < layer; l++) before += g.layers[l].k > 0 ? this->roomy(g.layers[l].n) : 0;
    return static_cast<S*>(g.saved) + streams * (before * g.m + panel * step(g.layers[layer].n));
  }

  void read_input(int64_t panel, S* to) const {
    const int64_t k = width(0), size = step(k);
    Base::read_input(panel, k, to);
    if (!h.alike) return;
    for (int64_t i = 0; i < this->r; i++) {
      const T* t = static_cast<const T*>(h.t.data) + i * h.t.row_stride;
      S* at = to + (1 + i) * size;
      for (int64_t j = 0; j < k; j++)
        for (int64_t q = 0; q < kPanel; q += kLanes<V>)
          store<V>(at + j * kPanel + q, all<V>(S(t[j * h.t.column_stride])));
    }
    __builtin_memset(to + (this->r + 1) * size, 0, k * kPanel * sizeof(S));
    this->clear_rest(to + size, this->r * this->roomy(k), panel);
  }

  // --- forward -------------------------------------------------------------------------------------------------------

  void forward(const Weights& weights, int64_t panel, Pool& pool) const {
    S* at[kMostSteps + 1];
    bool is_own[kMostSteps + 1];
    at[0] = pool.take();
    is_own[0] = true;
    read_input(panel, at[0]);
    for (int i = 0; i < p.count; i++) {
      const ProgramStep& s = p.steps[i];
      const auto ends = [&](int q) { return last_read[q] == i && is_own[q]; };
      const bool moves = s.kind == Step::cat || s.kind == Step::take;
      const bool in_place = s.kind != Step::layer && !moves && ends(s.a);
      const bool to_saved = s.kind == Step::layer && g.saved && is_whole(panel);
      S* to = at[i + 1] = in_place ? at[s.a] : to_saved ? saved(s.layer, panel) : pool.take();
      is_own[i + 1] = !to_saved;
      if (s.kind == Step::layer) {
        const ChainLayer& layer = g.layers[s.layer];
        const S* w = weights.data + weights.at[s.layer];
        const S* bias = layer.bias ? w + this->size_of_packed(layer.n, layer.k) : nullptr;
        for (int64_t k = 0; k < streams; k++)
          multiply(w, k == 0 ? bias : nullptr, layer.n, layer.k, at[s.a] + k * step(layer.k), rows_in(panel),
                   to + k * step(layer.n));
        if (g.saved && !to_saved)
          Chained<T>::keep(to, streams * this->roomy(layer.n), rows_in(panel), saved(s.layer, panel));
      } else {
        this->run(i, at[s.a], at[s.b], to);
      }
      if (ends(s.a) && !in_place) pool.give(at[s.a]);
      if (s.b != s.a && ends(s.b)) pool.give(at[s.b]);
    }
    const int64_t n = width(p.count), size = step(n), all = g.m * n;
    const S* y = at[p.count];
    write(y, panel, n, g.y);
    for (int64_t i = 0; i < this->r; i++) write(y + (1 + i) * size, panel, n, static_cast<T*>(h.ty) + i * all);
    write(y + (1 + this->r) * size, panel, n, h.ly);
  }

  void forward(int count) const {
    const Weights weights = this->pack_weights(false);
    share(count, panels(), [&](int64_t panel, int64_t end) {
      const Pool all = pool(size_of_room(), p.count + 2);
      for (; panel < end; panel++) {
        Pool mine = all;
        forward(weights, panel, mine);
      }
    });
    give_back(kSlotOfWeights);
  }

  // --- backward ------------------------------------------------------------------------------------------------------

  // The registers that backward needs, made again; those of layers are what was saved.
  void make(int64_t panel, Pool& pool, const S** at, bool* is_own) const {
    for (int i = 0; i <= p.count; i++) {
      at[i] = nullptr;
      is_own[i] = false;
      if (!is_made[i]) continue;
      const ProgramStep* s = i > 0 ? p.steps + i - 1 : nullptr;
      const bool of_layer = s && s->kind == Step::layer;
      if (of_layer && is_whole(panel)) {
        at[i] = saved(s->layer, panel);
        continue;
      }
      S* to = pool.take();
      at[i] = to;
      is_own[i] = true;
      if (of_layer) {
        Chained<T>::kept(saved(s->layer, panel), streams * this->roomy(width(i)), rows_in(panel), to);
        continue;
      }
      if (s)
        this->run(i - 1, at[s->a], at[s->b], to);
      else
        read_input(panel, to);
      this->clear_rest(to, streams * this->roomy(width(i)), panel);
    }
  }

  void backward(const Weights& packed, int64_t panel, const Room& room, const Sums* of_layer, Pool& pool) const {
    const S* at[kMostSteps + 1];
    bool is_own[kMostSteps + 1];
    S* c[kMostSteps + 1] = {};
    make(panel, pool, at, is_own);
    // adds a cotangent, whose room is then free, to that of a register
    const auto pass = [&](int to, S* d) {
      if (!is_wanted[to]) return pool.give(d);
      if (!c[to]) {
        c[to] = d;
        return;
      }
      add(d, 1, width(to), c[to]);
      pool.give(d);
    };
    const auto pass_copy = [&](int to, const S* d, S sign) {
      if (!is_wanted[to]) return;
      if (c[to]) return add(d, sign, width(to), c[to]);
      copy(d, sign, width(to), c[to] = pool.take());
    };
    S* of_y = c[p.count] = pool.take();
    const int64_t n = width(p.count), size = step(n);
    this->read_if_any(g.gy, panel, n, of_y);
    for (int64_t i = 0; i < this->r; i++)
      this->read_if_any(this->tangent(h.gty, h.gty_step, i), panel, n, of_y + (1 + i) * size);
    this->read_if_any(h.gly, panel, n, of_y + (1 + this->r) * size);
    for (int i = p.count - 1; i >= 0; i--) {
      const ProgramStep& s = p.steps[i];
      S* d = c[i + 1];
      if (d && is_wanted[i + 1]) {
        if (s.kind == Step::layer) {
          const ChainLayer& layer = g.layers[s.layer];
          if (layer.gb) this->add_bias_gradient(1, d, layer.n, streams * step(layer.n), of_layer[s.layer].gb);
          if (layer.gw) this->add_weight_gradient(s.layer, at[s.a], 1, d, of_layer[s.layer].gw, room);
          if (is_wanted[s.a]) {
            S* to = pool.take();
            this->multiply_back(s.layer, packed, streams, panel, d, to);
            this->clear_rest(to, streams * this->roomy(layer.k), panel);
            pass(s.a, to);
          }
          pool.give(d);
        } else if (s.kind == Step::add || s.kind == Step::sub) {
          pass_copy(s.b, d, s.kind == Step::add ? 1 : -1);
          pass(s.a, d);
        } else if (s.kind == Step::mul) {
          const bool is_square = s.a == s.b;
          for (int side = 0; side < (is_square ? 1 : 2); side++) {
            const int q = side ? s.b : s.a;
            if (!is_wanted[q]) continue;
            S* to = pool.take();
            const S* other = at[side ? s.a : s.b];
            if (p.taylor)
              this->multiply_taylor_back(d, other, width(i + 1), to);
            else
              this->multiply_streams_back(d, other, width(i + 1), to);
            if (is_square) copy(to, 2, width(i + 1), to);
            pass(q, to);
          }
          pool.give(d);
        } else if (s.kind == Step::cat) {
          int64_t from = 0;
          for (int side = 0; side < 2; side++) {
            const int q = side ? s.b : s.a;
            if (is_wanted[q]) {
              S* to = pool.take();
              this->cut(d, width(i + 1), from, width(q), to);
              pass(q, to);
            }
            from += width(q);
          }
          pool.give(d);
        } else if (s.kind == Step::take) {
          if (is_wanted[s.a]) {
            S* to = pool.take();
            this->take_back(s, d, width(i + 1), to);
            pass(s.a, to);
          }
          pool.give(d);
        } else {
          if (s.kind == Step::act) {
            const S* in = at[s.a];
            S* of_saved = s.saves_input ? nullptr : pool.take();
            if (of_saved) in = this->with_value(at[i + 1], at[s.a], width(i + 1), of_saved);
            s.streams[1]({width(i + 1) * kPanel, step(width(i + 1)), this->r, in, nullptr, nullptr, d}, s.param);
            this->clear_rest(d, streams * this->roomy(width(i + 1)), panel);
            if (of_saved) pool.give(of_saved);
          } else if (s.kind == Step::scale) {
            if (g.layers[s.layer].gb) this->add_dots(s, at[s.a], d, width(i + 1), of_layer[s.layer].gb);
            this->scale(s, d, width(i + 1), d);
          } else if (s.kind == Step::shift) {
            if (g.layers[s.layer].gb) this->add_sums(s, d, width(i + 1), of_layer[s.layer].gb);
          } else {
            copy(d, S(s.alpha), width(i + 1), d);
          }
          pass(s.a, d);
        }
      } else if (d) {
        pool.give(d);
      }
      if (is_own[i + 1]) pool.give(const_cast<S*>(at[i + 1]));
    }
    if (!is_wanted[0]) return;
    if (!c[0]) __builtin_memset(c[0] = pool.take(), 0, streams * step(width(0)) * sizeof(S));
    this->write_input(c[0], panel, width(0));
  }

  void backward(int count) const {
    this->by_tiles(count, [&](const Weights& packed, int64_t panel, int64_t some, Room room, Sums sums, bool first) {
      Sums of_layer[kMostLayers];
      this->place_sums(sums, first, of_layer);
      const Pool all = pool(size_of_room(), 2 * p.count + 4);
      for (const int64_t end = panel + some; panel < end; panel++) {
        Pool mine = all;
        backward(packed, panel, room, of_layer, mine);
      }
    });
  }
};

inline void program(const Program& p) {
  if (p.h.chain.m > 0) {
    const int threads = threads_for(p.h, 1);
    if (p.h.chain.type == Type::f32)
      Programmed<float>(p).forward(threads);
    else
      Programmed<double>(p).forward(threads);
  }
}

inline void program_backward(const Program& p) {
  const int threads = threads_for(p.h, 2);
  if (p.h.chain.type == Type::f32)
    Programmed<float>(p).backward(threads);
  else
    Programmed<double>(p).backward(threads);
}

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
