// Made by `python -m fusegrad.activations.generate` from definitions.py; not to be edited.
#pragma once

#include "elementary.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

struct Softplus {
  static constexpr const char* kName = "softplus";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V> beta) {
    const V u = beta * z;
    return (u != u) | (u > 20) ? z : softplus(u) / beta;
  }
  template <class V> static V first(V g, V z, P<V> beta) {
    const Logistic<V> sig(beta * z);
    return g * sig.s;
  }
  template <class V> static V second(V z, P<V> beta) {
    const Logistic<V> sig(beta * z);
    return beta * sig.root * sig.root;
  }
  template <class V> static V third(V z, P<V> beta) {
    const Logistic<V> sig(beta * z);
    return beta * beta * sig.r * sig.root * sig.root;
  }
  template <class V> static V fourth(V z, P<V> beta) {
    const Logistic<V> sig(beta * z);
    return beta * beta * beta * (sig.r * sig.r - 2 * sig.root * sig.root) * sig.root * sig.root;
  }
  template <class V> static V fifth(V z, P<V> beta) {
    const Logistic<V> sig(beta * z);
    return beta * beta * beta * beta * (sig.r * sig.r - 8 * sig.root * sig.root) * sig.r * sig.root * sig.root;
  }
};

struct ShiftedSoftplus {
  static constexpr const char* kName = "shifted_softplus";
  static constexpr bool kSavesInput = true;
  static constexpr double kLn2 = 0.6931471805599453;
  template <class V> static V value(V z, P<V>) { return softplus(z) - c<V>(kLn2); }
  template <class V> static V first(V g, V z, P<V>) {
    const Logistic<V> sig(z);
    return g * sig.s;
  }
  template <class V> static V second(V z, P<V>) {
    const Logistic<V> sig(z);
    return sig.root * sig.root;
  }
  template <class V> static V third(V z, P<V>) {
    const Logistic<V> sig(z);
    return sig.r * sig.root * sig.root;
  }
  template <class V> static V fourth(V z, P<V>) {
    const Logistic<V> sig(z);
    return (sig.r * sig.r - 2 * sig.root * sig.root) * sig.root * sig.root;
  }
  template <class V> static V fifth(V z, P<V>) {
    const Logistic<V> sig(z);
    return (sig.r * sig.r - 8 * sig.root * sig.root) * sig.r * sig.root * sig.root;
  }
};

struct Squareplus {
  static constexpr const char* kName = "squareplus";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V> b) {
    const V root = sqrt_of_squares(z, b);
    return c<V>(0.5) * (z > 0 ? root + z : b / (root - (z < 0 ? z : V{})));
  }
  template <class V> static V first(V g, V z, P<V> b) {
    z = clamp(z, -1e+33, 1e+33);
    const V root = sqrt_of_squares(z, b);
    return g * (c<V>(0.5) * (z > 0 ? root + z : all<V>(c<V>(5.960464477539063e-08) * b)) /
                (z > 0 ? root : c<V>(5.960464477539063e-08) * (root - z) * root));
  }
  template <class V> static V second(V z, P<V> b) {
    z = clamp(z, -1e+33, 1e+33);
    const V d = 1 / sqrt_of_squares(z, b);
    return c<V>(0.5) * b * d * d * d;
  }
  template <class V> static V third(V z, P<V> b) {
    z = clamp(z, -1e+33, 1e+33);
    const V d = 1 / sqrt_of_squares(z, b);
    return c<V>(-1.5) * b * z * d * d * d * d * d;
  }
  template <class V> static V fourth(V z, P<V> b) {
    z = clamp(z, -1e+33, 1e+33);
    const V d = 1 / sqrt_of_squares(z, b);
    return b * (6 - c<V>(7.5) * clamp(b * d * d, 0, 1)) * d * d * d * d * d;
  }
  template <class V> static V fifth(V z, P<V> b) {
    z = clamp(z, -1e+33, 1e+33);
    const V d = 1 / sqrt_of_squares(z, b);
    return b * (c<V>(52.5) * clamp(b * d * d, 0, 1) - 30) * z * d * d * d * d * d * d * d;
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
    return -2 * sign(z) * d * d * d;
  }
  template <class V> static V third(V z, P<V>) {
    const V d = 1 / (1 + abs(z));
    return 6 * d * d * d * d;
  }
  template <class V> static V fourth(V z, P<V>) {
    const V d = 1 / (1 + abs(z));
    return -24 * sign(z) * d * d * d * d * d;
  }
  template <class V> static V fifth(V z, P<V>) {
    const V d = 1 / (1 + abs(z));
    return 120 * d * d * d * d * d * d;
  }
};

