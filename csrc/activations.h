// The activations in C++: one translation of python/fusegrad/activations.py, whose table and formulas.py give the
// derivations; a test holds all translations to float64. Each has
//
//   kSavesInput      whether it keeps its input z for backward, or its output y
//   value(z, p)      act(z), p the parameter
//   first(g, s, p)   g D_1(s), of what it keeps, s
//   second(s, p)     D_2 = dD_1/ds
//   third(s, p)      D_3 = dD_2/ds
#pragma once

#include "elementary.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

template <class V> using P = ScalarOf<V>;

constexpr double kSqrt2 = 1.4142135623730951, kSqrtPi = 1.7724538509055161;

// A constant, in the type that a vector has.
template <class V> constexpr P<V> c(double x) { return P<V>(x); }

// For what is linear between kinks.
struct NoCurvature {
  template <class V> static V second(V, P<V>) { return V{}; }
  template <class V> static V third(V, P<V>) { return V{}; }
};

struct Identity : NoCurvature {
  static constexpr const char* kName = "identity";
  static constexpr bool kSavesInput = false;
  template <class V> static V value(V z, P<V>) { return z; }
  template <class V> static V first(V g, V, P<V>) { return g; }
};

struct Relu : NoCurvature {
  static constexpr const char* kName = "relu";
  static constexpr bool kSavesInput = false;
  template <class V> static V value(V z, P<V>) { return z < 0 ? V{} : z; }
  template <class V> static V first(V g, V y, P<V>) { return y <= 0 ? V{} : g; }
};

struct Relu6 : NoCurvature {
  static constexpr const char* kName = "relu6";
  static constexpr bool kSavesInput = false;
  template <class V> static V value(V z, P<V>) { return clamp(z, 0, 6); }
  template <class V> static V first(V g, V y, P<V>) { return (y <= 0) | (y >= 6) ? V{} : g; }
};

struct ReluSquared {
  static constexpr const char* kName = "relu_squared";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V>) {
    const V r = z < 0 ? V{} : z;
    return r * r;
  }
  template <class V> static V first(V g, V z, P<V>) { return (z < 0 ? V{} : z) * 2 * g; }
  template <class V> static V second(V z, P<V>) { return z > 0 ? all<V>(2) : V{}; }
  template <class V> static V third(V, P<V>) { return V{}; }
};

struct LeakyRelu : NoCurvature {
  static constexpr const char* kName = "leaky_relu";
  static constexpr bool kSavesInput = false;
  template <class V> static V value(V z, P<V> slope) { return z > 0 ? z : z * slope; }
  template <class V> static V first(V g, V y, P<V> slope) { return y > 0 ? g : g * slope; }
};

// The elu family: scale z above 0 and scale alpha (e^{z / width} - 1) below.
template <class V> V elu(V z, P<V> alpha, P<V> scale, P<V> width) {
  return z <= 0 ? expm1(z / width) * (alpha * scale) : z * scale;
}
// factor e^v, for z <= 0, in halves: the factor may be large where e^v is small.
template <class V> V elu_below(V z, V v, P<V> factor) {
  const V root = Decay<V>(z > 0 ? V{} : v / 2).value;
  return factor * root * root;
}
template <class V> V elu_first(V z, V v, P<V> above, P<V> factor) {
  return z > 0 ? all<V>(above) : elu_below(z, v, factor);
}
// The higher derivatives, which torch takes to be 0 at 0.
template <class V> V elu_higher(V z, V v, P<V> factor) { return z >= 0 ? V{} : elu_below(z, v, factor); }

struct Elu {
  static constexpr const char* kName = "elu";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V> alpha) { return elu(z, alpha, 1, 1); }
  template <class V> static V first(V g, V z, P<V> alpha) { return g * elu_first(z, z, 1, alpha); }
  template <class V> static V second(V z, P<V> alpha) { return elu_higher(z, z, alpha); }
  template <class V> static V third(V z, P<V> alpha) { return elu_higher(z, z, alpha); }
};

struct Selu {
  static constexpr const char* kName = "selu";
  static constexpr bool kSavesInput = true;
  // Klambauer et al., arXiv:1706.02515
  static constexpr double kAlpha = 1.6732632423543772848, kScale = 1.0507009873554804934, kBelow = kAlpha * kScale;
  template <class V> static V value(V z, P<V>) { return elu(z, c<V>(kAlpha), c<V>(kScale), 1); }
  template <class V> static V first(V g, V z, P<V>) { return g * elu_first(z, z, c<V>(kScale), c<V>(kBelow)); }
  template <class V> static V second(V z, P<V>) { return elu_higher(z, z, c<V>(kBelow)); }
  template <class V> static V third(V z, P<V>) { return elu_higher(z, z, c<V>(kBelow)); }
};

