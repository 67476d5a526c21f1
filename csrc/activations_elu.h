// Made by `python -m fusegrad.activations.generate` from definitions.py; not to be edited.
#pragma once

#include "elementary.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

struct Elu {
  static constexpr const char* kName = "elu";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V> alpha) { return z <= 0 ? alpha * expm1(z) : z; }
  template <class V> static V first(V g, V z, P<V> alpha) {
    const V half = half_decay(z);
    return z > 0 ? g : g * (alpha * half * half);
  }
  template <class V> static V second(V z, P<V> alpha) {
    const V half = half_decay(z);
    return z >= 0 ? V{} : alpha * half * half;
  }
  template <class V> static V third(V z, P<V> alpha) {
    const V half = half_decay(z);
    return z >= 0 ? V{} : alpha * half * half;
  }
  template <class V> static V fourth(V z, P<V> alpha) {
    const V half = half_decay(z);
    return z >= 0 ? V{} : alpha * half * half;
  }
  template <class V> static V fifth(V z, P<V> alpha) {
    const V half = half_decay(z);
    return z >= 0 ? V{} : alpha * half * half;
  }
};

struct Selu {
  static constexpr const char* kName = "selu";
  static constexpr bool kSavesInput = true;
  static constexpr double kAlpha = 1.6732632423543772;
  static constexpr double kScale = 1.0507009873554805;
  template <class V> static V value(V z, P<V>) { return z <= 0 ? c<V>(kAlpha * kScale) * expm1(z) : c<V>(kScale) * z; }
  template <class V> static V first(V g, V z, P<V>) {
    const V half = half_decay(z);
    return g * (z > 0 ? all<V>(c<V>(kScale)) : c<V>(kAlpha * kScale) * half * half);
  }
  template <class V> static V second(V z, P<V>) {
    const V half = half_decay(z);
    return z >= 0 ? V{} : c<V>(kAlpha * kScale) * half * half;
  }
  template <class V> static V third(V z, P<V>) {
    const V half = half_decay(z);
    return z >= 0 ? V{} : c<V>(kAlpha * kScale) * half * half;
  }
  template <class V> static V fourth(V z, P<V>) {
    const V half = half_decay(z);
    return z >= 0 ? V{} : c<V>(kAlpha * kScale) * half * half;
  }
  template <class V> static V fifth(V z, P<V>) {
    const V half = half_decay(z);
    return z >= 0 ? V{} : c<V>(kAlpha * kScale) * half * half;
  }
};

struct Celu {
  static constexpr const char* kName = "celu";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V> alpha) { return z <= 0 ? alpha * expm1(z / alpha) : z; }
  template <class V> static V first(V g, V z, P<V> alpha) {
    const V half = half_decay(z / alpha);
    return z > 0 ? g : g * (half * half);
  }
  template <class V> static V second(V z, P<V> alpha) {
    const V half = half_decay(z / alpha);
    return z >= 0 ? V{} : (1 / alpha) * half * half;
  }
  template <class V> static V third(V z, P<V> alpha) {
    const V half = half_decay(z / alpha);
    return z >= 0 ? V{} : (1 / (alpha * alpha)) * half * half;
  }
  template <class V> static V fourth(V z, P<V> alpha) {
    const V half = half_decay(z / alpha);
    return z >= 0 ? V{} : (1 / (alpha * alpha * alpha)) * half * half;
  }
  template <class V> static V fifth(V z, P<V> alpha) {
    const V half = half_decay(z / alpha);
    return z >= 0 ? V{} : (1 / (alpha * alpha * alpha * alpha)) * half * half;
  }
};

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
