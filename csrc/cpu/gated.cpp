#include "tensors.h"

namespace fusegrad {
namespace {

// a b: the first derivative of exp, in terms of its output, is a product.
Tensor product(const Tensor& a, const Tensor& b) {
  return call("fusegrad::act", a, std::optional<Tensor>(b), std::string("exp"), 0.0, int64_t(1));
}

std::tuple<Tensor, Tensor, Tensor> gated(Tensor x, Tensor w_gate, Tensor w_up, std::optional<Tensor> b_gate,
                                         std::optional<Tensor> b_up, StringHandle act_, double param, bool save) {
  std::string act = text_of(act_);
  const Type type = check("gated", "x (..., k), w_gate (n, k), w_up (n, k), b_gate (n), b_up (n)",
                          {&x, &w_gate, &w_up, if_any(b_gate), if_any(b_up)});
  const Activation* a = activation(act);
  if (a == nullptr || torch_multiplies_faster()) {
    const Tensor z = call("fusegrad::linear", x, w_gate, b_gate), up = call("fusegrad::linear", x, w_up, b_up);
    const Tensor h = act == "identity" ? z
                     : a               ? call("fusegrad::act", z, std::optional<Tensor>(), act, param, int64_t(0))
                                       : act_by_reference("gated", z, std::nullopt, act, param, 0);
    return {product(h, up), save ? saves_input(act) ? z : h : empty(x, {0}), save ? up : empty(x, {0})};
  }
  const Rows rows(x);
  Gated g{affine(type, rows, w_gate, b_gate), affine(type, rows, w_up, b_up), a->saves_input};
  Tensor y = output(x, w_gate), saved = save ? output(x, w_gate) : empty(x, {0}),
         up = save ? output(x, w_gate) : empty(x, {0});
  g.gate.c = y.mutable_data_ptr();
  if (save) g.gate.saved = saved.mutable_data_ptr();
  if (save) g.up.c = up.mutable_data_ptr();
  if (act != "identity") g.gate.activation = derivative(*a, 0, type);
  g.gate.param = param;
  const Flush flush(g.gate.activation != nullptr);
  kernels().gated(g);
  return {y, saved, up};
}

// gz and gu, as `whole` says, and the sums of their rows; nullptr for what is not needed.
void gate_and_sums(Type type, Elementwise value, Elementwise first, const GateArgs& whole, void* sum_gz, void* sum_gu,
                   double param) {
  const int64_t m = whole.rows, n = whole.n, size = size_of(type), width = type == Type::f64 ? 8 : 4;
  if (n == 0) return;
  const int64_t chunks = (m + kRowsPerSum - 1) / kRowsPerSum;
  const Scratch room(kSlotOfSums, sum_gz || sum_gu ? bytes_of(2 * chunks, n, width) : 0);
  void* partial_gz = sum_gz ? room.data : nullptr;
  void* partial_gu = sum_gu ? at(room.data, chunks * n * width) : nullptr;
  const int64_t grain = 1 + 65536 / (kRowsPerSum * n + 1);
  parallel(chunks, grain, [&](int64_t chunk, int64_t end) {
    for (; chunk < end; chunk++) {
      const int64_t row = chunk * kRowsPerSum, sums = chunk * n * width;
      const GateArgs part = rows_of(whole, row, std::min(kRowsPerSum, m - row), size);
      kernels().gate_and_sums(type, value, first, part, at(partial_gz, sums), at(partial_gu, sums), param);
    }
  });
  if (sum_gz) kernels().sum_rows(type, partial_gz, sum_gz, chunks, n);
  if (sum_gu) kernels().sum_rows(type, partial_gu, sum_gu, chunks, n);
}

// gz and gu next to each other, (m, 2 n), or the one of them that is needed, (m, n).
struct Gradients {
  void* data;
  int64_t n, row, first_of_gu, size;

