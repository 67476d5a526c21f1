// Functions of each element of tensors with streams that are tensors of their own: activations, and products.
#include <algorithm>
#include <cstring>

#include "streams_operands.h"

namespace fusegrad {
namespace {

constexpr int64_t kGrain = 1 << 12;         // numbers of each stream: fewer are not worth a second thread
constexpr int64_t kPanelsOfBlock = 4;       // of each stream, at a time
constexpr int64_t kDirectionsOfBlock = 16;  // of more it is one panel

// A value x (...), its tangents (r, ...) and its last stream (1, ...), as they are read: all of them of one dtype.
struct Streams {
  int64_t r = 0, count;
  std::optional<Tensor> kept[3];
  StreamsAt at;

  Streams(const char* op, const Tensor& like, const Maybe& value, const Maybe& tangents, const Maybe& last)
      : count(like.numel()) {
    const Maybe* given[3] = {&value, &tangents, &last};
    void** to[3] = {&at.value, &at.tangents, &at.last};
    for (int i = 0; i < 3; i++) {
      if (!*given[i]) continue;
      const Tensor& t = **given[i];
      Shape shape = shape_of(like);
      if (i > 0) shape.insert(shape.begin(), i == 1 && t.dim() > 0 ? t.size(0) : 1);
      require(shape_of(t) == shape && t.scalar_type() == like.scalar_type(), op, ": a stream is ", described(t),
              " of a tensor that is ", described(like), "; need (r, ...) or (1, ...), of its dtype");
      kept[i] = dense(t);
      *to[i] = const_cast<void*>(kept[i]->const_data_ptr());
    }
    if (tangents) r = tangents->size(0);
    at.step = count;
  }
};

// Streams to be made, of which `needed` has a bit for each; those that are not are empty.
struct Made {
  Tensors tensors;
  StreamsAt at;

  Made(const Tensor& like, int64_t r, int64_t needed) {
    void** to[3] = {&at.value, &at.tangents, &at.last};
    for (int i = 0; i < 3; i++) {
      Shape shape = shape_of(like);
      if (i > 0) shape.insert(shape.begin(), i == 1 ? r : 1);
      const bool is_needed = needed >> i & 1;
      tensors.push_back(empty(like, is_needed ? shape : Shape{0}));
      if (is_needed) *to[i] = tensors[i].mutable_data_ptr();
    }
    at.step = like.numel();
  }
};

StreamsAt moved(const StreamsAt& of, int64_t bytes) {
  return {at(of.value, bytes), at(of.tangents, bytes), at(of.last, bytes), of.step};
}

Type type_of(const char* op, const Tensor& x) {
  const Type type = check(op, "x (...)", {&x});
  require(type == Type::f32 || type == Type::f64, op, ": x is ", described(x), "; need float32 or float64");
  return type;
}

// --- activations -----------------------------------------------------------------------------------------------------

// An activation of tensors, by blocks of whole panels, as those of a chain are (jets.h).
struct Map {
  Type type;
  const Activation& a;
  double param;
  int64_t count, r;
  bool of_taylor;

  int64_t block() const {
    const int64_t panel = kernels().panel_bytes / size_of(type);
    return panel * (r > kDirectionsOfBlock ? 1 : kPanelsOfBlock);
  }
  const OfStreams* streams() const {
    if (of_taylor && need_taylor(r)) return type == Type::f64 ? a.taylor_float64 : a.taylor_float32;
    return type == Type::f64 ? a.streams_float64 : a.streams_float32;
  }

  // Between tensors and a block of n numbers of each stream, zeros where there is none.
  void read(const StreamsAt& from, int64_t n, char* to) const {
    const int64_t size = size_of(type), step = block() * size;
    const auto row = [&](const void* data) {
      if (data) std::memcpy(to, data, n * size);
      std::memset(to + (data ? n * size : 0), 0, step - (data ? n * size : 0));
      to += step;
    };
    row(from.value);
    for (int64_t i = 0; i < r; i++) row(fusegrad::at(from.tangents, i * from.step * size));
    row(from.last);
  }
  void write(const char* from, int64_t n, const StreamsAt& to) const {
    const int64_t size = size_of(type), step = block() * size;
    if (to.value) std::memcpy(to.value, from, n * size);
    for (int64_t i = 0; to.tangents && i < r; i++)
      std::memcpy(fusegrad::at(to.tangents, i * to.step * size), from + (1 + i) * step, n * size);
    if (to.last) std::memcpy(to.last, from + (1 + r) * step, n * size);
  }

