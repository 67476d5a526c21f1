// Made by `python -m fusegrad.activations.generate` from definitions.py; not to be edited.
#pragma once

#include "elementary.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

struct Gelu {
  static constexpr const char* kName = "gelu";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V>) {
    const Normal<V> normal(z);
    return (normal.tail * normal.root * normal.root + normal.step) * z;
  }
  template <class V> static V first(V g, V z, P<V>) {
    z = clamp(z, -40, 40);
    const Normal<V> normal(z);
    return g * (normal.step + (c<V>(kDensityAt0) * z + normal.tail) * normal.root * normal.root);
  }
  template <class V> static V second(V z, P<V>) {
    z = clamp(z, -40, 40);
    const Normal<V> normal(z);
    return c<V>(kDensityAt0) * (2 - z * z) * normal.root * normal.root;
  }
  template <class V> static V third(V z, P<V>) {
    z = clamp(z, -40, 40);
    const Normal<V> normal(z);
    return c<V>(kDensityAt0) * (z * z - 4) * z * normal.root * normal.root;
  }
};

struct GeluTanh {
  static constexpr const char* kName = "gelu_tanh";
  static constexpr bool kSavesInput = true;
  static constexpr double kA = 0.044715;
  static constexpr double kC = 0.7978845608028654;
  template <class V> static V value(V z, P<V>) { return sigmoid(c<V>(2 * kC) * ((1 + c<V>(kA) * z * z) * z)) * z; }
  template <class V> static V first(V g, V z, P<V>) {
    z = clamp(z, -22, 22);
    const Logistic<V> sig(c<V>(2 * kC) * ((1 + c<V>(kA) * z * z) * z));
    const V dv = c<V>(2 * kC) * (1 + c<V>(3 * kA) * z * z);
    return g * ((1 + sig.c * dv * z) * sig.s);
  }
  template <class V> static V second(V z, P<V>) {
    z = clamp(z, -22, 22);
    const Logistic<V> sig(c<V>(2 * kC) * ((1 + c<V>(kA) * z * z) * z));
    const V ddv = c<V>(12 * kA * kC) * z;
    const V dv = c<V>(2 * kC) * (1 + c<V>(3 * kA) * z * z);
    return (ddv * z + (2 + dv * sig.r * z) * dv) * sig.root * sig.root;
  }
  template <class V> static V third(V z, P<V>) {
    z = clamp(z, -22, 22);
    const Logistic<V> sig(c<V>(2 * kC) * ((1 + c<V>(kA) * z * z) * z));
    const V ddv = c<V>(12 * kA * kC) * z;
    const V dv = c<V>(2 * kC) * (1 + c<V>(3 * kA) * z * z);
    return (3 * (c<V>(4 * kA * kC) * z + ddv) +
            ((3 * ddv * z + (3 + dv * sig.r * z) * dv) * sig.r - 2 * dv * dv * z * sig.root * sig.root) * dv) *
           sig.root * sig.root;
  }
};

struct QuickGelu {
  static constexpr const char* kName = "quick_gelu";
  static constexpr bool kSavesInput = true;
  static constexpr double kK = 1.702;
  template <class V> static V value(V z, P<V>) { return sigmoid(c<V>(kK) * z) * z; }
  template <class V> static V first(V g, V z, P<V>) {
    const Logistic<V> sig(c<V>(kK) * z);
    return g * ((1 + sig.c * sig.v) * sig.s);
  }
  template <class V> static V second(V z, P<V>) {
    const Logistic<V> sig(c<V>(kK) * z);
    return c<V>(kK) * (2 + sig.r * sig.v) * sig.root * sig.root;
  }
  template <class V> static V third(V z, P<V>) {
    const Logistic<V> sig(c<V>(kK) * z);
    return c<V>(kK * kK) * ((3 + sig.r * sig.v) * sig.r - 2 * sig.v * sig.root * sig.root) * sig.root * sig.root;
  }
};

struct Silu {
  static constexpr const char* kName = "silu";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V>) { return sigmoid(z) * z; }
  template <class V> static V first(V g, V z, P<V>) {
    const Logistic<V> sig(z);
    return g * ((1 + sig.c * sig.v) * sig.s);
  }
  template <class V> static V second(V z, P<V>) {
    const Logistic<V> sig(z);
    return (2 + sig.r * sig.v) * sig.root * sig.root;
  }
  template <class V> static V third(V z, P<V>) {
    const Logistic<V> sig(z);
    return ((3 + sig.r * sig.v) * sig.r - 2 * sig.v * sig.root * sig.root) * sig.root * sig.root;
  }
};

struct Swish {
  static constexpr const char* kName = "swish";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V> beta) { return sigmoid(beta * z) * z; }
  template <class V> static V first(V g, V z, P<V> beta) {
    const Logistic<V> sig(beta * z);
    return g * ((1 + sig.c * sig.v) * sig.s);
  }
  template <class V> static V second(V z, P<V> beta) {
    const Logistic<V> sig(beta * z);
    return beta * (2 + sig.r * sig.v) * sig.root * sig.root;
  }
  template <class V> static V third(V z, P<V> beta) {
    const Logistic<V> sig(beta * z);
    return beta * beta * ((3 + sig.r * sig.v) * sig.r - 2 * sig.v * sig.root * sig.root) * sig.root * sig.root;
  }
};

struct Mish {
  static constexpr const char* kName = "mish";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V>) {
    const TanhSoftplus<V> mish(z);
    return mish.t * z;
  }
  template <class V> static V first(V g, V z, P<V>) {
    const TanhSoftplus<V> mish(z);
    return g * (mish.t + mish.v * mish.b * mish.w);
  }
  template <class V> static V second(V z, P<V>) {
    const TanhSoftplus<V> mish(z);
    return (2 + mish.r * mish.v) * mish.b * mish.w;
  }
  template <class V> static V third(V z, P<V>) {
    const TanhSoftplus<V> mish(z);
    return (3 * mish.r + (mish.r * mish.r - (2 * mish.b * mish.w + (1 + 2 * mish.t) * mish.c) * mish.s) * mish.v) *
           mish.b * mish.w;
  }
};

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