  Operand gz() const { return {data, row, 1}; }
  Operand gu() const { return {at(data, first_of_gu * size), row, 1}; }
};

// gz w_gate + gu w_up, by torch.
Tensor sum_of_products(const Tensor& both, const Tensor& w_gate, const Tensor& w_up) {
  const int64_t n = w_gate.size(0);
  Tensor w = empty(w_gate, {2 * n, w_gate.size(1)});
  Tensor gate = torch::stable::narrow(w, 0, 0, n), up = torch::stable::narrow(w, 0, n, n);
  torch::stable::copy_(gate, w_gate);
  torch::stable::copy_(up, w_up);
  return call("aten::mm", both, w);
}

// Of y = act(z) up, with gz = gy up act'(z), gu = gy act(z): gx = gz w_gate + gu w_up, gw_gate = gz^T x, gw_up = gu^T
// x, and the sums of gz and gu; empty if not needed.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gated_backward(Tensor gy, Tensor x, Tensor w_gate, Tensor w_up,
                                                                  Tensor s, Tensor up, StringHandle act_, double param,
                                                                  bool need_x, bool need_w_gate, bool need_w_up,
                                                                  bool need_b_gate, bool need_b_up) {
  std::string act = text_of(act_);
  const Type type =
      check("gated_backward", "gy (..., n), x (..., k), w_gate (n, k), w_up (n, k), s (..., n), up (..., n)",
            {&gy, &x, &w_gate, &w_up, &s, &up});
  const Activation* a = activation(act);
  const Flush flush(act != "identity");
  const bool by_torch = torch_multiplies_faster(), of_input = saves_input(act);
  const bool need_gz = need_x || need_w_gate || need_b_gate, need_gu = need_x || need_w_up || need_b_up;
  if (a == nullptr) {  // the factors of gy
    if (need_gz) up = act_by_reference("gated_backward", s, up, act, param, 1);
    if (need_gu && of_input) s = act_by_reference("gated_backward", s, std::nullopt, act, param, 0);
  }
  const Elementwise value = a && of_input ? derivative(*a, 0, type) : nullptr;
  const Elementwise first = a && act != "identity" ? derivative(*a, 1, type) : nullptr;
  const Rows rows(x), of_gy = adjacent_rows(gy), of_s = adjacent_rows(s), of_up = adjacent_rows(up);
  const int64_t m = rows.m, n = w_gate.size(0), k = w_gate.size(1), width = (need_gz + need_gu) * n;
  const auto made = [&](bool need, const Shape& shape) { return empty(x, need && !by_torch ? shape : Shape{0}); };
  Tensor gx = made(need_x, shape_of(x)), gw_gate = made(need_w_gate, {n, k}), gw_up = made(need_w_up, {n, k});
  Tensor gb_gate = empty(x, {need_b_gate ? n : 0}), gb_up = empty(x, {need_b_up ? n : 0});
  const Scratch room(kSlotOfGz, by_torch ? 0 : bytes_of(m, width, size_of(type)));
  Tensor both = empty(x, by_torch ? Shape{m, width} : Shape{0});
  const Gradients g{by_torch ? both.mutable_data_ptr() : room.data, n, width, need_gz ? n : 0, size_of(type)};
  GateArgs whole{m,
                 n,
                 of_gy.operand.data,
                 of_s.operand.data,
                 of_up.operand.data,
                 of_gy.operand.row_stride,
                 of_s.operand.row_stride,
                 of_up.operand.row_stride,
                 nullptr,
                 nullptr,
                 g.row};
  if (need_gz) whole.gz = const_cast<void*>(g.gz().data);
  if (need_gu) whole.gu = const_cast<void*>(g.gu().data);
  gate_and_sums(type, value, first, whole, need_b_gate ? gb_gate.mutable_data_ptr() : nullptr,
                need_b_up ? gb_up.mutable_data_ptr() : nullptr, param);
  if (by_torch) {
    const Tensor of_x = torch::stable::reshape(x, {m, k});
    const auto of_weight = [&](int64_t from) {
      return call("aten::mm", torch::stable::transpose(torch::stable::narrow(both, 1, from, n), 0, 1), of_x);
    };
    if (need_x) gx = torch::stable::reshape(sum_of_products(both, w_gate, w_up), x.sizes());
    if (need_w_gate) gw_gate = of_weight(0);
    if (need_w_up) gw_up = of_weight(g.first_of_gu);
    return {gx, gw_gate, gw_up, gb_gate, gb_up};
  }
  if (need_x) {
    Gemm sum{type, m, k, 2 * n, g.gz(), matrix(w_gate, false), gx.mutable_data_ptr()};
    sum.split = n;
    sum.rest = matrix(w_up, false);
    kernels().gemm(sum);
  }
  if (need_w_gate) kernels().gemm({type, n, k, m, transposed(g.gz()), rows.operand, gw_gate.mutable_data_ptr()});
  if (need_w_up) kernels().gemm({type, n, k, m, transposed(g.gu()), rows.operand, gw_up.mutable_data_ptr()});
  return {gx, gw_gate, gw_up, gb_gate, gb_up};
}

STABLE_TORCH_LIBRARY_IMPL(fusegrad, CPU, m) {
  m.impl("gated", TORCH_BOX(&gated));
  m.impl("gated_backward", TORCH_BOX(&gated_backward));
}

}  // namespace
}  // namespace fusegrad
