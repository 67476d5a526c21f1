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
  template <class V> static V fourth(V z, P<V>) {
    z = clamp(z, -40, 40);
    const Normal<V> normal(z);
    return c<V>(kDensityAt0) * ((7 - z * z) * z * z - 4) * normal.root * normal.root;
  }
  template <class V> static V fifth(V z, P<V>) {
    z = clamp(z, -40, 40);
    const Normal<V> normal(z);
    return c<V>(kDensityAt0) * (18 + (z * z - 11) * z * z) * z * normal.root * normal.root;
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
  template <class V> static V fourth(V z, P<V>) {
    z = clamp(z, -22, 22);
    const Logistic<V> sig(c<V>(2 * kC) * ((1 + c<V>(kA) * z * z) * z));
    const V ddv = c<V>(12 * kA * kC) * z;
    const V dv = c<V>(2 * kC) * (1 + c<V>(3 * kA) * z * z);
    return (3 * (c<V>(16 * kA * kC) + ddv * ddv * sig.r * z) +
            ((12 * (c<V>(4 * kA * kC) * z + ddv) +
              ((6 * ddv * z + (4 + dv * sig.r * z) * dv) * sig.r - 8 * dv * dv * z * sig.root * sig.root) * dv) *
                 sig.r -
             4 * (2 * dv + 3 * ddv * z) * dv * sig.root * sig.root) *
                dv) *
           sig.root * sig.root;
  }
  template <class V> static V fifth(V z, P<V>) {
    z = clamp(z, -22, 22);
    const Logistic<V> sig(c<V>(2 * kC) * ((1 + c<V>(kA) * z * z) * z));
    const V ddv = c<V>(12 * kA * kC) * z;
    const V dv = c<V>(2 * kC) * (1 + c<V>(3 * kA) * z * z);
    return (15 * (c<V>(8 * kA * kC) * z + ddv) * ddv * sig.r +
            (15 * ((c<V>(16 * kA * kC) + ddv * ddv * sig.r * z) * sig.r - 2 * ddv * ddv * z * sig.root * sig.root) +
             (4 * (4 * (dv * dv * dv * sig.root * sig.root - c<V>(15 * kA * kC)) * z - 15 * ddv) * sig.root * sig.root +
              ((30 * (c<V>(4 * kA * kC) * z + ddv) +
                ((10 * ddv * z + (5 + dv * sig.r * z) * dv) * sig.r - 22 * dv * dv * z * sig.root * sig.root) * dv) *
                   sig.r -
               40 * (dv + 2 * ddv * z) * dv * sig.root * sig.root) *
                  sig.r) *
                 dv) *
                dv) *
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
  template <class V> static V fourth(V z, P<V>) {
    const Logistic<V> sig(c<V>(kK) * z);
    return c<V>(kK * kK * kK) *
           (((4 + sig.r * sig.v) * sig.r - 8 * sig.v * sig.root * sig.root) * sig.r - 8 * sig.root * sig.root) *
           sig.root * sig.root;
  }
  template <class V> static V fifth(V z, P<V>) {
    const Logistic<V> sig(c<V>(kK) * z);
    return c<V>(kK * kK * kK * kK) *
           (16 * sig.v * sig.root * sig.root * sig.root * sig.root +
            (((5 + sig.r * sig.v) * sig.r - 22 * sig.v * sig.root * sig.root) * sig.r - 40 * sig.root * sig.root) *
                sig.r) *
           sig.root * sig.root;
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
  template <class V> static V fourth(V z, P<V>) {
    const Logistic<V> sig(z);
    return (((4 + sig.r * sig.v) * sig.r - 8 * sig.v * sig.root * sig.root) * sig.r - 8 * sig.root * sig.root) *
           sig.root * sig.root;
  }
  template <class V> static V fifth(V z, P<V>) {
    const Logistic<V> sig(z);
    return (16 * sig.v * sig.root * sig.root * sig.root * sig.root +
            (((5 + sig.r * sig.v) * sig.r - 22 * sig.v * sig.root * sig.root) * sig.r - 40 * sig.root * sig.root) *
                sig.r) *
           sig.root * sig.root;
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
  template <class V> static V fourth(V z, P<V> beta) {
    const Logistic<V> sig(beta * z);
    return beta * beta * beta *
           (((4 + sig.r * sig.v) * sig.r - 8 * sig.v * sig.root * sig.root) * sig.r - 8 * sig.root * sig.root) *
           sig.root * sig.root;
  }
  template <class V> static V fifth(V z, P<V> beta) {
    const Logistic<V> sig(beta * z);
    return beta * beta * beta * beta *
           (16 * sig.v * sig.root * sig.root * sig.root * sig.root +
            (((5 + sig.r * sig.v) * sig.r - 22 * sig.v * sig.root * sig.root) * sig.r - 40 * sig.root * sig.root) *
                sig.r) *
           sig.root * sig.root;
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
  template <class V> static V fourth(V z, P<V>) {
    const TanhSoftplus<V> mish(z);
    const V u = -3 * mish.r;
    const V u2 = mish.r * mish.v;
    return ((4 + u2) * mish.r * mish.r +
            (((mish.s + 2 * (mish.s - mish.c + u) * mish.t - mish.c + u - 4 * mish.b * mish.w) * mish.v -
              4 * (1 + 2 * mish.t)) *
                 mish.c -
             8 * (1 + u2) * mish.b * mish.w) *
                mish.s) *
           mish.b * mish.w;
  }
  template <class V> static V fifth(V z, P<V>) {
    const TanhSoftplus<V> mish(z);
    const V u = 1 + 2 * mish.t;
    const V u2 = -3 * mish.r;
    const V u3 = 4 * mish.r;
    return ((5 + mish.r * mish.v) * mish.r * mish.r * mish.r +
            (2 * (8 * mish.s * mish.v * mish.b * mish.w - (20 + 11 * mish.r * mish.v) * mish.r) * mish.b * mish.w +
             (5 * (mish.s + 2 * (mish.s - mish.c + u2) * mish.t - mish.c + u2 - 4 * mish.b * mish.w) +
              ((7 * mish.c + u3 + 20 * mish.b * mish.w +
                2 * (u3 + 14 * mish.b * mish.w + 2 * (5 + 3 * mish.t) * mish.c - mish.s) * mish.t - mish.s) *
                   mish.s -
               ((6 * mish.b * mish.w + u * mish.c) * mish.c +
                2 * (11 * mish.b * mish.w + 2 * u * mish.c + 3 * u * mish.r) * mish.r)) *
                  mish.v) *
                 mish.c) *
                mish.s) *
           mish.b * mish.w;
  }
};

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
