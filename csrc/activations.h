// The activations in C++: one translation of python/fusegrad/activations.py, whose table and formulas.py give the
// derivations; a test holds all translations to float64. Each has
//
//   kKeepsInput      whether it keeps its input z for backward, or its output y
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
  static constexpr bool kKeepsInput = false;
  template <class V> static V value(V z, P<V>) { return z; }
  template <class V> static V first(V g, V, P<V>) { return g; }
};

struct Relu : NoCurvature {
  static constexpr const char* kName = "relu";
  static constexpr bool kKeepsInput = false;
  template <class V> static V value(V z, P<V>) { return z < 0 ? V{} : z; }
  template <class V> static V first(V g, V y, P<V>) { return y <= 0 ? V{} : g; }
};

struct Relu6 : NoCurvature {
  static constexpr const char* kName = "relu6";
  static constexpr bool kKeepsInput = false;
  template <class V> static V value(V z, P<V>) { return clamp(z, 0, 6); }
  template <class V> static V first(V g, V y, P<V>) { return (y <= 0) | (y >= 6) ? V{} : g; }
};

struct ReluSquared {
  static constexpr const char* kName = "relu_squared";
  static constexpr bool kKeepsInput = true;
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
  static constexpr bool kKeepsInput = false;
  template <class V> static V value(V z, P<V> slope) { return z > 0 ? z : z * slope; }
  template <class V> static V first(V g, V y, P<V> slope) { return y > 0 ? g : g * slope; }
};

// The elu family: scale z above 0 and scale alpha (e^{z / width} - 1) below.
template <class V> V elu(V z, P<V> alpha, P<V> scale, P<V> width) {
  return z <= 0 ? expm1(z / width) * (alpha * scale) : z * scale;
}
template <class V> V elu_first(V g, V y, P<V> alpha, P<V> scale, P<V> width) {
  return y > 0 ? g * scale : g * (y + alpha * scale) / width;  // NaN is NaN
}

struct Elu {
  static constexpr const char* kName = "elu";
  static constexpr bool kKeepsInput = false;
  template <class V> static V value(V z, P<V> alpha) { return elu(z, alpha, 1, 1); }
  template <class V> static V first(V g, V y, P<V> alpha) { return elu_first(g, y, alpha, 1, 1); }
  template <class V> static V second(V y, P<V>) { return y <= 0 ? all<V>(1) : V{}; }
  template <class V> static V third(V, P<V>) { return V{}; }
};

struct Selu : Elu {
  static constexpr const char* kName = "selu";
  static constexpr bool kKeepsInput = false;
  // Klambauer et al., arXiv:1706.02515
  static constexpr double kAlpha = 1.6732632423543772848, kScale = 1.0507009873554804934;
  template <class V> static V value(V z, P<V>) { return elu(z, c<V>(kAlpha), c<V>(kScale), 1); }
  template <class V> static V first(V g, V y, P<V>) { return elu_first(g, y, c<V>(kAlpha), c<V>(kScale), 1); }
};

struct Celu {
  static constexpr const char* kName = "celu";
  static constexpr bool kKeepsInput = false;
  template <class V> static V value(V z, P<V> alpha) { return elu(z, alpha, 1, alpha); }
  template <class V> static V first(V g, V y, P<V> alpha) { return elu_first(g, y, alpha, 1, alpha); }
  template <class V> static V second(V y, P<V> alpha) { return y <= 0 ? all<V>(1 / alpha) : V{}; }
  template <class V> static V third(V, P<V>) { return V{}; }
};

struct Gelu {
  static constexpr const char* kName = "gelu";
  static constexpr bool kKeepsInput = true;
  template <class V> static V value(V z, P<V>) {
    const V above = Normal<V>(z).above;
    return z * (z > 0 ? 1 - above : above);
  }
  template <class V> static V first(V g, V z, P<V>) {
    z = clamp(z, -40, 40);
    const Normal<V> n(z);
    return g * ((z > 0 ? 1 - n.above : n.above) + z * n.density);
  }
  template <class V> static V second(V z, P<V>) {
    z = clamp(z, -40, 40);
    return (2 - z * z) * Normal<V>(z).density;
  }
  template <class V> static V third(V z, P<V>) {
    z = clamp(z, -40, 40);
    return (z * z - 4) * z * Normal<V>(z).density;
  }
};

