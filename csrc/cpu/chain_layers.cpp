// A chain layer by layer: few rows, for which weights are not worth packing, and layers that do not stay in cache.
#include <algorithm>

#include "capability.h"
#include "layers.h"

namespace fusegrad {
namespace {

// Rows that are always few, and few for weights that take long to pack; widths from which on they do, from which on a
// panel need not be full, and which do not stay in cache (a Zen 3, 2026-11-26).
constexpr int64_t kFewRows = 8, kFewForWeights = 127, kLongToPack = 97, kNeedsFewer = 257, kWide = 513;
// On Intel rows are few up to here where widths need fewer: a step of 300 rows, 440 wide, takes 0.89 of the time that
// panels take, 0.78 in float64 (Emerald Rapids, 2026-11-28).
constexpr int64_t kFewOnIntel = 512;
// of a first layer, whose x takes longer to turn into panels than dot products of its rows
constexpr int64_t kFewColumns = 3, kLongSums = 64;
constexpr int64_t kManyResults = 48;  // beyond those for which a last layer's panels, which are turned back, pay
constexpr int64_t kGrain = 1 << 14;   // numbers for which a thread is worth while

int64_t widest_of(const Chain& g) {
  int64_t widest = 0;
  for (int l = 0; l < g.count; l++) widest = std::max(widest, g.layers[l].n);
  return widest;
}

// Room for matrices of the chain's rows, as wide as its widest layer.
class Room {
 public:
  Room(const Chain& g, int count)
      : bytes_(g.m * widest_of(g) * size_of(g.type)), room_(kSlotOfLayers, count * bytes_) {}
  void* operator[](int i) const { return at(room_.data, i * bytes_); }

 private:
  int64_t bytes_;
  Scratch room_;
};

// Where what layer l saves lies.
void* saved(const Chain& g, int l) {
  int64_t before = 0;
  for (int i = 0; i < l; i++) before += g.layers[i].n;
  return at(g.saved, before * g.m * size_of(g.type));
}

bool saves_z(const ChainLayer& layer) { return layer.value && layer.saves_input; }

void activate(const Chain& g, const ChainLayer& layer, const void* z, void* y) {
  const int64_t count = g.m * layer.n, size = size_of(g.type);
  parallel(count, kGrain, [&](int64_t i, int64_t end) {
    kernels().act(g.type, layer.value, {1, end - i, at(z, i * size), 0, nullptr, 0, at(y, i * size), 0}, layer.param);
  });
}

Operand turned(const Operand& o) { return {o.data, o.column_stride, o.row_stride}; }

}  // namespace

bool is_by_layers(const Chain& g) {
  const int64_t widest = widest_of(g), panel = kernels().panel_bytes / size_of(g.type);
  if (g.m <= kFewRows || widest >= kWide || size_of(g.type) == 2) return true;
  const ChainLayer &first = g.layers[0], &last = g.layers[g.count - 1];
  if ((first.n <= kFewColumns && first.k >= kLongSums) || last.n >= kManyResults + 2 * last.k) return true;
  const int64_t few = widest >= kNeedsFewer && is_intel() ? kFewOnIntel : kFewForWeights;
  if (widest < kLongToPack || g.m > few) return false;
  const int64_t rows = (g.m + panel - 1) / panel * panel;  // with those that a panel lacks
  return widest >= kNeedsFewer || 16 * g.m < 15 * rows;
}

void chain_by_layers(const Chain& g) {
  const Room room(g, 2);
  Operand in = g.x;
  for (int l = 0; l < g.count; l++) {
    const ChainLayer& layer = g.layers[l];
    const bool ends = l == g.count - 1;
    void* y = ends ? g.y : g.saved && !saves_z(layer) ? saved(g, l) : room[l % 2];
    Gemm product{g.type, g.m, layer.n, layer.k, in, turned(layer.w), y, layer.bias, layer.bias_stride};
    product.activation = layer.value;
    product.param = layer.param;
    if (g.saved && saves_z(layer)) product.saved = saved(g, l);
    kernels().gemm(product);
    in = {y, layer.n, 1};
  }
}

void chain_backward_by_layers(const Chain& given) {
  Chain g = given;
  const ChainLayer& last = g.layers[g.count - 1];
  int64_t width = last.n;  // of y
  for (int l = 0; l < g.count; l++) width += g.layers[l].n;
  const Scratch made(kSlotOfMade, g.recomputes ? g.m * width * size_of(g.type) : 0);
  if (g.recomputes) {
    g.y = made.data;
    g.saved = at(made.data, g.m * last.n * size_of(g.type));
    chain_by_layers(g);
  }
  const Room room(g, 3);  // gradients of two layers, the input of one
  const auto input = [&](int l) -> Operand {
    if (l == 0) return g.x;
    const ChainLayer& before = g.layers[l - 1];
    if (!saves_z(before)) return {saved(g, l - 1), before.n, 1};
    activate(g, before, saved(g, l - 1), room[2]);
    return {room[2], before.n, 1};
  };
  int first = 0;  // the first layer whose gradients are needed, or that of x
  while (!g.gx && first < g.count && !g.layers[first].gw && !g.layers[first].gb) first++;
  Operand gz = g.gy;
  for (int l = g.count - 1; l >= first; l--) {
    const ChainLayer& layer = g.layers[l];
    const bool ends = l == g.count - 1;
    ElementwiseArgs pass{g.m, layer.n, nullptr, 0, gz.data, gz.row_stride, nullptr, 0};
    if (layer.first) {
      pass.s = ends && !layer.saves_input ? g.y : saved(g, l);
      pass.s_row = pass.out_row = layer.n;
      pass.out = room[l % 2];
    }
    if (layer.first || layer.gb) gz_and_sum(g.type, layer.first, pass, layer.gb, layer.param);
    if (layer.first) gz = {pass.out, layer.n, 1};
    if (layer.gw && layer.gw_by_columns)
      kernels().gemm({g.type, layer.k, layer.n, g.m, turned(input(l)), gz, layer.gw});
    else if (layer.gw)
      kernels().gemm({g.type, layer.n, layer.k, g.m, turned(gz), input(l), layer.gw});
    if (l == first && !(l == 0 && g.gx)) return;
    void* gy = l > 0 ? room[(l - 1) % 2] : g.gx;
    kernels().gemm({g.type, g.m, layer.k, layer.n, gz, layer.w, gy});
    gz = {gy, layer.k, 1};
  }
}

}  // namespace fusegrad
