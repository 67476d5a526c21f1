// Activations of rows of adjacent numbers: a kernel for each activation and order, in float32 and in float64; 16-bit
// numbers pass through float32 by blocks that stay in L1.
#pragma once

#include "alone.h"
#include "convert.h"
#include "forms.h"
#include "taylor.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

constexpr int64_t kBlock = 1024;  // elements: two blocks of float32 are 8 KiB

template <class A, int kOrder, class V> inline V apply(V s, V g, ScalarOf<V> param) {
  if constexpr (kOrder == 1) return A::first(g, s, param);
  if constexpr (kOrder == 2) return g * A::second(s, param);
  if constexpr (kOrder == 3) return g * A::third(s, param);
  if constexpr (kOrder == 4) return g * A::fourth(s, param);
  if constexpr (kOrder == 5) return g * A::fifth(s, param);
}

// How many numbers a loop takes at once. With AVX2 two vectors of bfloat16, of every other number each, so that nothing
// crosses the halves of a register: 15 % less time for gelu, 30 % for the derivative of tanh (Zen 4, 2026-11-27).
template <class T> constexpr int kStep = kLanes<VectorFor<T>>;
#if FUSEGRAD_VECTOR_BYTES == 32
template <> inline constexpr int kStep<BFloat16> = 2 * kLanes<F32>;
#endif

// The last n < kStep of a row, by the same kernel on numbers of its own. Apart, as its calls of memcpy would take the
// registers of the loop.
template <class T>
__attribute__((noinline)) void rest_of_row(Elementwise f, const T* s, const T* g, T* out, int64_t n, double param) {
  constexpr int kWhole = kStep<T>;
  alignas(64) T rest[kWhole] = {}, factors[kWhole] = {};
  __builtin_memcpy(rest, s, n * sizeof *s);
  if (g) __builtin_memcpy(factors, g, n * sizeof *g);
  f({1, kWhole, rest, 0, g ? factors : nullptr, 0, rest, 0}, param);
  __builtin_memcpy(out, rest, n * sizeof *out);
}

struct Scale {
  template <class V> static V value(V x, ScalarOf<V> c) { return x * c; }
};

template <class A, class... As> constexpr bool kIsOneOf = (__is_same(A, As) || ...);

// Whether numbers take longer to come than to compute. Where they don't, what reads them by halves only adds to that.
template <class A, int kOrder> constexpr bool kWaits =
    kIsOneOf<A, Identity, Relu, Relu6, LeakyRelu, Hardtanh, Hardsigmoid, Hardswish, ReluSquared, Square, Scale> ||
    (kOrder > 0 && kIsOneOf<A, Sigmoid, Tanh, Exp, Softsign>);

template <bool kHalves, class T> inline VectorFor<T> read(const T* from) {
  if constexpr (sizeof(T) == 2) return load_as(from);
  if constexpr (sizeof(T) > 2 && kHalves) return load_halves<VectorFor<T>>(from);
  if constexpr (sizeof(T) > 2 && !kHalves) return load<VectorFor<T>>(from);
}
template <bool kHalves, class T> inline void write(T* to, VectorFor<T> v) {
  if constexpr (sizeof(T) == 2) store_as(to, v);
  if constexpr (sizeof(T) > 2 && kHalves) store_halves<VectorFor<T>>(to, v);
  if constexpr (sizeof(T) > 2 && !kHalves) store<VectorFor<T>>(to, v);
}

// The same of numbers of type T, where nothing else is computed of s.
template <class T, class A, int kOrder, class V> inline V apply_alone(V s, V g, ScalarOf<V> param) {
  constexpr bool kIsShort = sizeof(T) == 2, kIsShortest = __is_same(T, BFloat16);
  if constexpr (kOrder == 0) return Alone<A>::template value<kIsShortest>(s, param);
  if constexpr (kOrder == 1) return Alone<A>::template first<kIsShort>(g, s, param);
  if constexpr (kOrder > 1) return apply<A, kOrder>(s, g, param);
}