struct Celu {
  static constexpr const char* kName = "celu";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V> alpha) { return elu(z, alpha, 1, alpha); }
  template <class V> static V first(V g, V z, P<V> alpha) { return g * elu_first(z, z / alpha, 1, 1); }
  template <class V> static V second(V z, P<V> alpha) { return elu_higher(z, z / alpha, 1 / alpha); }
  template <class V> static V third(V z, P<V> alpha) { return elu_higher(z, z / alpha, 1 / (alpha * alpha)); }
};

struct Gelu {
  static constexpr const char* kName = "gelu";
  static constexpr bool kSavesInput = true;
  // factor times the density
  template <class V> static V bell(V z, V factor) {
    const V root = Normal<V>(z).root;
    return c<V>(kDensityAt0) * factor * root * root;
  }
  template <class V> static V value(V z, P<V>) {
    const Normal<V> n(z);
    const V above = n.ratio * n.root * n.root;
    return z * (z > 0 ? 1 - above : above);
  }
  template <class V> static V first(V g, V z, P<V>) {
    z = clamp(z, -40, 40);
    const Normal<V> n(z);
    const V part = (z * c<V>(kDensityAt0) + (z > 0 ? -n.ratio : n.ratio)) * n.root * n.root;
    return g * (z > 0 ? 1 + part : part);
  }
  template <class V> static V second(V z, P<V>) {
    z = clamp(z, -40, 40);
    return bell(z, 2 - z * z);
  }
  template <class V> static V third(V z, P<V>) {
    z = clamp(z, -40, 40);
    return bell(z, (z * z - 4) * z);
  }
};

// s = sigmoid(v), c = sigmoid(-v), q = root^2 = s c, r = c - s: all right in both tails, and r near 0. Multiplied by
// the root twice, results are right where q alone is no normal number.
template <class V> struct Logistic {
  V v, s, c, root, q, r;
  explicit Logistic(V from) : v(clamp(from, -1000, 1000)) {
    const Decay<V> half(-abs(v) / 2);
    const V e = half.value * half.value, d = 1 / (1 + e), ed = e * d;
    s = v < 0 ? ed : d;
    c = v < 0 ? d : ed;
    root = half.value * d;
    q = root * root;
    r = copysign(half.lost * (1 + half.value) * d, -v);
  }
};

struct GeluTanh {
  static constexpr const char* kName = "gelu_tanh";
  static constexpr bool kSavesInput = true;
  // Hendrycks & Gimpel, arXiv:1606.08415; kC = sqrt(2 / pi)
  static constexpr double kA = 0.044715, kC = kSqrt2 / kSqrtPi;
  template <class V> static V inner(V z) { return c<V>(kC) * (z + c<V>(kA) * z * z * z); }
  // t = tanh u, root^2 = q = (1 - t^2) / 4; beyond 22 that is 0 in float64
  template <class V> struct Parts {
    V z, t, root, q, du, ddu, p;
    explicit Parts(V from) : z(clamp(from, -22, 22)) {
      const Logistic<V> l(2 * inner(z));
      t = -l.r;
      root = l.root;
      q = l.q;
      du = c<V>(kC) * (1 + c<V>(3 * kA) * z * z);
      ddu = c<V>(6 * kC * kA) * z;
      p = du + c<V>(0.5) * z * ddu - z * t * du * du;
    }
  };
  template <class V> static V value(V z, P<V>) {
    // (1 + tanh u) / 2 = sigmoid(2u)
    return z * sigmoid(2 * inner(clamp(z, -1000, 1000)));
  }
  template <class V> static V first(V g, V z, P<V>) {
    z = clamp(z, -22, 22);
    const Logistic<V> l(2 * inner(z));
    return g * l.s * (1 + z * c<V>(2 * kC) * (1 + c<V>(3 * kA) * z * z) * l.c);
  }
  template <class V> static V second(V z, P<V>) {
    const Parts<V> s(z);
    return 4 * s.p * s.root * s.root;
  }
  template <class V> static V third(V z, P<V>) {
    const Parts<V> s(z);
    const V tdu = s.t * s.du;
    const V dp = c<V>(1.5) * s.ddu + c<V>(3 * kC * kA) * s.z - tdu * s.du - 4 * s.z * s.q * s.du * s.du * s.du -
                 2 * s.z * tdu * s.ddu;
    return 4 * (dp - 2 * tdu * s.p) * s.root * s.root;
  }
};

