// Made by `python -m fusegrad.activations.generate` from definitions.py; not to be edited.
#pragma once

#include "elementary.h"

namespace fusegrad {
namespace FUSEGRAD_ISA {

struct Sin {
  static constexpr const char* kName = "sin";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V> omega) { return sin(omega * z); }
  template <class V> static V first(V g, V z, P<V> omega) { return omega * g * cos(omega * z); }
  template <class V> static V second(V z, P<V> omega) { return -omega * omega * sin(omega * z); }
  template <class V> static V third(V z, P<V> omega) { return -omega * omega * omega * cos(omega * z); }
  template <class V> static V fourth(V z, P<V> omega) { return omega * omega * omega * omega * sin(omega * z); }
  template <class V> static V fifth(V z, P<V> omega) { return omega * omega * omega * omega * omega * cos(omega * z); }
};

struct Snake {
  static constexpr const char* kName = "snake";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V> a) {
    const V sine = sin(a * z);
    return z + sine * sine / a;
  }
  template <class V> static V first(V g, V z, P<V> a) {
    const V u2 = a * z;
    const V u = cos(u2) + sin(u2);
    return g * (u * u);
  }
  template <class V> static V second(V z, P<V> a) {
    const V u = a * z;
    const V cosine = cos(u);
    const V sine = sin(u);
    return 2 * a * (cosine - sine) * (cosine + sine);
  }
  template <class V> static V third(V z, P<V> a) {
    const V u = a * z;
    return -8 * a * a * cos(u) * sin(u);
  }
  template <class V> static V fourth(V z, P<V> a) {
    const V u = a * z;
    const V sine = sin(u);
    const V cosine = cos(u);
    return 8 * a * a * a * (sine * sine - cosine * cosine);
  }
  template <class V> static V fifth(V z, P<V> a) {
    const V u = a * z;
    return 32 * a * a * a * a * cos(u) * sin(u);
  }
};

struct Morlet {
  static constexpr const char* kName = "morlet";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V> omega) { return cos(omega * z) * exp(c<V>(-0.5) * z * z); }
  template <class V> static V first(V g, V z, P<V> omega) {
    z = clamp(z, -40, 40);
    const V half = half_exp(c<V>(-0.5) * z * z);
    const V u = omega * z;
    return -g * ((cos(u) * z + omega * sin(u)) * half * half);
  }
  template <class V> static V second(V z, P<V> omega) {
    z = clamp(z, -40, 40);
    const V half = half_exp(c<V>(-0.5) * z * z);
    const V u = omega * z;
    return (2 * omega * sin(u) * z + (z * z - 1 - omega * omega) * cos(u)) * half * half;
  }
  template <class V> static V third(V z, P<V> omega) {
    z = clamp(z, -40, 40);
    const V half = half_exp(c<V>(-0.5) * z * z);
    const V u = omega * z;
    const V cosine = cos(u);
    return ((3 - z * z) * cosine * z + omega * (3 * omega * cosine * z + (3 + omega * omega - 3 * z * z) * sin(u))) *
           half * half;
  }
  template <class V> static V fourth(V z, P<V> omega) {
    z = clamp(z, -40, 40);
    const V half = half_exp(c<V>(-0.5) * z * z);
    const V u = omega * z;
    const V cosine = cos(u);
    const V sine = sin(u);
    const V u2 = z * z;
    return ((3 + (u2 - 6) * z * z) * cosine +
            omega *
                (4 * (u2 - 3) * sine * z + omega * ((6 + omega * omega - 6 * z * z) * cosine - 4 * omega * sine * z))) *
           half * half;
  }
  template <class V> static V fifth(V z, P<V> omega) {
    z = clamp(z, -40, 40);
    const V half = half_exp(c<V>(-0.5) * z * z);
    const V u = omega * z;
    const V cosine = cos(u);
    const V sine = sin(u);
    const V u2 = z * z;
    return (((10 - u2) * z * z - 15) * cosine * z +
            omega * (5 * ((6 - u2) * z * z - 3) * sine +
                     omega * (10 * (u2 - 3) * cosine * z +
                              omega * ((10 * z * z - 10 - omega * omega) * sine - 5 * omega * cosine * z)))) *
           half * half;
  }
};

struct Gaussian {
  static constexpr const char* kName = "gaussian";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V>) { return exp(-z * z); }
  template <class V> static V first(V g, V z, P<V>) {
    z = clamp(z, -40, 40);
    const V half = half_exp(-z * z);
    return g * (-2 * z * half * half);
  }
  template <class V> static V second(V z, P<V>) {
    z = clamp(z, -40, 40);
    const V half = half_exp(-z * z);
    return 2 * (2 * z * z - 1) * half * half;
  }
  template <class V> static V third(V z, P<V>) {
    z = clamp(z, -40, 40);
    const V half = half_exp(-z * z);
    return 4 * (3 - 2 * z * z) * z * half * half;
  }
  template <class V> static V fourth(V z, P<V>) {
    z = clamp(z, -40, 40);
    const V u = z * z;
    const V half = half_exp(-u);
    return 4 * (3 + 4 * (u - 3) * z * z) * half * half;
  }
  template <class V> static V fifth(V z, P<V>) {
    z = clamp(z, -40, 40);
    const V u = z * z;
    const V half = half_exp(-u);
    return 8 * (4 * (5 - u) * z * z - 15) * z * half * half;
  }
};

struct Exp {
  static constexpr const char* kName = "exp";
  static constexpr bool kSavesInput = false;
  template <class V> static V value(V z, P<V>) { return exp(z); }
  template <class V> static V first(V g, V y, P<V>) { return g * y; }
  template <class V> static V second(V, P<V>) { return all<V>(1); }
  template <class V> static V third(V, P<V>) { return V{}; }
  template <class V> static V fourth(V, P<V>) { return V{}; }
  template <class V> static V fifth(V, P<V>) { return V{}; }
};

struct Square {
  static constexpr const char* kName = "square";
  static constexpr bool kSavesInput = true;
  template <class V> static V value(V z, P<V>) { return z * z; }
  template <class V> static V first(V g, V z, P<V>) { return 2 * g * z; }
  template <class V> static V second(V, P<V>) { return all<V>(2); }
  template <class V> static V third(V, P<V>) { return V{}; }
  template <class V> static V fourth(V, P<V>) { return V{}; }
  template <class V> static V fifth(V, P<V>) { return V{}; }
};

}  // namespace FUSEGRAD_ISA
}  // namespace fusegrad
