// Made by `python -m fusegrad.activations.generate` from definitions.py; not to be edited.
#pragma once

#include "elementary.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

struct Identity {
  static constexpr const char* kName = "identity";
  static constexpr bool kSavesInput = false;
  template <class V> static V value(V z, P<V>) { return z; }
  template <class V> static V first(V g, V, P<V>) { return g; }
  template <class V> static V second(V, P<V>) { return V{}; }
  template <class V> static V third(V, P<V>) { return V{}; }
  template <class V> static V fourth(V, P<V>) { return V{}; }
  template <class V> static V fifth(V, P<V>) { return V{}; }
};

struct Relu {
  static constexpr const char* kName = "relu";
  static constexpr bool kSavesInput = false;
  template <class V> static V value(V z, P<V>) { return z < 0 ? V{} : z; }
  template <class V> static V first(V g, V y, P<V>) { return y <= 0 ? V{} : g; }
  template <class V> static V second(V, P<V>) { return V{}; }
  template <class V> static V third(V, P<V>) { return V{}; }
  template <class V> static V fourth(V, P<V>) { return V{}; }
  template <class V> static V fifth(V, P<V>) { return V{}; }
};

struct Relu6 {
  static constexpr const char* kName = "relu6";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V>) { return clamp(z, 0, 6); }
  template <class V> static V first(V g, V z, P<V>) { return (z <= 0) | (z >= 6) ? V{} : g; }
  template <class V> static V second(V, P<V>) { return V{}; }
  template <class V> static V third(V, P<V>) { return V{}; }
  template <class V> static V fourth(V, P<V>) { return V{}; }
  template <class V> static V fifth(V, P<V>) { return V{}; }
};

struct LeakyRelu {
  static constexpr const char* kName = "leaky_relu";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V> negative_slope) { return z > 0 ? z : negative_slope * z; }
  template <class V> static V first(V g, V z, P<V> negative_slope) { return z > 0 ? g : g * negative_slope; }
  template <class V> static V second(V, P<V>) { return V{}; }
  template <class V> static V third(V, P<V>) { return V{}; }
  template <class V> static V fourth(V, P<V>) { return V{}; }
  template <class V> static V fifth(V, P<V>) { return V{}; }
};

struct LeakyReluInPlace {
  static constexpr const char* kName = "leaky_relu_in_place";
  static constexpr bool kSavesInput = false;
  template <class V> static V value(V z, P<V> negative_slope) { return z > 0 ? z : negative_slope * z; }
  template <class V> static V first(V g, V y, P<V> negative_slope) { return y > 0 ? g : g * negative_slope; }
  template <class V> static V second(V, P<V>) { return V{}; }
  template <class V> static V third(V, P<V>) { return V{}; }
  template <class V> static V fourth(V, P<V>) { return V{}; }
  template <class V> static V fifth(V, P<V>) { return V{}; }
};

struct Hardtanh {
  static constexpr const char* kName = "hardtanh";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V>) { return clamp(z, -1, 1); }
  template <class V> static V first(V g, V z, P<V>) { return (z <= -1) | (z >= 1) ? V{} : g; }
  template <class V> static V second(V, P<V>) { return V{}; }
  template <class V> static V third(V, P<V>) { return V{}; }
  template <class V> static V fourth(V, P<V>) { return V{}; }
  template <class V> static V fifth(V, P<V>) { return V{}; }
};

struct Hardsigmoid {
  static constexpr const char* kName = "hardsigmoid";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V>) { return clamp(3 + z, 0, 6) / 6; }
  template <class V> static V first(V g, V z, P<V>) { return (z < 3) & (z > -3) ? g / 6 : V{}; }
  template <class V> static V second(V, P<V>) { return V{}; }
  template <class V> static V third(V, P<V>) { return V{}; }
  template <class V> static V fourth(V, P<V>) { return V{}; }
  template <class V> static V fifth(V, P<V>) { return V{}; }
};

struct Hardswish {
  static constexpr const char* kName = "hardswish";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V>) { return clamp(3 + z, 0, 6) * z / 6; }
  template <class V> static V first(V g, V z, P<V>) { return z >= 3 ? g : z <= -3 ? V{} : g * (c<V>(0.5) + z / 3); }
  template <class V> static V second(V z, P<V>) { return (z < 3) & (z > -3) ? all<V>(c<V>(1.0 / 3)) : V{}; }
  template <class V> static V third(V, P<V>) { return V{}; }
  template <class V> static V fourth(V, P<V>) { return V{}; }
  template <class V> static V fifth(V, P<V>) { return V{}; }
};

struct ReluSquared {
  static constexpr const char* kName = "relu_squared";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V>) {
    const V u = z < 0 ? V{} : z;
    return u * u;
  }
  template <class V> static V first(V g, V z, P<V>) { return z < 0 ? V{} : 2 * g * z; }
  template <class V> static V second(V z, P<V>) { return z > 0 ? all<V>(2) : V{}; }
  template <class V> static V third(V, P<V>) { return V{}; }
  template <class V> static V fourth(V, P<V>) { return V{}; }
  template <class V> static V fifth(V, P<V>) { return V{}; }
};

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