// z sigmoid(k z), v = k z.
template <class V> V swish(V z, P<V> k) { return z * sigmoid(k * z); }
template <class V> V swish_first(V g, V z, P<V> k) {
  const Logistic<V> l(k * z);
  return g * l.s * (1 + l.v * l.c);
}
template <class V> V swish_second(V z, P<V> k) {
  const Logistic<V> l(k * z);
  return k * (2 + l.v * l.r) * l.root * l.root;
}
template <class V> V swish_third(V z, P<V> k) {
  const Logistic<V> l(k * z);
  return k * k * (l.r * (3 + l.v * l.r) - 2 * l.v * l.q) * l.root * l.root;
}

struct Silu {
  static constexpr const char* kName = "silu";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V>) { return swish(z, 1); }
  template <class V> static V first(V g, V z, P<V>) { return swish_first(g, z, 1); }
  template <class V> static V second(V z, P<V>) { return swish_second(z, 1); }
  template <class V> static V third(V z, P<V>) { return swish_third(z, 1); }
};

struct QuickGelu {
  static constexpr const char* kName = "quick_gelu";
  static constexpr bool kSavesInput = true;
  static constexpr double kK = 1.702;  // Hendrycks & Gimpel, arXiv:1606.08415
  template <class V> static V value(V z, P<V>) { return swish(z, c<V>(kK)); }
  template <class V> static V first(V g, V z, P<V>) { return swish_first(g, z, c<V>(kK)); }
  template <class V> static V second(V z, P<V>) { return swish_second(z, c<V>(kK)); }
  template <class V> static V third(V z, P<V>) { return swish_third(z, c<V>(kK)); }
};

// With e = e^z and n = e (e + 2): t = tanh(log(1 + e)) = n / (n + 2), and 1 - t^2 = 4 (1 + e)^2 / (n + 2)^2. Above 0
// divided through by e^2 and e^4, so that both are made of w = e^{-|z|} and keep their precision in both tails.
struct Mish {
  static constexpr const char* kName = "mish";
  static constexpr bool kSavesInput = true;
  template <class V> struct Tanh {
    V w, d, t;
    explicit Tanh(V z) : w(exp(-abs(z))) {
      d = 1 / (z < 0 ? 2 + w * (2 + w) : 1 + w * (2 + 2 * w));
      t = (z < 0 ? w * (2 + w) : 1 + 2 * w) * d;
    }
  };
  // s = sigmoid(z), c = sigmoid(-z), a = b w = s (1 - t^2), r = c - 2 t s; b and w as in Logistic's root
  template <class V> struct Parts {
    V z, w, t, s, c, b, a, r;
    explicit Parts(V from) : z(clamp(from, -1000, 1000)) {
      const Tanh<V> of(z);
      w = of.w;
      t = of.t;
      const V half = 1 / (1 + w);
      s = z < 0 ? w * half : half;
      c = z < 0 ? half : w * half;
      b = 4 * (1 + w) * of.d * of.d * (z < 0 ? all<V>(1) : w);
      a = b * w;
      r = (z < 0 ? 2 + w * (2 - w * (3 + 2 * w)) : w * (w * (2 + 2 * w) - 3) - 2) * half * of.d;
    }
  };
  template <class V> static V value(V z, P<V>) { return z * Tanh<V>(z).t; }
  template <class V> static V first(V g, V z, P<V>) {
    const Parts<V> m(z);
    return g * (m.t + m.z * m.a);
  }
  template <class V> static V second(V z, P<V>) {
    const Parts<V> m(z);
    return (2 + m.z * m.r) * m.b * m.w;
  }
  template <class V> static V third(V z, P<V>) {
    const Parts<V> m(z);
    const V dr = -m.s * (m.c + 2 * (m.a + m.t * m.c));
    return (m.r * (3 + m.z * m.r) + m.z * dr) * m.b * m.w;
  }
};

struct Softplus {
  static constexpr const char* kName = "softplus";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V> beta) {
    const V v = beta * z;
    const V soft = ((v > 0 ? v : V{}) + log1p(exp(-abs(v)))) / beta;
    return (v > 20) | (v != v) ? z : soft;
  }
  template <class V> static V first(V g, V z, P<V> beta) { return g * Logistic<V>(beta * z).s; }
  template <class V> static V second(V z, P<V> beta) {
    const Logistic<V> l(beta * z);
    return beta * l.root * l.root;
  }
  template <class V> static V third(V z, P<V> beta) {
    const Logistic<V> l(beta * z);
    return beta * l.root * (beta * l.root) * l.r;
  }
};

struct Softsign {
  static constexpr const char* kName = "softsign";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V>) { return z / (1 + abs(z)); }
  template <class V> static V first(V g, V z, P<V>) {
    const V d = 1 / (1 + abs(z));
    return g * (d * d);
  }
  template <class V> static V second(V z, P<V>) {
    const V d = 1 / (1 + abs(z));
    return z == 0 ? V{} : copysign(2 * d * d * d, -z);
  }
  template <class V> static V third(V z, P<V>) {
    const V d = 1 / (1 + abs(z));
    return 6 * (d * d) * (d * d);
  }
};

