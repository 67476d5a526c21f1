#include "layers.h"
#include "tensors.h"

namespace fusegrad {

void gz_and_sum(Type type, Elementwise f, const ElementwiseArgs& args, void* sum, double param) {
  const int64_t m = args.rows, n = args.n, size = size_of(type), width = type == Type::f64 ? 8 : 4;
  if (n == 0) return;
  const int64_t chunks = (m + kRowsPerSum - 1) / kRowsPerSum;
  const Scratch partial(kSlotOfSums, sum ? bytes_of(chunks, n, width) : 0);
  const int64_t grain = 1 + 65536 / (kRowsPerSum * n + 1);
  parallel(chunks, grain, [&](int64_t chunk, int64_t end) {
    for (; chunk < end; chunk++) {
      const int64_t row = chunk * kRowsPerSum;
      const ElementwiseArgs part = rows_of(args, row, std::min(kRowsPerSum, m - row), size);
      kernels().gz_and_sum(type, f, part, at(partial.data, chunk * n * width), param);
    }
  });
  if (sum) kernels().sum_rows(type, partial.data, sum, chunks, n);
}

namespace {

Tensor mm(Tensor a, Tensor b, bool trans_a, bool trans_b) {
  constexpr const char* kNeed[2][2] = {{"a (m, k), b (k, n)", "a (m, k), b (n, k)"},
                                       {"a (k, m), b (k, n)", "a (k, m), b (n, k)"}};
  const Type type = check("mm", kNeed[trans_a][trans_b], {&a, &b});
  const int64_t m = a.size(trans_a), k = a.size(!trans_a), n = b.size(!trans_b);
  if (torch_multiplies_faster()) {
    return call("aten::mm", trans_a ? torch::stable::transpose(a, 0, 1) : a,
                trans_b ? torch::stable::transpose(b, 0, 1) : b);
  }
  Tensor y = empty(a, {m, n});
  kernels().gemm({type, m, n, k, matrix(a, trans_a), matrix(b, trans_b), y.mutable_data_ptr()});
  return y;
}

constexpr const char* kLayer = "x (..., k), w (n, k), b (n)";

Tensor linear(Tensor x, Tensor w, std::optional<Tensor> b) {
  const Type type = check("linear", kLayer, {&x, &w, if_any(b)});
  if (torch_multiplies_faster()) return dense(call("aten::linear", x, w, b));
  const Rows rows(x);
  Gemm g = affine(type, rows, w, b);
  Tensor y = output(x, w);
  g.c = y.mutable_data_ptr();
  kernels().gemm(g);
  return y;
}

std::tuple<Tensor, Tensor> linear_act(Tensor x, Tensor w, std::optional<Tensor> b, StringHandle act_, double param,
                                      bool save) {
  std::string act = text_of(act_);
  const Type type = check("linear_act", kLayer, {&x, &w, if_any(b)});
  const Activation* a = activation(act);
  if (a == nullptr || torch_multiplies_faster()) {
    const Tensor z = linear(x, w, b);
    const Tensor saved = save && saves_input(act) ? z : empty(x, {0});
    if (act == "identity") return {z, saved};
    return {a ? call("fusegrad::act", z, std::optional<Tensor>(), act, param, int64_t(0))
              : act_by_reference("linear_act", z, std::nullopt, act, param, 0),
            saved};
  }
  const Rows rows(x);
  Gemm g = affine(type, rows, w, b);
  Tensor y = output(x, w), saved = save && a->saves_input ? output(x, w) : empty(x, {0});
  g.c = y.mutable_data_ptr();
  if (save && a->saves_input) g.saved = saved.mutable_data_ptr();
  if (act != "identity") g.activation = derivative(*a, 0, g.type);
  g.param = param;
  const Flush flush(g.activation != nullptr);
  kernels().gemm(g);
  return {y, saved};
}

// The arguments of gz_and_sum, of matrices; `room` holds a copy of s where its rows are not adjacent.
ElementwiseArgs pass_of(const Rows& gy, bool has_s, const Tensor& s, void* gz, std::optional<Rows>& room) {
  ElementwiseArgs args{gy.m, gy.k, nullptr, 0, gy.operand.data, gy.operand.row_stride, nullptr, 0};
  if (!has_s) return args;
  room = adjacent_rows(s);
  args.s = room->operand.data;
  args.s_row = room->operand.row_stride;
  args.out = gz;
  args.out_row = gy.k;
  return args;
}

// Of y = act(z), z = x w^T + b, with gz = gy act'(z): gx = gz w, gw = gz^T x, gb = sum of gz; empty if not needed.
std::tuple<Tensor, Tensor, Tensor> linear_act_backward(Tensor gy, Tensor x, Tensor w, Tensor s, StringHandle act_,
                                                       double param, bool need_x, bool need_w, bool need_b) {
  std::string act = text_of(act_);
  const Type type = check("linear_act_backward", "gy (..., n), x (..., k), w (n, k), s (..., n)", {&gy, &x, &w, &s});
  const Activation* a = activation(act);
  if (a == nullptr) {
    gy = act_by_reference("linear_act_backward", s, gy, act, param, 1);
    act = "identity";
  }
  const Flush flush(act != "identity");
  const Rows rows(x), given = adjacent_rows(gy);
  const int64_t m = rows.m, n = w.size(0), k = w.size(1);
  const bool by_torch = torch_multiplies_faster();
  Tensor gx = need_x && !by_torch ? empty(x, shape_of(x)) : empty(x, {0});
  Tensor gw = need_w && !by_torch ? empty(x, {n, k}) : empty(x, {0});
  Tensor gb = need_b ? empty(x, {n}) : empty(x, {0});
  const Elementwise f = act == "identity" ? nullptr : derivative(*a, 1, type);
  const Scratch room(kSlotOfGz, f && !by_torch ? bytes_of(m, n, size_of(type)) : 0);
  Tensor made = f && by_torch ? empty(x, {m, n}) : given.tensor;
  void* to = f && by_torch ? made.mutable_data_ptr() : room.data;
  std::optional<Rows> saved;
  if (f || need_b) {
    gz_and_sum(type, f, pass_of(given, f, s, to, saved), need_b ? gb.mutable_data_ptr() : nullptr, param);
  }
  if (by_torch) {
    const Tensor gz = torch::stable::reshape(made, {m, n});
    if (need_x) gx = torch::stable::reshape(call("aten::mm", gz, w), x.sizes());
    if (need_w) gw = call("aten::mm", torch::stable::transpose(gz, 0, 1), torch::stable::reshape(x, {m, k}));
    return {gx, gw, gb};
  }
  const Operand gz = f ? Operand{to, n, 1} : given.operand;
  if (need_x) kernels().gemm({type, m, k, n, gz, matrix(w, false), gx.mutable_data_ptr()});
  if (need_w) kernels().gemm({type, n, k, m, transposed(gz), rows.operand, gw.mutable_data_ptr()});
  return {gx, gw, gb};
}

// gz = gy act'(z) with gy = a b, and the sum of its rows; empty if not needed.
std::tuple<Tensor, Tensor> mm_dact(Tensor a, Tensor b, Tensor s, StringHandle act_, double param, bool need_sum) {
  std::string act = text_of(act_);
  const Type type = check("mm_dact", "a (m, k), b (k, n), s (m, n)", {&a, &b, &s});
  const Activation* known = activation(act);
  const Flush flush(act != "identity");
  Tensor gz = dense(mm(a, b, false, false));
  if (known == nullptr) {
    gz = dense(act_by_reference("mm_dact", s, gz, act, param, 1));
    act = "identity";
  }
  Tensor gb = need_sum ? empty(a, {s.size(1)}) : empty(a, {0});
  const Elementwise f = act == "identity" ? nullptr : derivative(*known, 1, type);
  std::optional<Rows> saved;
  if (f || need_sum) {
    gz_and_sum(type, f, pass_of(Rows(gz), f, s, gz.mutable_data_ptr(), saved),
               need_sum ? gb.mutable_data_ptr() : nullptr, param);
  }
  return {gz, gb};
}

STABLE_TORCH_LIBRARY_IMPL(fusegrad, CPU, m) {
  m.impl("mm", TORCH_BOX(&mm));
  m.impl("linear", TORCH_BOX(&linear));
  m.impl("linear_act", TORCH_BOX(&linear_act));
  m.impl("linear_act_backward", TORCH_BOX(&linear_act_backward));
  m.impl("mm_dact", TORCH_BOX(&mm_dact));
}

}  // namespace
}  // namespace fusegrad