// s = sigmoid(v), c = sigmoid(-v), q = s c, r = c - s: no cancellation in either tail.
template <class V> struct Logistic {
  V v, s, c, q, r;
  explicit Logistic(V from) : v(clamp(from, -1000, 1000)) {
    const V e = exp(-abs(v)), d = 1 / (1 + e), ed = e * d;
    s = v < 0 ? ed : d;
    c = v < 0 ? d : ed;
    q = ed * d;
    r = copysign((1 - e) * d, -v);
  }
};
struct GeluTanh {
  static constexpr const char* kName = "gelu_tanh";
  static constexpr bool kKeepsInput = true;
  // Hendrycks & Gimpel, arXiv:1606.08415; kC = sqrt(2 / pi)
  static constexpr double kA = 0.044715, kC = kSqrt2 / kSqrtPi;
  template <class V> static V inner(V z) { return c<V>(kC) * (z + c<V>(kA) * z * z * z); }
  template <class V> struct Parts {
    V z, t, b, du, ddu, p;
    explicit Parts(V from) : z(clamp(from, -20, 20)) {
      const V u = inner(z);
      du = c<V>(kC) * (1 + c<V>(3 * kA) * z * z);
      ddu = c<V>(6 * kC * kA) * z;
      t = tanh(u);
      b = bell(u);
      p = du + c<V>(0.5) * z * ddu - z * t * du * du;
    }
  };
  template <class V> static V value(V z, P<V>) {
    // (1 + tanh u) / 2 = sigmoid(2u)
    return z * sigmoid(2 * inner(clamp(z, -1000, 1000)));
  }
  template <class V> static V first(V g, V z, P<V>) {
    z = clamp(z, -20, 20);
    const Logistic<V> l(2 * inner(z));
    return g * l.s * (1 + z * c<V>(2 * kC) * (1 + c<V>(3 * kA) * z * z) * l.c);
  }
  template <class V> static V second(V z, P<V>) {
    const Parts<V> s(z);
    return s.b * s.p;
  }
  template <class V> static V third(V z, P<V>) {
    const Parts<V> s(z);
    const V tdu = s.t * s.du;
    const V dp = c<V>(1.5) * s.ddu + c<V>(3 * kC * kA) * s.z - tdu * s.du - s.z * s.b * s.du * s.du * s.du -
                 2 * s.z * tdu * s.ddu;
    return s.b * (dp - 2 * tdu * s.p);
  }
};

// z sigmoid(k z), v = k z.
template <class V> V swish_first(V g, V z, P<V> k) {
  const Logistic<V> l(k * z);
  return g * l.s * (1 + l.v * l.c);
}
template <class V> V swish_second(V z, P<V> k) {
  const Logistic<V> l(k * z);
  return k * l.q * (2 + l.v * l.r);
}
template <class V> V swish_third(V z, P<V> k) {
  const Logistic<V> l(k * z);
  return k * k * l.q * (l.r * (3 + l.v * l.r) - 2 * l.v * l.q);
}

struct Silu {
  static constexpr const char* kName = "silu";
  static constexpr bool kKeepsInput = true;
  template <class V> static V value(V z, P<V>) { return z / (1 + exp(-z)); }
  template <class V> static V first(V g, V z, P<V>) { return swish_first(g, z, 1); }
  template <class V> static V second(V z, P<V>) { return swish_second(z, 1); }
  template <class V> static V third(V z, P<V>) { return swish_third(z, 1); }
};

struct QuickGelu {
  static constexpr const char* kName = "quick_gelu";
  static constexpr bool kKeepsInput = true;
  static constexpr double kK = 1.702;  // Hendrycks & Gimpel, arXiv:1606.08415
  template <class V> static V value(V z, P<V>) { return z / (1 + exp(c<V>(-kK) * z)); }
  template <class V> static V first(V g, V z, P<V>) { return swish_first(g, z, c<V>(kK)); }
  template <class V> static V second(V z, P<V>) { return swish_second(z, c<V>(kK)); }
  template <class V> static V third(V z, P<V>) { return swish_third(z, c<V>(kK)); }
};

// With e = e^z and n = e (e + 2): t = tanh(log(1 + e)) = n / (n + 2), and 1 - t^2 = 4 (1 + e)^2 / (n + 2)^2.
struct Mish {
  static constexpr const char* kName = "mish";
  static constexpr bool kKeepsInput = true;
  template <class V> struct Parts {
    V z, t, s, c, a, r;
    explicit Parts(V from) : z(clamp(from, -1000, 1000)) {
      const V e = exp(clamp(z, -1000, sizeof(P<V>) == 4 ? 20 : 40)), n = e * (e + 2);
      const V d = 1 / (n + 2);
      t = n * d;
      c = 1 / (1 + e);
      s = e * c;
      a = 4 * e * (1 + e) * d * d;
      r = c - 2 * t * s;
    }
  };
  template <class V> static V value(V z, P<V>) {
    const V e = exp(clamp(z, -1000, sizeof(P<V>) == 4 ? 20 : 40)), n = e * (e + 2);
    return z * (n / (n + 2));
  }
  template <class V> static V first(V g, V z, P<V>) {
    const Parts<V> m(z);
    return g * (m.t + m.z * m.a);
  }
  template <class V> static V second(V z, P<V>) {
    const Parts<V> m(z);
    return m.a * (2 + m.z * m.r);
  }
  template <class V> static V third(V z, P<V>) {
    const Parts<V> m(z);
    const V dr = -m.s * (m.c + 2 * (m.a + m.t * m.c));
    return m.a * (m.r * (3 + m.z * m.r) + m.z * dr);
  }
};