struct Sigmoid {
  static constexpr const char* kName = "sigmoid";
  static constexpr bool kSavesInput = false;
  template <class V> static V value(V z, P<V>) { return sigmoid(z); }
  template <class V> static V first(V g, V y, P<V>) { return g * (1 - y) * y; }
  template <class V> static V second(V y, P<V>) { return 1 - 2 * y; }
  template <class V> static V third(V, P<V>) { return all<V>(-2); }
};

struct LogSigmoid {
  static constexpr const char* kName = "logsigmoid";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V>) { return (z > 0 ? V{} : z) - log1p(exp(-abs(z))); }
  template <class V> static V first(V g, V z, P<V>) { return g * Logistic<V>(z).c; }
  template <class V> static V second(V z, P<V>) { return -Logistic<V>(z).q; }
  template <class V> static V third(V z, P<V>) {
    const Logistic<V> l(z);
    return -l.q * l.r;
  }
};

struct Tanh {
  static constexpr const char* kName = "tanh";
  static constexpr bool kSavesInput = false;
  template <class V> static V value(V z, P<V>) { return tanh(z); }
  template <class V> static V first(V g, V y, P<V>) { return g * ((1 - y) * (1 + y)); }
  template <class V> static V second(V y, P<V>) { return -2 * y; }
  template <class V> static V third(V, P<V>) { return all<V>(-2); }
};

struct Tanhshrink {
  static constexpr const char* kName = "tanhshrink";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V>) { return z - tanh(z); }
  template <class V> static V first(V g, V z, P<V>) {
    const V t = tanh(z);
    return g * (t * t);
  }
  template <class V> static V second(V z, P<V>) { return 2 * tanh(z) * bell(z); }
  template <class V> static V third(V z, P<V>) {
    const V t = tanh(z);
    return 2 * bell(z) * (1 - 3 * t * t);
  }
};

struct Hardswish {
  static constexpr const char* kName = "hardswish";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V>) { return z * clamp(z + 3, 0, 6) / 6; }
  template <class V> static V first(V g, V z, P<V>) {
    const V inside = g * (z / 3 + c<V>(0.5));
    return z >= 3 ? g : z <= -3 ? V{} : inside;
  }
  template <class V> static V second(V z, P<V>) { return (z > -3) & (z < 3) ? all<V>(c<V>(1) / 3) : V{}; }
  template <class V> static V third(V, P<V>) { return V{}; }
};

struct Hardsigmoid : NoCurvature {
  static constexpr const char* kName = "hardsigmoid";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V>) { return clamp(z + 3, 0, 6) / 6; }
  template <class V> static V first(V g, V z, P<V>) { return (z > -3) & (z < 3) ? g / 6 : V{}; }
};

struct Hardtanh : NoCurvature {
  static constexpr const char* kName = "hardtanh";
  static constexpr bool kSavesInput = false;
  template <class V> static V value(V z, P<V>) { return clamp(z, -1, 1); }
  template <class V> static V first(V g, V y, P<V>) { return (y <= -1) | (y >= 1) ? V{} : g; }
};

struct Sin {
  static constexpr const char* kName = "sin";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V> omega) { return sin(omega * z); }
  template <class V> static V first(V g, V z, P<V> omega) { return cos(omega * z) * omega * g; }
  template <class V> static V second(V z, P<V> omega) { return sin(omega * z) * (-omega * omega); }
  template <class V> static V third(V z, P<V> omega) { return cos(omega * z) * (-omega * omega * omega); }
};

struct Exp {
  static constexpr const char* kName = "exp";
  static constexpr bool kSavesInput = false;
  template <class V> static V value(V z, P<V>) { return exp(z); }
  template <class V> static V first(V g, V y, P<V>) { return g * y; }
  template <class V> static V second(V, P<V>) { return all<V>(1); }
  template <class V> static V third(V, P<V>) { return V{}; }
};

struct Square {
  static constexpr const char* kName = "square";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V>) { return z * z; }
  template <class V> static V first(V g, V z, P<V>) { return z * 2 * g; }
  template <class V> static V second(V, P<V>) { return all<V>(2); }
  template <class V> static V third(V, P<V>) { return V{}; }
};

template <class... Ts> struct List {
  static constexpr int kSize = sizeof...(Ts);
};
using Activations =
    List<Identity, Relu, Relu6, ReluSquared, LeakyRelu, Elu, Selu, Celu, Gelu, GeluTanh, QuickGelu, Silu, Mish,
         Softplus, Softsign, Sigmoid, LogSigmoid, Tanh, Tanhshrink, Hardswish, Hardsigmoid, Hardtanh, Sin, Exp, Square>;

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
