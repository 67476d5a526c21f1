// What the nodes of autograd (csrc/autograd) call of the kernels with no dispatcher between: plain pointers and sizes,
// checked by who calls. The nodes are a shared object of their own, so they are given this as a table.
#pragma once

#include <stdint.h>

#include <string>

namespace fusegrad::direct {

constexpr int kMostLayers = 30;

struct Matrix {
  const void* data;
  int64_t row_stride, column_stride;  // in elements
};

struct Layer {  // act(x w^T + b), and its gradients
  int64_t n, k;
  Matrix w;
  const void* b = nullptr;
  int64_t b_stride = 1;
  void *gw = nullptr, *gb = nullptr;  // of adjacent numbers; nullptr if not needed
  bool gw_by_columns = false;         // as gw^T, (k, n); of chains by layers
};

// A chain as csrc/cpu/kernels.h has it: forward, and backward.
struct Chain {
  int8_t dtype;  // by torch's number
  int64_t m;
  int count;
  Layer* layers;
  const std::string* acts;
  Matrix x;
  void *y, *saved;
  bool by_layers = false;  // for certain: so that z and y of a layer are saved as they are
  Matrix gy = {};
  void* gx = nullptr;
  bool recomputes = false;
};

// g D_order(s) of n adjacent numbers; without g, nullptr, D_order(s).
struct Act {
  int8_t dtype;
  int64_t n;
  const std::string* name;
  double param;
  int64_t order;
  const void *s, *g;
  void* out;
};

// Of y = g D_order(s) along gy: gs = gy g D_{order+1}(s), gg = gy D_order(s), y itself; nullptr if not needed.
struct ActVjp {
  int8_t dtype;
  int64_t n;
  const std::string* name;
  double param;
  int64_t order;
  const void *gy, *s, *g;
  void* out[3];
};

// By which another build is seen.
constexpr int64_t kLayout = ((sizeof(Layer) << 16 | sizeof(Chain)) << 16 | sizeof(Act)) << 8 | sizeof(ActVjp);

struct Table {
  int64_t layout;
  // Numbers of a row that layers save; -1 where there is no kernel of one of the activations, or torch multiplies.
  int64_t (*saved_width)(const Chain&);
  void (*chain)(const Chain&);
  void (*chain_backward)(const Chain&);
  bool (*act)(const Act&);  // false where there is no kernel of it
  bool (*act_vjp)(const ActVjp&);
};

extern const Table kTable;

}  // namespace fusegrad::direct
