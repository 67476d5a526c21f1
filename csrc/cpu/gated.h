// c = activation(a b + bias) (a b' + bias'): two products that read a once. Tiles of both are made next to each other,
// and multiplied while they are in cache.
#pragma once

#include "skinny.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

template <class T> struct GatedProduct {
  using V = VectorFor<T>;
  using S = ScalarOf<V>;
  using P = Packed<T>;
  using Word = typename P::Word;
  const Gated& g;
  const Product<T> gate{g.gate, 0, g.gate.m, nullptr}, up{g.up, 0, g.up.m, nullptr};

  // What is left to do with sums of `rows` x `columns` at (i, j), of rows that are kNR apart, in L1.
  void epilogue(S* of_gate, S* of_up, int64_t i, int64_t j, int64_t rows, int64_t columns) const {
    constexpr int64_t ld = kNR<V>;
    const auto put = [&](const S* tile, void* to) {
      for (int64_t r = 0; to && r < rows; r++) narrow_row(tile + r * ld, gate.row(to, i + r) + j, columns);
    };
    if (g.saves_input) put(of_gate, g.gate.saved);
    if (g.gate.activation) g.gate.activation({1, rows * ld, of_gate, 0, nullptr, 0, of_gate, 0}, g.gate.param);
    if (!g.saves_input) put(of_gate, g.gate.saved);
    put(of_up, g.up.c);
    for (int64_t q = 0; q < rows * ld; q += kLanes<V>) store<V>(of_gate + q, load<V>(of_gate + q) * load<V>(of_up + q));
    put(of_gate, g.gate.c);
  }

  // Rows [i, i + rows) of a, packed, times a packed panel for columns [j, ...), over k words: to = or to +=.
  void sums(const Product<T>& of, const Word* a, const Word* panel, int64_t i, int64_t j, int64_t rows, int64_t columns,
            int64_t k, bool add, bool ends, S* to) const {
    S room[kNR<V>];
    const S* bias = ends ? of.bias_of(j, columns, room) : nullptr;
    const auto near = [&](int64_t r, int64_t chain) {  // what the epilogue writes
      void* c = !ends || chain > 1 ? nullptr : chain == 0 ? of.g.c : of.g.saved;
      return c ? Near::of(of.row(c, i + r) + j, of.g.n, least(kMR, rows - r), columns) : Near{};
    };
    for (int64_t r = 0; r < rows; r += kMR) {
      const auto kernel = kKernel<P>.tile[1][least(kMR, rows - r) - 1];
      for (int64_t q = 0; q < k; q += kChain)
        kernel(least(kChain, k - q), a + r * k + q * kMR, panel + q * kNR<V>, q + kChain >= k ? bias : nullptr,
               add || q > 0 ? to + r * kNR<V> : nullptr, kNR<V>, to + r * kNR<V>, kNR<V>, Beside{near(r, q / kChain)});
    }
  }

  // Rows [i0, i0 + m) and columns [j0, j0 + n) of c, by this thread. Where k takes several blocks the sums so far wait
  // in scratch: those of all rows, and of as many columns as are packed at a time.
  void part(int64_t i0, int64_t m, int64_t j0, int64_t n) const {
    const int64_t k0 = g.gate.k, kc = Product<T>::block_of_k(k0);
    const int64_t nc = kBytesOfB / kBytesOfK / kNR<V> / 2 * kNR<V>;
    const int64_t mc = round_up(ceil_div(m, ceil_div(m, kMC)), kMR), width = round_up(least(n, nc), kNR<V>);
    const bool in_blocks = kc < k0, reused = mc < m;
    const Scratch waiting(kSlotOfPartial, in_blocks ? 2 * m * width * int64_t(sizeof(S)) : 0);
    alignas(64) S tile[2 * kMC * kNR<V>];
    for (int64_t j = j0; j < j0 + n; j += nc) {
      const int64_t columns = least(nc, j0 + n - j);
      for (int64_t p = 0; p < k0; p += kc) {
        const int64_t k = least(kc, k0 - p), words = Product<T>::words(k);
        const bool begins = p == 0, ends = p + k == k0;
        Word *a = Product<T>::room(kSlotOfA, mc * words),
             *b = Product<T>::room(kSlotOfB, 2 * (reused ? width : kNR<V>)*words);
        for (int64_t i = 0; i < m; i += mc) {
          const int64_t rows = least(mc, m - i);
          gate.pack_a(a, i0 + i, p, rows, k);
          for (int64_t q = 0; q < columns; q += kNR<V>) {
            const int64_t w = least(kNR<V>, columns - q);
            Word *of_gate = reused ? b + 2 * q * words : b, *of_up = of_gate + kNR<V> * words;
            if (i == 0) {  // in this order, as packing writes past the end of a panel
              gate.pack_b(of_gate, p, j + q, k, w);
              up.pack_b(of_up, p, j + q, k, w);
            }
            S* to = in_blocks ? static_cast<S*>(waiting.data) + 2 * (i * width + q * rows) : tile;
            S* to_up = to + rows * kNR<V>;
            sums(gate, a, of_gate, i0 + i, j + q, rows, w, words, !begins, ends, to);
            sums(up, a, of_up, i0 + i, j + q, rows, w, words, !begins, ends, to_up);
            if (ends) epilogue(to, to_up, i0 + i, j + q, rows, w);
          }
        }
      }
    }
  }

  void run(int count) const {
    in_parts<V>(count, g.gate.m, g.gate.n, [&](int64_t i0, int64_t m, int64_t j, int64_t n) {
      for (int64_t i = 0; i < m; i += kPartialRows) part(i0 + i, least(kPartialRows, m - i), j, n);
    });
  }

  // Few rows: bound by reading both b, once, in their own order.
  void run_dots(int count) const {
    const DotProduct<T> of_gate{gate}, of_up{up};
    in_strips<V>(count, g.gate.m, g.gate.n, [&](int64_t i, int64_t rows, int64_t j, int64_t columns) {
      alignas(64) S sums[2][kMC * kNR<V>];
      of_gate.sum(i, rows, j, columns, sums[0]);
      of_up.sum(i, rows, j, columns, sums[1]);
      epilogue(sums[0], sums[1], i, j, rows, columns);
    });
  }
};

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
