#include "tensors.h"

namespace fusegrad {
namespace {

Tensor mm(Tensor a, Tensor b, bool trans_a, bool trans_b) {
  const Type type = common_type("mm", a, b);
  const int64_t m = a.size(trans_a), k = a.size(!trans_a), n = b.size(!trans_b);
  STD_TORCH_CHECK(b.size(trans_b) == k, "mm: the inner sizes ", k, " and ", b.size(trans_b), " differ");
  if (torch_multiplies_faster()) {
    return call("aten::mm", trans_a ? torch::stable::transpose(a, 0, 1) : a,
                trans_b ? torch::stable::transpose(b, 0, 1) : b);
  }
  Tensor y = empty(a, {m, n});
  kernels().gemm({type, m, n, k, matrix(a, trans_a), matrix(b, trans_b), y.mutable_data_ptr()});
  return y;
}

// x w^T + b and its epilogue.
Gemm affine(const char* op, const Rows& x, const Tensor& w, const std::optional<Tensor>& b) {
  const Type type = b ? common_type(op, x.tensor, w, *b) : common_type(op, x.tensor, w);
  STD_TORCH_CHECK(w.dim() == 2 && w.size(1) == x.k && (!b || (b->dim() == 1 && b->size(0) == w.size(0))), op,
                  ": the shapes do not fit");
  Gemm g{type, x.m, w.size(0), x.k, x.operand, matrix(w, true), nullptr};
  if (b) {
    g.bias = b->const_data_ptr();
    g.bias_stride = b->stride(0);
  }
  return g;
}

Tensor output(const Tensor& x, const Tensor& w) {
  Shape shape = shape_of(x);
  shape.back() = w.size(0);
  return empty(x, shape);
}

Tensor linear(Tensor x, Tensor w, std::optional<Tensor> b) {
  const Rows rows(x);
  Gemm g = affine("linear", rows, w, b);
  if (torch_multiplies_faster()) return dense(call("aten::linear", x, w, b));
  Tensor y = output(x, w);
  g.c = y.mutable_data_ptr();
  kernels().gemm(g);
  return y;
}

std::tuple<Tensor, Tensor> linear_act(Tensor x, Tensor w, std::optional<Tensor> b, std::string act, double param,
                                      bool keep) {
  const Rows rows(x);
  Gemm g = affine("linear_act", rows, w, b);
  const Activation* a = activation(act);
  if (a == nullptr || torch_multiplies_faster()) {
    const Tensor z = linear(x, w, b);
    const bool keeps = keep && (a == nullptr || a->keeps_input);
    return {act == "identity" ? z : call("fusegrad::act", z, std::optional<Tensor>(), act, param, int64_t(0)),
            keeps ? z : empty(x, {0})};
  }
  Tensor y = output(x, w), kept = keep && a->keeps_input ? output(x, w) : empty(x, {0});
  g.c = y.mutable_data_ptr();
  if (keep && a->keeps_input) g.kept = kept.mutable_data_ptr();
  if (act != "identity") g.activation = derivative(*a, 0, g.type);
  g.param = param;
  kernels().gemm(g);
  return {y, kept};
}

// Rows of gz to a partial sum: few enough to be shared well, and the same for any number of threads.
constexpr int64_t kRowsPerSum = 32;

// gz = gy D_1(s) and the sum of its rows, in one pass over gy and s. Without a function gz is gy, and not written.
void gz_and_sum(Type type, Elementwise f, const void* s, const void* gy, void* gz, void* sum, int64_t m, int64_t n,
                double param) {
  const int64_t size = size_of(type), width = type == Type::f64 ? 8 : 4, chunks = (m + kRowsPerSum - 1) / kRowsPerSum;
  char* partial = sum ? static_cast<char*>(scratch(kSlotOfSums, chunks * n * width)) : nullptr;
  const int64_t grain = 1 + 65536 / (kRowsPerSum * n + 1);
  parallel(chunks, grain, [&](int64_t chunk, int64_t end) {
    for (; chunk < end; chunk++) {
      const int64_t row = chunk * kRowsPerSum, at = row * n * size;
      kernels().gz_and_sum(type, f, static_cast<const char*>(s) + at, static_cast<const char*>(gy) + at,
                           static_cast<char*>(gz) + at, sum ? partial + chunk * n * width : nullptr,
                           std::min(kRowsPerSum, m - row), n, param);
    }
  });
  if (sum) kernels().sum_rows(type, partial, sum, chunks, n);
}

// Of y = act(z), z = x w^T + b, with gz = gy act'(z): gx = gz w, gw = gz^T x, gb = sum of gz; empty if not needed.
std::tuple<Tensor, Tensor, Tensor> linear_act_backward(Tensor gy, Tensor x, Tensor w, Tensor s, std::string act,
                                                       double param, bool need_x, bool need_w, bool need_b) {
  const Type type = common_type("linear_act_backward", gy, x, w, s);
  const Rows rows(x);
  const int64_t m = rows.m, n = w.size(0), k = w.size(1);
  STD_TORCH_CHECK(rows.k == k && gy.numel() == m * n && (act == "identity" || s.numel() == m * n),
                  "linear_act_backward: the shapes do not fit");
  const Activation* a = activation(act);
  if (a == nullptr) {
    gy = act_by_reference(s, gy, act, param, 1);
    act = "identity";
  }
  const bool by_torch = torch_multiplies_faster();
  gy = dense(gy);
  s = dense(s);
  Tensor gx = need_x && !by_torch ? empty(x, shape_of(x)) : empty(x, {0});
  Tensor gw = need_w && !by_torch ? empty(x, {n, k}) : empty(x, {0});
  Tensor gb = need_b ? empty(x, {n}) : empty(x, {0});
  const Elementwise f = act == "identity" ? nullptr : derivative(*a, 1, type);
  void* sum = need_b ? gb.mutable_data_ptr() : nullptr;
  const void* gz = gy.const_data_ptr();
  Tensor room = gy;
  if (f && by_torch) room = empty(x, {m, n});
  if (f && n > 0) {
    void* to = by_torch ? room.mutable_data_ptr() : scratch(kSlotOfGz, m * n * size_of(type));
    gz_and_sum(type, f, s.const_data_ptr(), gz, to, sum, m, n, param);
    gz = to;
  } else if (sum && n > 0) {
    gz_and_sum(type, nullptr, nullptr, gz, nullptr, sum, m, n, param);
  }
  if (by_torch) {
    const Tensor matrix = torch::stable::reshape(room, {m, n});
    if (need_x) gx = torch::stable::reshape(call("aten::mm", matrix, w), x.sizes());
    if (need_w) gw = call("aten::mm", torch::stable::transpose(matrix, 0, 1), torch::stable::reshape(x, {m, k}));
    return {gx, gw, gb};
  }
  const Operand g{gz, n, 1};
  if (need_x) kernels().gemm({type, m, k, n, g, matrix(w, false), gx.mutable_data_ptr()});
  if (need_w) kernels().gemm({type, n, k, m, transposed(g), rows.operand, gw.mutable_data_ptr()});
  return {gx, gw, gb};
}

// gz = gy act'(z) with gy = a b, and the sum of its rows; empty if not needed.
std::tuple<Tensor, Tensor> mm_gz(Tensor a, Tensor b, Tensor s, std::string act, double param, bool need_sum) {
  const Type type = common_type("mm_gz", a, b, s);
  STD_TORCH_CHECK(s.dim() == 2 && a.size(0) == s.size(0) && b.size(1) == s.size(1), "mm_gz: the shapes do not fit");
  const Activation* known = activation(act);
  Tensor gz = dense(mm(a, b, false, false));
  if (known == nullptr) {
    gz = act_by_reference(dense(s), gz, act, param, 1);
    act = "identity";
  }
  const int64_t m = s.size(0), n = s.size(1);
  Tensor gb = need_sum ? empty(a, {n}) : empty(a, {0});
  const Elementwise f = act == "identity" ? nullptr : derivative(*known, 1, type);
  if (n > 0 && (f || need_sum)) {
    s = dense(s);
    void* data = gz.mutable_data_ptr();
    gz_and_sum(type, f, s.const_data_ptr(), data, data, need_sum ? gb.mutable_data_ptr() : nullptr, m, n, param);
  }
  return {gz, gb};
}

STABLE_TORCH_LIBRARY_IMPL(fusegrad, CPU, m) {
  m.impl("mm", TORCH_BOX(&mm));
  m.impl("linear", TORCH_BOX(&linear));
  m.impl("linear_act", TORCH_BOX(&linear_act));
  m.impl("linear_act_backward", TORCH_BOX(&linear_act_backward));
  m.impl("mm_gz", TORCH_BOX(&mm_gz));
}

}  // namespace
}  // namespace fusegrad