  template <class Body> void by_blocks(int64_t rooms, const Body& body) const {
    const int64_t size = size_of(type), width = block(), bytes = (r + 2) * width * size;
    parallel(count, kGrain, [&](int64_t i, int64_t end) {
      const Scratch room(kSlotOfLayers, rooms * bytes);
      for (; i < end; i += width)
        body(i * size, std::min(width, end - i), static_cast<char*>(room.data), static_cast<char*>(room.data) + bytes);
    });
  }
  void forward(const StreamsAt& from, const StreamsAt& to) const {
    by_blocks(1, [&](int64_t bytes, int64_t n, char* in, char*) {
      read(moved(from, bytes), n, in);
      streams()[0]({block(), block(), r, in, in, nullptr, nullptr}, param);
      write(in, n, moved(to, bytes));
    });
  }
  void backward(const StreamsAt& z, const StreamsAt& c, const StreamsAt& to) const {
    by_blocks(2, [&](int64_t bytes, int64_t n, char* in, char* cotangents) {
      read(moved(z, bytes), n, in);
      read(moved(c, bytes), n, cotangents);
      if (!a.saves_input) derivative(a, 0, type)({1, block(), in, 0, nullptr, 0, in, 0}, param);
      streams()[1]({block(), block(), r, in, nullptr, nullptr, cotangents}, param);
      write(cotangents, n, moved(to, bytes));
    });
  }
};

void require_few(const char* op, const Tensor& t) {
  require(t.size(0) <= kMostOfTaylor, op, ": t is ", described(t), "; need up to ", kMostOfTaylor, " derivatives");
}

const Activation& known(const char* op, const std::string& name) {
  const Activation* a = activation(name);
  require(a != nullptr, op, ": no kernel of act '", name, "'");
  return *a;
}

// Of z (...), t (r, ...) and l (1, ...), zero if there is none: streams of a Laplacian, or along one direction.
template <bool kOfTaylor>
std::tuple<Tensor, Tensor, Tensor> act_streams(Tensor z, Tensor t, Maybe l, StringHandle act_, double param) {
  constexpr const char* op = kOfTaylor ? "act_taylor" : "act_streams";
  const std::string act = text_of(act_);
  const Type type = type_of(op, z);
  const Streams from(op, z, z, t, l);
  if (kOfTaylor) require_few(op, t);
  const Made made(z, from.r, 7);
  const Flush flush;
  Map{type, known(op, act), param, z.numel(), from.r, kOfTaylor}.forward(from.at, made.at);
  return {made.tensors[0], made.tensors[1], made.tensors[2]};
}

// Gradients of z, t, l, empty if not needed; `needed` has a bit for each. Cotangents that are not there are zero.
template <bool kOfTaylor> Tensors act_streams_backward(Maybe gy, Maybe gt, Maybe gl, Tensor z, Tensor t, Maybe l,
                                                       StringHandle act_, double param, int64_t needed) {
  constexpr const char* op = kOfTaylor ? "act_taylor_backward" : "act_streams_backward";
  const std::string act = text_of(act_);
  const Type type = type_of(op, z);
  const Streams from(op, z, z, t, l), c(op, z, gy, gt, gl);
  require(!gt || c.r == from.r, op, ": gt is ", described(*gt), "; need ", from.r, " directions");
  if (kOfTaylor) require_few(op, t);
  const Made made(z, from.r, needed);
  const Flush flush;
  Map{type, known(op, act), param, z.numel(), from.r, kOfTaylor}.backward(from.at, c.at, made.at);
  return made.tensors;
}

// --- products --------------------------------------------------------------------------------------------------------

// Two tensors of which one may have size 1 where the other has n: m rows, in which that is one number for all.
struct Sizes {
  int64_t m = 1, n = 1;
  bool one_a = false, one_b = false;
  Shape of_y;

  Sizes(const char* op, const Tensor& a, const Tensor& b) {
    const int64_t dim = a.dim();
    bool fits = dim == b.dim() && a.scalar_type() == b.scalar_type();
    for (int64_t i = 0; fits && i + 1 < dim; i++) fits = a.size(i) == b.size(i);
    const int64_t of_a = fits && dim ? a.size(dim - 1) : 1, of_b = fits && dim ? b.size(dim - 1) : 1;
    require(fits && (of_a == of_b || of_a == 1 || of_b == 1), op, ": a is ", described(a), ", b is ", described(b),
            "; need shapes that differ in the last size alone, where one is 1, of one dtype");
    one_a = of_a != of_b && of_a == 1;
    one_b = of_a != of_b && of_b == 1;
    of_y = shape_of(one_a ? b : a);
    if (one_a || one_b) n = std::max(of_a, of_b);
    if (std::min(of_a, of_b) == 0) n = 0;
    m = a.numel() / (one_a || of_a == 0 ? 1 : n);
    if (n == 0) m = 0;
    if (!one_a && !one_b) {  // all numbers are one row
      n = m * n;
      m = n > 0;
    }
  }