// All is inlined (flatten): with so many functions GCC leaves calls in the loops of those that cost most, where gelu
// takes a fifth longer, and the derivative of silu a third (Zen 4, 2026-11-27).
template <class A, int kOrder, class T>
__attribute__((flatten)) void elementwise(const ElementwiseArgs& args, double param_) {
  using V = VectorFor<T>;
  const ElementwiseArgs by = args;  // in registers: `out` could change what `args` refers to
  const ScalarOf<V> param = ScalarOf<V>(param_);
  const T *s = static_cast<const T*>(by.s), *g = static_cast<const T*>(by.g);
  T* out = static_cast<T*>(by.out);
  const V one = all<V>(1);
  constexpr bool kHalves = kWaits<A, kOrder>;
  for (int64_t r = 0; r < by.rows; r++, s += by.s_row, g += by.g ? by.g_row : 0, out += by.out_row) {
    int64_t i = 0;
    for (; i + kStep<T> <= by.n; i += kStep<T>) {
      if constexpr (kStep<T> == kLanes<V>) {
        const V y = apply_alone<T, A, kOrder>(read<kHalves>(s + i), by.g ? read<kHalves>(g + i) : one, param);
        write<kHalves>(out + i, y);
      } else {
        const V s_low = load_every_other<false>(s + i), s_high = load_every_other<true>(s + i);
        const V g_low = by.g ? load_every_other<false>(g + i) : one,
                g_high = by.g ? load_every_other<true>(g + i) : one;
        store_every_other(out + i, apply_alone<T, A, kOrder>(s_low, g_low, param),
                          apply_alone<T, A, kOrder>(s_high, g_high, param));
      }
    }
    if (i < by.n) rest_of_row(elementwise<A, kOrder, T>, s + i, by.g ? g + i : nullptr, out + i, by.n - i, param_);
  }
}

// Of 16-bit numbers; one that is compiled by itself has none, as it converts no numbers.
template <class A, int kOrder, class T> constexpr Elementwise narrow_elementwise() {
#if defined(FUSEGRAD_OWN)
  return nullptr;
#else
  return elementwise<A, kOrder, T>;
#endif
}

// The derivatives share what costs: the compiler finds it in gs, which is always computed, and uses it in the branch,
// if all is inlined (flatten): without, gs and gg of gelu, silu and mish take 1.4 to 3.3 times as long in float32 (two
// shared cores of a Zen 3, 2026-11-23).
template <class A, int kOrder, class V> __attribute__((flatten)) void elementwise_backward(const void* const in[],
                                                                                           void* const out[], int64_t n,
                                                                                           double param_) {
  using S = ScalarOf<V>;
  const S param = S(param_);
  const S *gys = static_cast<const S*>(in[0]), *ss = static_cast<const S*>(in[1]), *gs = static_cast<const S*>(in[2]);
  S *to_gs = static_cast<S*>(out[0]), *to_gg = static_cast<S*>(out[1]), *to_y = static_cast<S*>(out[2]);
  for (int64_t i = 0; i < n; i += kLanes<V>) {
    const V gy = load_halves<V>(gys + i), s = load_halves<V>(ss + i), g = load_halves<V>(gs + i);
    const V product = apply<A, kOrder + 1>(s, gy * g, param);
    if (to_gs) store_halves<V>(to_gs + i, product);
    if (to_gg || to_y) {
      const V gg = apply<A, kOrder>(s, gy, param), y = apply<A, kOrder>(s, g, param);
      if (to_gg) store_halves<V>(to_gg + i, gg);
      if (to_y) store_halves<V>(to_y + i, y);
    }
  }
}

