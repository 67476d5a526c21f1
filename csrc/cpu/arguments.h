// What the kernels of an instruction set work on: plain pointers and sizes, nothing of torch.
#pragma once

#include <stdint.h>

namespace fusegrad {

enum class Type { f32, f64, bf16, f16 };

constexpr int64_t size_of(Type t) { return t == Type::f64 ? 8 : t == Type::f32 ? 4 : 2; }

// What an elementwise kernel works on: rows of n adjacent numbers, with what lies between the starts of rows, in
// numbers.
struct ElementwiseArgs {
  int64_t rows, n;
  const void* s;
  int64_t s_row;
  const void* g;  // nullptr stands for ones
  int64_t g_row;
  void* out;  // may be s or g
  int64_t out_row;
};

// out = order 0: act(s); else g D_order(s). All three are float32 or all float64.
using Elementwise = void (*)(const ElementwiseArgs&, double param);

constexpr int kOrders = 6;  // 0 to 5

// What a derivative of y = g D_order(s) works on: rows as above, but those of the outputs follow one another.
//
//            in              out, nullptr if not needed
// backward   gy, s, g        gs = gy g D_{order+1}(s), gg = gy D_order(s), y
// jvp        ts, tg, s, g    ty = ts g D_{order+1}(s) + tg D_order(s), y
struct DerivativeArgs {
  int64_t rows, n;
  int ins, outs;
  const void* in[4];
  int64_t row[4];  // of each
  void* out[3];
};

// The same for one row of whole vectors, all float32 or all float64; out[i] may be in[i].
using Derivative = void (*)(const void* const in[], void* const out[], int64_t n, double param);

constexpr int kDerivativeOrders = 2;  // 1 and 2, as they need the derivative above

// What an activation does to streams (ChainStreams): n numbers of each, whole panels of them, with `step` from one
// stream to the next.
//
// forward    out = y, t_i, l of in = z, tz_i, lz; may be the same. y to `saved` too, if it is not nullptr.
// backward   cotangents, in place, of in = s, tz_i, lz, s what the activation saves; out = y, t_i, l, if not nullptr.
struct StreamsPass {
  int64_t n, step, r;
  const void* in;
  void *out, *saved, *cotangents;
};
using OfStreams = void (*)(const StreamsPass&, double param);

// What it does to streams t_1, ..., t_r and l that quadratic forms f, symmetric, (r, r) for each row of a panel, go
// with (ChainDerivatives), where s is what it saves.
//
// forward    out = t_i, l of in = tz_i, lz, where there is room for y before them.
// backward   cotangents of y, t_i, l, in place, but that of l is read from of_l; out = y, t_i, l, if not nullptr.
struct FormsPass {
  int64_t n, step, r;
  const void *s, *in;
  void *out, *cotangents;
  const void *of_l, *forms;
};
using OfForms = void (*)(const FormsPass&, double param);

// y = act(z), and g becomes g act'(z), of n numbers that are whole vectors, in one pass.
using Remade = void (*)(int64_t n, const void* z, void* g, void* y, double param);

struct Activation {
  const char* name;
  bool saves_input;  // for backward; else its output
  Elementwise float32[kOrders], float64[kOrders];
  Elementwise bfloat16[2], float16[2];  // orders 0 and 1 of rows of these types; nullptr if there are none
  Derivative backward_float32[kDerivativeOrders], backward_float64[kDerivativeOrders];
  Derivative jvp_float32[kDerivativeOrders], jvp_float64[kDerivativeOrders];
  OfStreams streams_float32[2], streams_float64[2];  // forward, backward
  OfStreams taylor_float32[2], taylor_float64[2];    // of streams along one direction (taylor.h), of r = 2 and 3
  OfForms forms_float32[2], forms_float64[2];
  Remade remade_float32, remade_float64;  // nullptr of one that saves its output
};

// An activation of a user's, compiled by itself for one instruction set (own.h), as it is found in a shared object.
struct OwnActivation {
  int64_t interface;  // kInterface of the headers that it was compiled with
  const char* isa;
  Activation activation;
};
// What has to agree between a shared object and who loads it; the first number counts changes that keep all sizes.
constexpr int64_t kInterface = (((int64_t(1) << 16 | sizeof(OwnActivation)) << 16) | sizeof(ElementwiseArgs)) << 8 |
                               kOrders << 4 | kDerivativeOrders;

struct Operand {  // a matrix of any strides, in elements
  const void* data;
  int64_t row_stride, column_stride;
};

// c = a b, a (m, k), b (k, n), all of one type, summed in float32 (float64 for float64). Then, if asked, while the
// tile is in cache: z = c + bias, saved = z, c = activation(z).
struct Gemm {
  Type type;
  int64_t m, n, k;
  Operand a, b;
  void* c;  // (m, n), rows adjacent
  const void* bias = nullptr;
  int64_t bias_stride = 1;
  Elementwise activation = nullptr;
  double param = 0;
  void* saved = nullptr;  // (m, n), rows adjacent
  // A sum of two products: if there is a split, the rows of b from there on are those of another matrix.
  int64_t split = 0;
  Operand rest = {};
};

// c = activation(z) up, of two products of one a and one size, z = a b + bias of gate, and up. The saved of gate is z,
// or activation(z); the c of up is up, or nullptr.
struct Gated {
  Gemm gate, up;
  bool saves_input;
};

// A layer of a chain, y = activation(z), z = x w^T + bias, and its gradients.
struct ChainLayer {
  int64_t k, n;
  Operand w;  // (n, k)
  const void* bias = nullptr;
  int64_t bias_stride = 1;
  Elementwise value = nullptr, first = nullptr;  // nullptr for the identity
  const OfStreams* streams = nullptr;            // forward and backward
  const OfStreams* taylor = nullptr;             // of streams along one direction
  const OfForms* forms = nullptr;
  Remade remade = nullptr;
  double param = 0;
  bool saves_input = false;
  void *gw = nullptr, *gb = nullptr;  // (n, k), rows adjacent, and (n); nullptr if not needed
  bool gw_by_columns = false;         // (k, n), rows adjacent; of chains by layers
};

// Of a chain: a bit for each gradient of one with streams, and for those of x, t and l, makes 63.
constexpr int kMostLayers = 30;

// Layers of which each is the input of the next, all float32 or all float64; by layers (layers.h) of any type.
//
// `saved` is what backward needs of each layer but its last output: z or y, as the activation saves, (m, n) numbers
// layer after layer, in an order that only the kernels know. nullptr if nothing is to be saved.
struct Chain {
  Type type;
  int64_t m;
  int count;
  const ChainLayer* layers;
  Operand x;  // (m, k)
  void* y;    // (m, n), rows adjacent; in backward it is read where the last activation saves its output
  void* saved;
  Operand gy = {};          // (m, n)
  void* gx = nullptr;       // (m, k), rows adjacent; nullptr if not needed
  bool recomputes = false;  // in backward: y and what layers save, which are not given
};

// A chain, and with it derivatives along r directions. Each tensor y carries its streams: y, tangents t_1, ..., t_r,
// and l, the sum over the directions of its second derivatives along each. `saved` is, of each layer but a last one
// without an activation, what the activation saves, tz_1, ..., tz_r and lz, each
// (m, roomy(n)).
struct ChainStreams {
  Chain chain;
  int64_t tangents;  // r
  Operand t;         // of x: (r, k) if alike, the same for all rows
  bool alike;
  int64_t t_step;              // else (m, k), with so many numbers from one direction to the next
  Operand l;                   // of x: (m, k); no data if it is zero, as it has to be where t is alike
  void *ty, *ly;               // of y: (r, m, n), (m, n), all adjacent
  Operand gty = {}, gly = {};  // (m, n) of each direction, and of l; these and chain.gy are zero if they have no data
  int64_t gty_step = 0;
  void *gt = nullptr, *gl = nullptr;  // (r, m, k), (m, k), all adjacent; nullptr if not needed
};

// How many of the streams of a layer are saved: where t is alike, of the first the value alone, as its tangents are the
// same for all rows, and l is zero. These tangents, (r, n), are saved after all layers.
static constexpr int64_t saved_streams(bool alike, int64_t r, int layer) { return alike && layer == 0 ? 1 : r + 2; }

// A step of a program of tensors with streams: what register it reads, or which two. A layer has no activation here.
// What scales and shifts, a number or one for each feature, is the bias of a layer without inputs.
enum class Step { layer, act, add, sub, mul, affine, scale, shift, cat, take };
struct ProgramStep {
  Step kind;
  int a, b;                            // as a where there is one
  int layer = 0;                       // of a layer, a scale, a shift
  double alpha = 1, beta = 0;          // affine: alpha a + beta
  int64_t from = 0, by = 0;            // take: features from, from + by, ... of a
  const OfStreams* streams = nullptr;  // of an activation, forward and backward
  double param = 0;
  bool saves_input = false;
};
constexpr int kMostSteps = 250;

// Steps, of which step i makes register i + 1 of x, register 0, and of those before; the last is y. `saved` is the z of
// each layer with all its streams, each (m, roomy(n)).
struct Program {
  ChainStreams h;  // x and its streams, the layers, y, gradients and cotangents
  int count;
  const ProgramStep* steps;
  const int64_t* widths;  // of the registers
  bool taylor = false;    // whether streams are derivatives along one direction, of orders 1 to r + 1
};

// A chain, and the gradients of <gy, y> + <gl, l>, l = D y[t] + sum_ij f_ij D^2 y[e_i, e_j]: of its first derivative
// along t, and of second derivatives along features of x, both of each row. `chain` has what forward saved of it, and
// y where the last activation saves its output; gy, which has no data if it is zero; gx, gw, gb.
struct ChainDerivatives {
  Chain chain;
  bool by_rows;                       // so `saved` is: chain_by_layers made it
  Operand t;                          // (m, k), or no data for zero
  int64_t r = 0;                      // features e_i along which there are forms
  const int64_t* features = nullptr;  // which
  const void* unit = nullptr;         // (r, k): the e_i
  const void* forms = nullptr;        // (m, k, k), all adjacent, symmetric or not; not read if r is 0
  Operand gl = {};                    // (m, n), or no data for ones
  const void* cotangents = nullptr;   // where these are ones of one number each: what chain_slope made, or nullptr
  void* l = nullptr;                  // (m, n), rows adjacent; nullptr if not needed
};

// Where the streams of a tensor lie that are tensors of their own: t_i `step` numbers apart. nullptr for what is zero,
// or not needed.
struct StreamsAt {
  void *value = nullptr, *tangents = nullptr, *last = nullptr;
  int64_t step = 0;
};

// A part of a product of two tensors with r tangents each: n numbers of each stream, at most.
//
// forward    out = y, t_i, l of a and b.
// backward   out = cotangents of a, of c, which are those of y, t_i, l.
struct ProductPass {
  int64_t n, r;
  StreamsAt a, b, c, out;
};
using OfProduct = void (*)(const ProductPass&);
constexpr int64_t kMostOfProduct = 256;

// What the backward pass of a gated layer works on: rows of n adjacent numbers.
struct GateArgs {
  int64_t rows, n;
  const void *gy, *s, *up;
  int64_t gy_row, s_row, up_row;
  void *gz, *gu;  // nullptr if not needed
  int64_t out_row;
};

}  // namespace fusegrad