struct Sigmoid {
  static constexpr const char* kName = "sigmoid";
  static constexpr bool kSavesInput = false;
  template <class V> static V value(V z, P<V>) { return sigmoid(z); }
  template <class V> static V first(V g, V y, P<V>) { return g * ((1 - y) * y); }
  template <class V> static V second(V y, P<V>) { return 1 - 2 * y; }
  template <class V> static V third(V, P<V>) { return all<V>(-2); }
  template <class V> static V fourth(V, P<V>) { return V{}; }
  template <class V> static V fifth(V, P<V>) { return V{}; }
};

struct Logsigmoid {
  static constexpr const char* kName = "logsigmoid";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V>) { return -softplus(-z); }
  template <class V> static V first(V g, V z, P<V>) {
    const Logistic<V> sig(z);
    return g * sig.c;
  }
  template <class V> static V second(V z, P<V>) {
    const Logistic<V> sig(z);
    return -sig.root * sig.root;
  }
  template <class V> static V third(V z, P<V>) {
    const Logistic<V> sig(z);
    return -sig.r * sig.root * sig.root;
  }
  template <class V> static V fourth(V z, P<V>) {
    const Logistic<V> sig(z);
    return (2 * sig.root * sig.root - sig.r * sig.r) * sig.root * sig.root;
  }
  template <class V> static V fifth(V z, P<V>) {
    const Logistic<V> sig(z);
    return (8 * sig.root * sig.root - sig.r * sig.r) * sig.r * sig.root * sig.root;
  }
};

struct Tanh {
  static constexpr const char* kName = "tanh";
  static constexpr bool kSavesInput = false;
  template <class V> static V value(V z, P<V>) { return tanh(z); }
  template <class V> static V first(V g, V y, P<V>) { return g * ((1 + y) * (1 - y)); }
  template <class V> static V second(V y, P<V>) { return -2 * y; }
  template <class V> static V third(V, P<V>) { return all<V>(-2); }
  template <class V> static V fourth(V, P<V>) { return V{}; }
  template <class V> static V fifth(V, P<V>) { return V{}; }
};

struct Tanhshrink {
  static constexpr const char* kName = "tanhshrink";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V>) { return z - tanh(z); }
  template <class V> static V first(V g, V z, P<V>) {
    const Logistic<V> sig(2 * z);
    return g * (abs(z) > c<V>(0.5) ? 1 - 4 * sig.root * sig.root : sig.r * sig.r);
  }
  template <class V> static V second(V z, P<V>) {
    const Logistic<V> sig(2 * z);
    return -8 * sig.r * sig.root * sig.root;
  }
  template <class V> static V third(V z, P<V>) {
    const Logistic<V> sig(2 * z);
    return 8 * (1 - 3 * sig.r * sig.r) * sig.root * sig.root;
  }
  template <class V> static V fourth(V z, P<V>) {
    const Logistic<V> sig(2 * z);
    return 16 * (1 + 12 * sig.root * sig.root - 3 * sig.r * sig.r) * sig.r * sig.root * sig.root;
  }
  template <class V> static V fifth(V z, P<V>) {
    const Logistic<V> sig(2 * z);
    return 32 *
           ((1 - 3 * sig.r * sig.r) * sig.r * sig.r +
            2 * (21 * sig.r * sig.r - 1 - 12 * sig.root * sig.root) * sig.root * sig.root) *
           sig.root * sig.root;
  }
};

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
