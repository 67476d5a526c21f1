// Programs of tensors with streams (program.h), as the op is given them.
#include <sstream>

#include "streams_operands.h"

namespace fusegrad {
namespace {

// A program in a text, as in "layer 0 0,act 1 tanh 0.0,mul 2 2": of each step its kind, the registers that it reads,
// and
//
//     layer a l          register a, through layer l
//     act a name param   an activation of it
//     add a b   sub a b   mul a b   cat a b
//     affine a alpha beta     alpha a + beta
//     scale a l          times the bias of layer l, which has no weight: a number, or one for each feature
//     shift a l          plus such a bias
//     take a from by n   n features of a: from, from + by, ...
constexpr int64_t kMostTaken = 1 << 20;
struct Read {
  std::vector<ChainLayer> layers;
  std::vector<ProgramStep> steps;
  std::vector<int64_t> widths;
  const bool taylor;

  Read(const char* op, Type type, const Tensor& x, const Weights& weights, const std::string& text, bool taylor)
      : taylor(taylor) {
    widths.push_back(x.size(x.dim() - 1));
    const size_t count = weights.size() / 2;
    require(weights.size() % 2 == 0 && count > 0 && count <= kMostLayers, op, ": ", weights.size(),
            " weights; need w and b of each of 1 to ", kMostLayers, " layers");
    for (size_t l = 0; l < count; l++) read_layer(op, x, if_any(weights[2 * l]), if_any(weights[2 * l + 1]));
    std::istringstream all(text);
    all.imbue(std::locale::classic());
    for (std::string one; std::getline(all, one, ',');) {
      std::istringstream from(one);
      from.imbue(std::locale::classic());
      const bool right = read_step(op, type, from) && steps.size() <= size_t(kMostSteps);
      require(right, op, ": step ", steps.size(), " of '", text, "' is none, or does not fit");
    }
    require(!steps.empty(), op, ": no steps in '", text, "'");
  }

  void read_layer(const char* op, const Tensor& x, const Tensor* w, const Tensor* b) {
    for (const Tensor* t : {w, b})
      require(!t || (t->const_data_ptr() != nullptr && t->scalar_type() == x.scalar_type()), op, ": layer ",
              layers.size(), " has no numbers in w or b, or not those of the dtype of x");
    ChainLayer layer{0, b && b->dim() == 1 ? b->size(0) : 1, {nullptr, 1, 1}};
    if (w) {
      require(w->dim() == 2 && w->size(0) > 0 && w->size(1) > 0, op, ": w is ", described(*w), "; need (n, k)");
      layer = {w->size(1), w->size(0), matrix(*w, false)};
    }
    require((w || b) && (!b || (b->dim() == 1 && b->size(0) == layer.n)), op, ": layer ", layers.size(),
            " has a bias that does not fit its weight");
    if (b) {
      layer.bias = b->const_data_ptr();
      layer.bias_stride = b->stride(0);
    }
    layers.push_back(layer);
  }

  bool read_step(const char* op, Type type, std::istream& from) {
    static const std::pair<const char*, Step> kinds[] = {
        {"layer", Step::layer}, {"act", Step::act},       {"add", Step::add},     {"sub", Step::sub},
        {"mul", Step::mul},     {"affine", Step::affine}, {"scale", Step::scale}, {"shift", Step::shift},
        {"cat", Step::cat},     {"take", Step::take}};
    std::string name;
    ProgramStep s{};
    if (!(from >> name >> s.a) || s.a < 0 || s.a >= int(widths.size())) return false;
    const auto kind = std::find_if(std::begin(kinds), std::end(kinds), [&](const auto& k) { return name == k.first; });
    if (kind == std::end(kinds)) return false;
    s.kind = kind->second;
    s.b = s.a;
    int64_t width = widths[s.a];
    switch (s.kind) {
      case Step::act: {
        std::string act;
        if (!(from >> act >> s.param)) return false;
        const Activation* a = activation(act);
        require(a != nullptr, op, ": no kernel of act '", act, "'");
        s.streams = type == Type::f64 ? a->streams_float64 : a->streams_float32;
        if (taylor) s.streams = type == Type::f64 ? a->taylor_float64 : a->taylor_float32;
        s.saves_input = a->saves_input;
        break;
      }
      case Step::affine:
        if (!(from >> s.alpha >> s.beta)) return false;
        break;
      case Step::layer:
      case Step::scale:
      case Step::shift: {
        if (!(from >> s.layer) || s.layer < 0 || s.layer >= int(layers.size())) return false;
        const ChainLayer& layer = layers[s.layer];
        if (layer.k != (s.kind == Step::layer ? width : 0)) return false;
        if (s.kind == Step::layer) width = layer.n;
        if (layer.n != width && layer.n != 1) return false;
        break;
      }
      case Step::take: {
        int64_t n = 0;
        if (!(from >> s.from >> s.by >> n) || n < 1 || n > kMostTaken || std::abs(s.by) > width) return false;
        const int64_t last = s.from + s.by * (n - 1);
        if (s.from < 0 || s.from >= width || last < 0 || last >= width) return false;
        width = n;
        break;
      }
      default:
        if (!(from >> s.b) || s.b < 0 || s.b >= int(widths.size())) return false;
        if (s.kind != Step::cat && widths[s.b] != width) return false;
        if (s.kind == Step::cat) width += widths[s.b];
    }
    steps.push_back(s);
    widths.push_back(width);
    return true;
  }