template <class A, int kOrder, class V>
__attribute__((flatten)) void elementwise_jvp(const void* const in[], void* const out[], int64_t n, double param_) {
  using S = ScalarOf<V>;
  const S param = S(param_);
  const S *tss = static_cast<const S*>(in[0]), *tgs = static_cast<const S*>(in[1]);
  const S *ss = static_cast<const S*>(in[2]), *gs = static_cast<const S*>(in[3]);
  S *to_ty = static_cast<S*>(out[0]), *to_y = static_cast<S*>(out[1]);
  for (int64_t i = 0; i < n; i += kLanes<V>) {
    const V ts = load_halves<V>(tss + i), tg = load_halves<V>(tgs + i), s = load_halves<V>(ss + i),
            g = load_halves<V>(gs + i);
    store_halves<V>(to_ty + i, apply<A, kOrder + 1>(s, ts * g, param) + apply<A, kOrder>(s, tg, param));
    if (to_y) store_halves<V>(to_y + i, apply<A, kOrder>(s, g, param));
  }
}

template <class A, class V>
__attribute__((flatten)) void remade(int64_t n, const void* z_, void* g_, void* y_, double param_) {
  using S = ScalarOf<V>;
  const S param = S(param_), *zs = static_cast<const S*>(z_);
  S *g = static_cast<S*>(g_), *y = static_cast<S*>(y_);
  for (int64_t i = 0; i < n; i += kLanes<V>) {
    const V z = load<V>(zs + i);
    store<V>(y + i, Shared<A>::value(z, param));
    store<V>(g + i, A::first(load<V>(g + i), z, param));
  }
}
template <class A, class V> constexpr Remade remade_by() { return A::kSavesInput ? remade<A, V> : nullptr; }

template <class A> constexpr Activation kernels_of() {
  return {A::kName,
          A::kSavesInput,
          {elementwise<A, 0, float>, elementwise<A, 1, float>, elementwise<A, 2, float>, elementwise<A, 3, float>,
           elementwise<A, 4, float>, elementwise<A, 5, float>},
          {elementwise<A, 0, double>, elementwise<A, 1, double>, elementwise<A, 2, double>, elementwise<A, 3, double>,
           elementwise<A, 4, double>, elementwise<A, 5, double>},
          {narrow_elementwise<A, 0, BFloat16>(), narrow_elementwise<A, 1, BFloat16>()},
          {narrow_elementwise<A, 0, Half>(), narrow_elementwise<A, 1, Half>()},
          {elementwise_backward<A, 1, F32>, elementwise_backward<A, 2, F32>},
          {elementwise_backward<A, 1, F64>, elementwise_backward<A, 2, F64>},
          {elementwise_jvp<A, 1, F32>, elementwise_jvp<A, 2, F32>},
          {elementwise_jvp<A, 1, F64>, elementwise_jvp<A, 2, F64>},
          {streams_forward<A, F32>, streams_backward<A, F32>},
          {streams_forward<A, F64>, streams_backward<A, F64>},
          {taylor_forward<A, F32>, taylor_backward<A, F32>},
          {taylor_forward<A, F64>, taylor_backward<A, F64>},
          {forms_forward<A, F32>, forms_backward<A, F32>},
          {forms_forward<A, F64>, forms_backward<A, F64>},
          remade_by<A, F32>(),
          remade_by<A, F64>()};
}

template <class L> struct Table;
template <class... As> struct Table<List<As...>> {
  static constexpr Activation kEntries[] = {kernels_of<As>()...};
};

inline void act(Type type, Elementwise f, const ElementwiseArgs& args, double param) {
  if (type == Type::f32 || type == Type::f64) return f(args, param);
  with_type(type, [&](auto t) {
    using T = decltype(t);
    if constexpr (sizeof(T) == 2) {
      alignas(64) float s[kBlock], g[kBlock];
      for (int64_t r = 0; r < args.rows; r++) {
        for (int64_t i = 0; i < args.n; i += kBlock) {
          const int64_t n = args.n - i < kBlock ? args.n - i : kBlock;
          widen_row(static_cast<const T*>(args.s) + r * args.s_row + i, s, n);
          if (args.g) widen_row(static_cast<const T*>(args.g) + r * args.g_row + i, g, n);
          f({1, n, s, 0, args.g ? g : nullptr, 0, s, 0}, param);
          narrow_row(s, static_cast<T*>(args.out) + r * args.out_row + i, n);
        }
      }
    }
  });
}

