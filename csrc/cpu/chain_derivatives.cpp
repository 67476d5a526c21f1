#include "chain_operands.h"

namespace fusegrad {
namespace {

// The features of x, k of them, that m quadratic forms (k, k) are not zero of.
template <class S> std::vector<int64_t> features_of(const S* forms, int64_t m, int64_t k) {
  std::vector<bool> used(k);
  int64_t count = 0;
  for (int64_t row = 0; row < m && count < k; row++, forms += k * k)
    for (int64_t i = 0; i < k; i++)
      for (int64_t j = 0; j < k; j++)
        if (forms[i * k + j] != 0)
          for (const int64_t feature : {i, j}) {
            count += !used[feature];
            used[feature] = true;
          }
  std::vector<int64_t> found;
  for (int64_t i = 0; i < k; i++)
    if (used[i]) found.push_back(i);
  return found;
}

// y of a chain is there if it is what the last activation saves.
void check_y(const char* op, const std::vector<ChainLayer>& layers, const Tensor& x, const std::optional<Tensor>& y) {
  const ChainLayer& last = layers.back();
  Shape shape = shape_of(x);
  shape.back() = last.n;
  if (!last.value || last.saves_input) return;
  require(y.has_value(), op, ": y is absent; need what the last activation saves");
  require(shape_of(*y) == shape && y->scalar_type() == x.scalar_type(), op, ": y is ", described(*y), "; need ", last.n,
          " features of each row, of the dtype of x");
}

// Of <gy, y> + <gl, l>, l = D y[t] + sum_ij f_ij D^2 y[e_i, e_j]: l, and the gradients of x, w_1, b_1, ..., empty if
// not needed; `needed` has a bit for each, from the lowest on. Without gl that is ones, all else that is not there is
// zero. Cotangents are those that chain_slope made, if it did.
Tensors chain_derivatives(std::optional<Tensor> gy, std::optional<Tensor> t, std::optional<Tensor> f,
                          std::optional<Tensor> gl, Tensor x, Weights weights, std::optional<Tensor> y, Tensor saved,
                          std::optional<Tensor> cotangents, StringHandle acts_, int64_t needed) {
  constexpr const char* op = "chain_derivatives";
  std::string acts = text_of(acts_);
  const Type type = check(op, "x (..., k), saved (s)", {&x, &saved});
  require_wide(op, type, x);
  std::vector<ChainLayer> layers = layers_of(op, type, x, weights, acts);
  const Rows rows(x);
  const Tensor out = y ? dense(*y) : x;  // or what is not read
  const int64_t n = layers.back().n, k = rows.k, width = saved_width(layers);
  Shape of_x = shape_of(x), of_y = of_x, of_f = of_x;
  of_y.back() = n;
  of_f.push_back(k);
  require(saved.size(0) == rows.m * width, op, ": saved is ", described(saved), "; need ", rows.m * width, " numbers");
  saved = dense(saved);
  check_y(op, layers, x, y);
  std::vector<Rows> given;  // as long as they are read
  given.reserve(4);
  const auto operand = [&](const char* name, const std::optional<Tensor>& t, const Shape& shape) -> Operand {
    if (!t) return {nullptr, 0, 1};
    require(shape_of(*t) == shape && t->scalar_type() == x.scalar_type(), op, ": ", name, " is ", described(*t),
            " and x ", described(x), "; need gy (..., n), t (..., k), f (..., k, k), gl (..., n) of the dtype of x");
    given.emplace_back(*t);
    return given.back().operand;
  };
  Tensors found;
  const auto result = [&](int bit, const Shape& shape) -> void* {
    const bool is_needed = needed >> bit & 1;
    found.push_back(empty(x, is_needed ? shape : Shape{0}));
    return is_needed ? found.back().mutable_data_ptr() : nullptr;
  };
  Chain chain{type,
              rows.m,
              int(layers.size()),
              layers.data(),
              rows.operand,
              const_cast<void*>(out.const_data_ptr()),
              const_cast<void*>(saved.const_data_ptr())};
  const std::optional<Tensor> forms = f ? std::optional<Tensor>(dense(*f)) : std::nullopt;
  chain.gy = operand("gy", gy, of_y);
  ChainDerivatives args{chain, is_by_layers(chain), operand("t", t, of_x)};
  const void* data = operand("f", forms, of_f).data;
  args.gl = operand("gl", gl, of_y);
  if (cotangents) {
    const int64_t size = rows.m * (width - saved_of_last(layers.back()));
    require(!gl && n == 1 && cotangents->scalar_type() == x.scalar_type() && cotangents->dim() == 1 &&
                cotangents->size(0) == size && cotangents->is_contiguous(),
            op, ": cotangents are ", described(*cotangents), "; need ", size,
            " adjacent numbers, of y (..., 1), and no gl");
    args.cotangents = cotangents->const_data_ptr();
  }
  args.l = result(0, of_y);
  args.chain.gx = result(1, of_x);
  for (size_t i = 0; i < layers.size(); i++) {
    layers[i].gw = result(int(2 + 2 * i), {layers[i].n, layers[i].k});
    layers[i].gb = result(int(3 + 2 * i), {layers[i].n});
  }
  std::vector<int64_t> features;
  if (data != nullptr) {
    const int64_t m = rows.m;
    features = type == Type::f64 ? features_of(static_cast<const double*>(data), m, k)
                                 : features_of(static_cast<const float*>(data), m, k);
  }
  args.r = int64_t(features.size());
  std::vector<char> unit(args.r * k * size_of(type));
  for (int64_t i = 0; i < args.r; i++) {
    const int64_t one = i * k + features[i];
    if (type == Type::f64)
      reinterpret_cast<double*>(unit.data())[one] = 1;
    else
      reinterpret_cast<float*>(unit.data())[one] = 1;
  }
  args.features = features.data();
  args.unit = unit.data();
  args.forms = data;
  const Flush flush;
  kernels().chain_derivatives(args);
  return found;
}

// gx = c dy/dx of y (..., 1), and the cotangents that chain_derivatives reads, none where `saved` is by rows.
std::tuple<Tensor, Tensor> chain_slope(Tensor c, Tensor x, Weights weights, std::optional<Tensor> y, Tensor saved,
                                       StringHandle acts_) {
  constexpr const char* op = "chain_slope";
  std::string acts = text_of(acts_);
  const Type type = check(op, "x (..., k), saved (s), c (..., n)", {&x, &saved, &c});
  require_wide(op, type, x);
  const std::vector<ChainLayer> layers = layers_of(op, type, x, weights, acts);
  const Rows rows(x), given = adjacent_rows(c);
  const int64_t width = saved_width(layers);
  Shape of_y = shape_of(x);
  of_y.back() = 1;
  require(layers.back().n == 1 && shape_of(c) == of_y && saved.size(0) == rows.m * width, op, ": c is ", described(c),
          " and saved ", described(saved), "; need one number of each row, and ", rows.m * width, " numbers");
  saved = dense(saved);
  check_y(op, layers, x, y);
  const Tensor out = y ? dense(*y) : x;  // or what is not read
  Tensor gx = empty(x, shape_of(x));
  const Chain chain{type,
                    rows.m,
                    int(layers.size()),
                    layers.data(),
                    rows.operand,
                    const_cast<void*>(out.const_data_ptr()),
                    const_cast<void*>(saved.const_data_ptr()),
                    given.operand,
                    gx.mutable_data_ptr()};
  const Flush flush;
  if (is_by_layers(chain)) {
    chain_backward_by_layers(chain);
    return {gx, empty(x, {0})};
  }
  Tensor cotangents = empty(x, {rows.m * (width - saved_of_last(layers.back()))});
  kernels().chain_slope(chain, cotangents.mutable_data_ptr());
  return {gx, cotangents};
}

STABLE_TORCH_LIBRARY_IMPL(fusegrad, CPU, m) {
  m.impl("chain_derivatives", TORCH_BOX(&chain_derivatives));
  m.impl("chain_slope", TORCH_BOX(&chain_slope));
}

}  // namespace
}  // namespace fusegrad
