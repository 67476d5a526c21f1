#include <array>
#include <utility>

#include "tensors.h"

namespace fusegrad {
namespace {

constexpr int64_t kRow = 16;  // elements: shorter rows are copied together before they are read

bool laid_out_alike(const Tensor& a, const Tensor& b) {
  for (int64_t i = 0; i < a.dim(); i++)
    if (a.size(i) > 1 && a.stride(i) != b.stride(i)) return false;
  return true;
}

// A contiguous tensor whose strides say so in the dimensions of one element too.
bool is_plain(const Tensor& t) {
  int64_t stride = 1;
  for (int64_t i = t.dim() - 1; i >= 0; i--) {
    if (t.stride(i) != stride) return false;
    stride *= t.size(i);
  }
  return true;
}

// A tensor in the order of another one: as it is where it is laid out alike, or in rows of adjacent numbers while the
// other is contiguous; else a copy.
struct Ordered {
  Tensor tensor;
  bool in_rows = false;
  int64_t row = 0;  // from one to the next, if in rows

  Ordered(const Tensor& t, const Tensor& like) : tensor(t) {
    if (laid_out_alike(t, like)) return;
    if (like.is_contiguous()) {
      const Rows rows(t);
      in_rows = rows.operand.column_stride == 1 && rows.operand.row_stride != rows.k && rows.k >= kRow;
      tensor = in_rows ? rows.tensor : dense(rows.tensor);
      row = rows.operand.row_stride;
    } else {
      tensor = torch::stable::empty_like(like);
      torch::stable::copy_(tensor, t);
    }
  }
};

// A tensor laid out as torch would that of a function of s.
Tensor output(const Tensor& s) { return is_plain(s) ? empty(s, shape_of(s)) : torch::stable::empty_like(s); }

// Part of the numbers of an output: rows of n, where they begin in it and in the operands, and from row to row there.
template <size_t kCount> struct Part {
  int64_t rows, n, offset;  // in bytes
  const void* at[kCount];
  int64_t row[kCount];
};

// Calls body for all parts, on several threads: rows if an operand is in rows, else all numbers as one.
template <size_t kCount, class Body>
void for_parts(const Tensor& out, int64_t size, const std::array<Ordered, kCount>& operands, const Body& body) {
  const char* data[kCount];
  bool in_rows = false;
  for (size_t k = 0; k < kCount; k++) {
    data[k] = static_cast<const char*>(operands[k].tensor.const_data_ptr());
    in_rows |= operands[k].in_rows;
  }
  const int64_t n = in_rows ? out.size(out.dim() - 1) : 1;
  parallel(out.numel() / n, kShare / n + 1, [&](int64_t i, int64_t end) {
    Part<kCount> part{in_rows ? end - i : 1, in_rows ? n : end - i, i * n * size, {}, {}};
    for (size_t k = 0; k < kCount; k++) {
      part.row[k] = operands[k].in_rows ? operands[k].row : n;
      part.at[k] = data[k] + i * part.row[k] * size;
    }
    body(part);
  });
}

// A tensor of f(s, g), or of f(s); f(args) of what lies in rows.
template <class F> Tensor map(Type type, const Tensor& s, const Tensor* g, const F& f) {
  Tensor out = output(s);
  if (out.numel() == 0) return out;
  char* to = static_cast<char*>(out.mutable_data_ptr());
  const std::array<Ordered, 2> operands{Ordered(s, out), Ordered(g ? *g : out, out)};
  for_parts(out, size_of(type), operands, [&](const Part<2>& p) {
    f(ElementwiseArgs{p.rows, p.n, p.at[0], p.row[0], g ? p.at[1] : nullptr, p.row[1], to + p.offset, p.n});
  });
  return out;
}
Tensor map(Type type, const Activation& a, int64_t order, const Tensor& s, const Tensor* g, double param) {
  return map(type, s, g, [&](const ElementwiseArgs& args) { act_on_rows(a, order, type, args, param); });
}

Tensor act(Tensor s, std::optional<Tensor> g, StringHandle name_, double param, int64_t order) {
  const std::string name = text_of(name_);
  require(order >= 0 && (order > 0 || !g), "act: order must be 0 (without g), 1, 2, ..., got order ", order, ", g ",
          g ? "True" : "False");
  const Type type = check("act", "s (...), g (...)", {&s, if_any(g)});
  const Activation* a = activation(name);
  if (a == nullptr || order >= kOrders) return act_by_reference("act", s, g, name, param, order);
  return map(type, *a, order, s, g ? &*g : nullptr, param);
}

// a b: the first derivative of exp, in terms of its output, is a product.
Tensor product(Type type, const Tensor& a, const Tensor& b) { return map(type, *activation("exp"), 1, a, &b, 0); }

// The outputs of a derivative, in the layout of s; empty if not needed.
template <size_t kIns, size_t kOuts>
std::array<Tensor, kOuts> differentiate(Type type, Derivative f, const Tensor (&in)[kIns], const Tensor& s,
                                        const bool (&needed)[kOuts], double param) {
  std::array<Tensor, kOuts> out;
  char* to[kOuts];
  size_t made = kOuts;
  for (size_t k = kOuts; k-- > 0;) {
    out[k] = needed[k] ? output(s) : empty(s, {0});
    to[k] = needed[k] ? static_cast<char*>(out[k].mutable_data_ptr()) : nullptr;
    if (needed[k]) made = k;
  }
  if (made == kOuts || s.numel() == 0) return out;
  const auto ordered = [&]<size_t... k>(std::index_sequence<k...>) {
    return std::array<Ordered, kIns>{Ordered(in[k], out[made])...};
  }(std::make_index_sequence<kIns>());
  for_parts(out[made], size_of(type), ordered, [&](const Part<kIns>& p) {
    DerivativeArgs args{p.rows, p.n, kIns, kOuts, {}, {}, {}};
    for (size_t k = 0; k < kIns; k++) {
      args.in[k] = p.at[k];
      args.row[k] = p.row[k];
    }
    for (size_t k = 0; k < kOuts; k++) args.out[k] = to[k] ? to[k] + p.offset : nullptr;
    kernels().differentiate(type, f, args, param);
  });
  return out;
}

// Of y = g D_order(s) along gy: gs = gy g D_{order+1}(s), gg = gy D_order(s), and y; empty if not needed.
std::tuple<Tensor, Tensor, Tensor> act_vjp(Tensor gy, Tensor s, Tensor g, StringHandle act_, double param,
                                           int64_t order, bool need_s, bool need_g, bool need_y) {
  std::string act = text_of(act_);
  require(order >= 1 && order <= kDerivativeOrders, "act_vjp: order must be 1 or 2, got ", order);
  const Type type = check("act_vjp", "gy (...), s (...), g (...)", {&gy, &s, &g});
  const Activation* a = activation(act);
  if (a == nullptr) {
    const auto by_reference = [&](const Tensor& g, int64_t order) {
      return act_by_reference("act_vjp", s, g, act, param, order);
    };
    return {need_s ? by_reference(product(type, gy, g), order + 1) : empty(s, {0}),
            need_g ? by_reference(gy, order) : empty(s, {0}), need_y ? by_reference(g, order) : empty(s, {0})};
  }
  const Flush flush(size_of(type) > 2);
  const auto out = differentiate(type, backward(*a, order, type), {gy, s, g}, s, {need_s, need_g, need_y}, param);
  return {out[0], out[1], out[2]};
}

// Of y = g D_order(s) along ts and tg: ty = ts g D_{order+1}(s) + tg D_order(s), and y; empty if not needed.
std::tuple<Tensor, Tensor> act_jvp(Tensor ts, Tensor tg, Tensor s, Tensor g, StringHandle act_, double param,
                                   int64_t order, bool need_y) {
  std::string act = text_of(act_);
  require(order >= 1 && order <= kDerivativeOrders, "act_jvp: order must be 1 or 2, got ", order);
  const Type type = check("act_jvp", "ts (...), tg (...), s (...), g (...)", {&ts, &tg, &s, &g});
  const Activation* a = activation(act);
  if (a == nullptr) {
    const auto by_reference = [&](const std::optional<Tensor>& g, int64_t order) {
      return act_by_reference("act_jvp", s, g, act, param, order);
    };
    // that of exp, in terms of its output, is ts g + tg s
    const Tensor next = by_reference(ts, order + 1), d = by_reference(std::nullopt, order);
    const Derivative of_exp = jvp(*activation("exp"), 1, type);
    return {differentiate(type, of_exp, {next, tg, d, g}, s, {true, false}, 0)[0],
            need_y ? by_reference(g, order) : empty(s, {0})};
  }
  const Flush flush(size_of(type) > 2);
  const auto out = differentiate(type, jvp(*a, order, type), {ts, tg, s, g}, s, {true, need_y}, param);
  return {out[0], out[1]};
}

Tensor mul_constant(Tensor x, double c) {
  const Type type = check("mul_constant", "x (...)", {&x});
  const Elementwise scale = type == Type::f64 ? kernels().scale_float64 : kernels().scale_float32;
  return map(type, x, nullptr, [&](const ElementwiseArgs& args) { kernels().act(type, scale, args, c); });
}

STABLE_TORCH_LIBRARY_IMPL(fusegrad, CPU, m) {
  m.impl("act", TORCH_BOX(&act));
  m.impl("act_vjp", TORCH_BOX(&act_vjp));
  m.impl("act_jvp", TORCH_BOX(&act_jvp));
  m.impl("mul_constant", TORCH_BOX(&mul_constant));
}

}  // namespace
}  // namespace fusegrad