// Whole vectors of float32 and float64 are read in place; the last few of a row, and all 16-bit numbers, by blocks.
inline void differentiate(Type type, Derivative f, const DerivativeArgs& args, double param) {
  with_type(type, [&](auto t) {
    using T = decltype(t);
    constexpr int64_t kVector = kLanes<VectorFor<T>>, kSize = sizeof(T) == 2 ? kBlock : kVector;
    alignas(64) ScalarFor<T> block[4][kSize] = {};
    const void* const from[] = {block[0], block[1], block[2], block[3]};
    const int64_t whole = sizeof(T) == 2 ? 0 : args.n / kVector * kVector;
    for (int64_t r = 0; r < args.rows; r++) {
      const void* in[4];
      void *out[3], *to[3];
      for (int k = 0; k < args.ins; k++) in[k] = static_cast<const T*>(args.in[k]) + r * args.row[k];
      for (int k = 0; k < args.outs; k++) {
        out[k] = args.out[k] ? static_cast<T*>(args.out[k]) + r * args.n : nullptr;
        to[k] = out[k] ? block[k] : nullptr;
      }
      if (whole > 0) f(in, out, whole, param);
      for (int64_t i = whole; i < args.n; i += kSize) {
        const int64_t n = args.n - i < kSize ? args.n - i : kSize;
        for (int k = 0; k < args.ins; k++) widen_row(static_cast<const T*>(in[k]) + i, block[k], n);
        f(from, to, (n + kVector - 1) / kVector * kVector, param);
        for (int k = 0; k < args.outs; k++)
          if (out[k]) narrow_row(block[k], static_cast<T*>(out[k]) + i, n);
      }
    }
  });
}

// sum += the rows of a block in L1, `ld` apart: each sum is in a register meanwhile.
template <class T> void add_rows(const T* rows, int64_t count, int64_t ld, int64_t n, ScalarFor<T>* sum) {
  using V = VectorFor<T>;
  int64_t k = 0;
  for (; k + kLanes<V> <= n; k += kLanes<V>) {
    V total = load<V>(sum + k);
    for (int64_t r = 0; r < count; r++) total += load_as(rows + r * ld + k);
    store<V>(sum + k, total);
  }
#if defined(FUSEGRAD_MASKS)
  if (k == n) return;
  V total = load_some(sum + k, n - k);
  for (int64_t r = 0; r < count; r++) total += load_some(rows + r * ld + k, n - k);
  store_some(sum + k, total, n - k);
#else
  for (; k < n; k++)
    for (int64_t r = 0; r < count; r++) sum[k] += to_scalar(rows[r * ld + k]);
#endif
}

// By blocks that stay in L1, in the order in which they lie in memory: of several rows, or of a part of one. What is
// summed is gz as it is stored.
inline void gz_and_sum(Type type, Elementwise f, const ElementwiseArgs& args, void* sum_, double param) {
  with_type(type, [&](auto t) {
    using T = decltype(t);
    using S = ScalarFor<T>;
    const int64_t m = args.rows, n = args.n, in_block = n < kBlock ? kBlock / n : 1;
    const bool adjacent = args.s_row == n && args.g_row == n && args.out_row == n;
    const T* stored = static_cast<const T*>(f ? args.out : args.g);
    const int64_t stored_row = f ? args.out_row : args.g_row;
    S* sum = static_cast<S*>(sum_);
    for (int64_t k = 0; sum && k < n; k++) sum[k] = 0;
    for (int64_t i = 0; i < m; i += in_block) {
      const int64_t rows = m - i < in_block ? m - i : in_block;
      for (int64_t j = 0; j < n; j += kBlock) {
        const int64_t size = n - j < kBlock ? n - j : kBlock;
        if (f) {
          ElementwiseArgs block = rows_of(args, i, rows, sizeof(T));
          block.s = static_cast<const T*>(block.s) + j;
          block.g = static_cast<const T*>(block.g) + j;
          block.out = static_cast<T*>(block.out) + j;
          block.n = size;
          if (adjacent && rows > 1) block = {1, rows * n, block.s, 0, block.g, 0, block.out, 0};
          act(type, f, block, param);
        }
        if (sum) add_rows(stored + i * stored_row + j, rows, stored_row, size, sum + j);
      }
    }
  });
}