  // Calls body with so many numbers, and where they begin in a, in b, and in what is as large as the larger of both.
  template <class Body> void for_parts(const Body& body) const {
    const int64_t parts = (n + kMostOfProduct - 1) / kMostOfProduct;
    parallel(m * parts, kGrain / std::max<int64_t>(1, std::min(n, kMostOfProduct)) + 1, [&](int64_t part, int64_t end) {
      for (; part < end; part++) {
        const int64_t row = part / parts, j = part % parts * kMostOfProduct, at = row * n + j;
        body(std::min(kMostOfProduct, n - j), one_a ? row : at, one_b ? row : at, at);
      }
    });
  }
};

std::tuple<Tensor, Tensor, Tensor> multiply_streams(Tensor a, Maybe ta, Maybe la, Tensor b, Maybe tb, Maybe lb) {
  constexpr const char* op = "multiply_streams";
  const Type type = type_of(op, a);
  const Sizes sizes(op, a, b);
  const Streams of_a(op, a, a, ta, la), of_b(op, b, b, tb, lb);
  const int64_t r = std::max(of_a.r, of_b.r), size = size_of(type);
  require(r > 0 && (!ta || of_a.r == r) && (!tb || of_b.r == r), op, ": ", of_a.r, " and ", of_b.r,
          " directions; need the same of both");
  const Made made(sizes.one_a ? b : a, r, 7);
  const OfProduct f = kernels().product_of_streams(type, false, sizes.one_a, sizes.one_b);
  sizes.for_parts([&](int64_t n, int64_t i, int64_t j, int64_t to) {
    f({n, r, moved(of_a.at, i * size), moved(of_b.at, j * size), {}, moved(made.at, to * size)});
  });
  return {made.tensors[0], made.tensors[1], made.tensors[2]};
}

// Gradients of a, ta, la, b, tb, lb, empty if not needed; `needed` has a bit for each.
Tensors multiply_streams_backward(Maybe gy, Maybe gt, Maybe gl, Tensor a, Maybe ta, Maybe la, Tensor b, Maybe tb,
                                  Maybe lb, int64_t needed) {
  constexpr const char* op = "multiply_streams_backward";
  const Type type = type_of(op, a);
  const Sizes sizes(op, a, b);
  const Streams of_a(op, a, a, ta, la), of_b(op, b, b, tb, lb), c(op, sizes.one_a ? b : a, gy, gt, gl);
  const int64_t r = std::max(of_a.r, of_b.r), size = size_of(type);
  require(!gt || c.r == r, op, ": gt is ", described(*gt), "; need ", r, " directions");
  const Made to_a(a, r, needed & 7), to_b(b, r, needed >> 3);
  const auto differentiate = [&](bool one, bool other, const Made& to, const Streams& by, bool of_first) {
    const OfProduct f = kernels().product_of_streams(type, true, one, other);
    for (const Tensor& t : to.tensors)
      if (one && t.numel() > 0) std::memset(const_cast<void*>(t.const_data_ptr()), 0, t.numel() * size);
    sizes.for_parts([&](int64_t n, int64_t i, int64_t j, int64_t at) {
      const int64_t mine = of_first ? i : j, its = of_first ? j : i;
      f({n, r, {}, moved(by.at, its * size), moved(c.at, at * size), moved(to.at, mine * size)});
    });
  };
  if (needed & 7) differentiate(sizes.one_a, sizes.one_b, to_a, of_b, true);
  if (needed >> 3) differentiate(sizes.one_b, sizes.one_a, to_b, of_a, false);
  Tensors found = to_a.tensors;
  found.insert(found.end(), to_b.tensors.begin(), to_b.tensors.end());
  return found;
}

STABLE_TORCH_LIBRARY_IMPL(fusegrad, CPU, m) {
  m.impl("act_streams", TORCH_BOX(&act_streams<false>));
  m.impl("act_streams_backward", TORCH_BOX(&act_streams_backward<false>));
  m.impl("act_taylor", TORCH_BOX(&act_streams<true>));
  m.impl("act_taylor_backward", TORCH_BOX(&act_streams_backward<true>));
  m.impl("multiply_streams", TORCH_BOX(&multiply_streams));
  m.impl("multiply_streams_backward", TORCH_BOX(&multiply_streams_backward));
}

}  // namespace
}  // namespace fusegrad