  int64_t saved(int64_t m, int64_t r) const {
    int64_t size = 0;
    for (const ChainLayer& layer : layers) size += layer.k > 0 ? roomy(layer.n) : 0;
    return size * m * (r + 2);
  }
  Program of(const ChainStreams& h) const { return {h, int(steps.size()), steps.data(), widths.data(), taylor}; }
};

// Of the streams of a Laplacian, or where kOfTaylor of those along one direction, as of a chain.
template <bool kOfTaylor> std::tuple<Tensor, Tensor, Tensor, Tensor> program_streams(Tensor x, Tensor t, Maybe l,
                                                                                     Weights weights,
                                                                                     StringHandle steps, bool save) {
  constexpr const char* op = kOfTaylor ? "program_taylor" : "program_streams";
  const Type type = check(op, "x (..., k)", {&x});
  require_wide(op, type, x);
  const Rows rows(x);
  const GivenStreams given(op, x, rows, t, l, kOfTaylor);
  const Read read(op, type, x, weights, text_of(steps), kOfTaylor && need_taylor(given.r));
  Shape shape = shape_of(x);
  shape.back() = read.widths.back();
  Tensor y = empty(x, shape), of_t = empty(x, along(given.r, shape)), of_l = empty(x, along(1, shape)),
         saved = empty(x, {save ? read.saved(rows.m, given.r) : 0});
  ChainStreams args = given.args({type, rows.m, int(read.layers.size()), read.layers.data(), rows.operand,
                                  y.mutable_data_ptr(), save ? saved.mutable_data_ptr() : nullptr});
  args.ty = of_t.mutable_data_ptr();
  args.ly = of_l.mutable_data_ptr();
  const Flush flush;
  kernels().program(read.of(args));
  return {y, of_t, of_l, saved};
}

// gx, gt, gl, and gw and gb of each layer, as those of a chain.
template <bool kOfTaylor> Tensors program_streams_backward(Maybe gy, Maybe gty, Maybe gly, Tensor x, Tensor t, Maybe l,
                                                           Weights weights, Tensor saved, StringHandle steps,
                                                           int64_t needed) {
  constexpr const char* op = kOfTaylor ? "program_taylor_backward" : "program_streams_backward";
  const Type type = check(op, "x (..., k), saved (s)", {&x, &saved});
  require_wide(op, type, x);
  const Rows rows(x);
  const GivenStreams given(op, x, rows, t, l, kOfTaylor);
  Read read(op, type, x, weights, text_of(steps), kOfTaylor && need_taylor(given.r));
  require(saved.size(0) == read.saved(rows.m, given.r), op, ": saved is ", described(saved), "; need ",
          read.saved(rows.m, given.r), " numbers");
  saved = dense(saved);
  return streams_gradients(op, {gy, gty, gly}, x, given, rows, read.layers, saved, read.widths.back(), type, needed,
                           [&](const ChainStreams& args) { kernels().program_backward(read.of(args)); });
}

STABLE_TORCH_LIBRARY_IMPL(fusegrad, CPU, m) {
  m.impl("program_streams", TORCH_BOX(&program_streams<false>));
  m.impl("program_streams_backward", TORCH_BOX(&program_streams_backward<false>));
  m.impl("program_taylor", TORCH_BOX(&program_streams<true>));
  m.impl("program_taylor_backward", TORCH_BOX(&program_streams_backward<true>));
}

}  // namespace
}  // namespace fusegrad