// By blocks of columns, which stay in L1 and are computed in float32 or float64. Sums are of what is stored.
inline void gate_and_sums(Type type, Elementwise value, Elementwise first, const GateArgs& args, void* sum_gz,
                          void* sum_gu, double param) {
  with_type(type, [&](auto t) {
    using T = decltype(t);
    using V = VectorFor<T>;
    using S = ScalarFor<T>;
    alignas(64) S gy[kBlock], s[kBlock], up[kBlock];
    const auto multiply = [](S* by, const S* with, int64_t n) {
      for (int64_t k = 0; k < n; k += kLanes<V>) store<V>(by + k, load<V>(by + k) * load<V>(with + k));
    };
    const auto put = [](S* numbers, void* to, S* sum, int64_t n) {
      narrow_row(numbers, static_cast<T*>(to), n);
      if (!sum) return;
      if constexpr (sizeof(T) == 2) widen_row(static_cast<const T*>(to), numbers, n);
      for (int64_t k = 0; k < n; k++) sum[k] += numbers[k];
    };
    for (int64_t j = 0; j < args.n; j += kBlock) {
      const int64_t n = args.n - j < kBlock ? args.n - j : kBlock, bytes = j * int64_t(sizeof(T));
      S *of_gz = sum_gz ? static_cast<S*>(sum_gz) + j : nullptr,
        *of_gu = sum_gu ? static_cast<S*>(sum_gu) + j : nullptr;
      for (int64_t k = 0; of_gz && k < n; k++) of_gz[k] = 0;
      for (int64_t k = 0; of_gu && k < n; k++) of_gu[k] = 0;
      __builtin_memset(gy, 0, sizeof gy);
      __builtin_memset(s, 0, sizeof s);
      __builtin_memset(up, 0, sizeof up);
      for (int64_t i = 0; i < args.rows; i++) {
        const GateArgs row = rows_of(args, i, 1, sizeof(T));
        widen_row(static_cast<const T*>(at(row.gy, bytes)), gy, n);
        widen_row(static_cast<const T*>(at(row.s, bytes)), s, n);
        if (row.gz) {
          widen_row(static_cast<const T*>(at(row.up, bytes)), up, n);
          multiply(up, gy, n);
          if (first) first({1, n, s, 0, up, 0, up, 0}, param);
          put(up, at(row.gz, bytes), of_gz, n);
        }
        if (row.gu) {
          if (value) value({1, n, s, 0, nullptr, 0, s, 0}, param);
          multiply(s, gy, n);
          put(s, at(row.gu, bytes), of_gu, n);
        }
      }
    }
  });
}

inline void sum_rows(Type type, const void* rows_, void* sum_, int64_t m, int64_t n) {
  with_type(type, [&](auto t) {
    using T = decltype(t);
    using S = ScalarFor<T>;
    const S* rows = static_cast<const S*>(rows_);
    for (int64_t j = 0; j < n; j += kBlock) {
      const int64_t size = n - j < kBlock ? n - j : kBlock;
      double sum[kBlock] = {};
      S rounded[kBlock];
      for (int64_t i = 0; i < m; i++)
        for (int64_t k = 0; k < size; k++) sum[k] += rows[i * n + j + k];
      for (int64_t k = 0; k < size; k++) rounded[k] = S(sum[k]);
      narrow_row(rounded, static_cast<T*>(sum_) + j, size);
    }
  });
}

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