struct Softplus {
  static constexpr const char* kName = "softplus";
  static constexpr bool kKeepsInput = false;
  template <class V> static V value(V z, P<V> beta) {
    const V v = beta * z;
    const V soft = ((v > 0 ? v : V{}) + log1p(exp(-abs(v)))) / beta;
    return (v > 20) | (v != v) ? z : soft;
  }
  template <class V> static V first(V g, V y, P<V> beta) { return -g * expm1(-beta * y); }
  template <class V> static V second(V y, P<V> beta) { return beta * exp(-beta * y); }
  template <class V> static V third(V y, P<V> beta) { return -beta * beta * exp(-beta * y); }
};

struct Softsign {
  static constexpr const char* kName = "softsign";
  static constexpr bool kKeepsInput = true;
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
  static constexpr bool kKeepsInput = false;
  template <class V> static V value(V z, P<V>) { return sigmoid(z); }
  template <class V> static V first(V g, V y, P<V>) { return g * (1 - y) * y; }
  template <class V> static V second(V y, P<V>) { return 1 - 2 * y; }
  template <class V> static V third(V, P<V>) { return all<V>(-2); }
};

struct LogSigmoid {
  static constexpr const char* kName = "logsigmoid";
  static constexpr bool kKeepsInput = false;
  template <class V> static V value(V z, P<V>) { return (z > 0 ? V{} : z) - log1p(exp(-abs(z))); }
  template <class V> static V first(V g, V y, P<V>) { return -g * expm1(y); }
  template <class V> static V second(V y, P<V>) { return -exp(y); }
  template <class V> static V third(V y, P<V>) { return -exp(y); }
};

struct Tanh {
  static constexpr const char* kName = "tanh";
  static constexpr bool kKeepsInput = false;
  template <class V> static V value(V z, P<V>) { return tanh(z); }
  template <class V> static V first(V g, V y, P<V>) { return g * (1 - y * y); }
  template <class V> static V second(V y, P<V>) { return -2 * y; }
  template <class V> static V third(V, P<V>) { return all<V>(-2); }
};

struct Tanhshrink {
  static constexpr const char* kName = "tanhshrink";
  static constexpr bool kKeepsInput = true;
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
  static constexpr bool kKeepsInput = true;
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
  static constexpr bool kKeepsInput = true;
  template <class V> static V value(V z, P<V>) { return clamp(z + 3, 0, 6) / 6; }
  template <class V> static V first(V g, V z, P<V>) { return (z > -3) & (z < 3) ? g / 6 : V{}; }
};

struct Hardtanh : NoCurvature {
  static constexpr const char* kName = "hardtanh";
  static constexpr bool kKeepsInput = false;
  template <class V> static V value(V z, P<V>) { return clamp(z, -1, 1); }
  template <class V> static V first(V g, V y, P<V>) { return (y <= -1) | (y >= 1) ? V{} : g; }
};

struct Sin {
  static constexpr const char* kName = "sin";
  static constexpr bool kKeepsInput = true;
  template <class V> static V value(V z, P<V> omega) { return sin(omega * z); }
  template <class V> static V first(V g, V z, P<V> omega) { return cos(omega * z) * omega * g; }
  template <class V> static V second(V z, P<V> omega) { return sin(omega * z) * (-omega * omega); }
  template <class V> static V third(V z, P<V> omega) { return cos(omega * z) * (-omega * omega * omega); }
};

struct Exp {
  static constexpr const char* kName = "exp";
  static constexpr bool kKeepsInput = false;
  template <class V> static V value(V z, P<V>) { return exp(z); }
  template <class V> static V first(V g, V y, P<V>) { return g * y; }
  template <class V> static V second(V, P<V>) { return all<V>(1); }
  template <class V> static V third(V, P<V>) { return V{}; }
};

struct Square {
  static constexpr const char* kName = "square";
  static constexpr bool kKeepsInput = true;
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
