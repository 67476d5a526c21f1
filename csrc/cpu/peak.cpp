#include "peak.h"

#include <atomic>
#include <chrono>
#include <future>
#include <stdexcept>
#include <thread>
#include <vector>

#include "amx_config.h"
#include "capability.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define FUSEGRAD_TARGET(isa) __attribute__((target(isa)))
#else
#define FUSEGRAD_TARGET(isa)
#endif

namespace fusegrad {
namespace {

// Twelve independent chains: enough to cover the latency of two FMA units (4 cycles each).
constexpr int kChains = 12;
constexpr long kSteps = 20000;

using Loop = double (*)();  // runs kSteps steps, returns the flops done

template <class Scalar, int Bytes> [[gnu::always_inline]] inline double multiply_add() {
  typedef Scalar Vector __attribute__((vector_size(Bytes)));
  volatile Scalar given = 1;  // unknown to the compiler: it leaves out a chain that it knows to stay what it is
  Vector sum[kChains];
  for (int i = 0; i < kChains; i++) sum[i] = Vector{} + given * Scalar(i);
  const Vector a = Vector{} + given * Scalar(0.999), b = Vector{} + given * Scalar(0.001);
  for (long step = 0; step < kSteps; step++) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; i++) sum[i] = sum[i] * a + b;
  }
  Vector all{};
  for (int i = 0; i < kChains; i++) all += sum[i];
  volatile Scalar sink = all[0];
  (void)sink;
  return 2.0 * kChains * kSteps * (Bytes / sizeof(Scalar));
}

template <class Scalar> double portable() { return multiply_add<Scalar, 16>(); }

#if defined(__x86_64__)
template <class Scalar> FUSEGRAD_TARGET("avx2,fma") double avx2() { return multiply_add<Scalar, 32>(); }

template <class Scalar> FUSEGRAD_TARGET("avx512f") double avx512() { return multiply_add<Scalar, 64>(); }

FUSEGRAD_TARGET("avx512f,avx512bf16") double avx512_bf16() {
  __m512 sum[kChains];
#pragma GCC unroll 12
  for (int i = 0; i < kChains; i++) sum[i] = _mm512_set1_ps(float(i));  // each another, or they are one
  __m512i ones = _mm512_set1_epi32(0x3f803f80);
  for (long step = 0; step < kSteps; step++) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; i++) sum[i] = _mm512_dpbf16_ps(sum[i], (__m512bh)ones, (__m512bh)ones);
    asm volatile("" : "+v"(ones));  // a new number for all that the compiler knows
  }
  __m512 all = _mm512_setzero_ps();
  for (int i = 0; i < kChains; i++) all = _mm512_add_ps(all, sum[i]);
  volatile float sink = all[0];
  (void)sink;
  return 2.0 * kChains * kSteps * 32;
}

#if defined(FUSEGRAD_HAS_AMX)
// By tiles of 16 x 16 sums, four of which do not wait for one another.
FUSEGRAD_TARGET("amx-tile,amx-bf16") double amx() {
  _tile_loadconfig(&kWholeTiles);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  constexpr long kRounds = kSteps / 16;
  for (long step = 0; step < kRounds; step++) {
    _tile_dpbf16ps(0, 4, 5);
    _tile_dpbf16ps(1, 4, 5);
    _tile_dpbf16ps(2, 4, 5);
    _tile_dpbf16ps(3, 4, 5);
  }
  _tile_release();
  return 2.0 * 4 * kRounds * 16 * 16 * 32;
}
#endif
#endif

template <class Scalar> Loop widest() {
#if defined(__x86_64__)
  const std::string isa = capability();
  if (isa.rfind("avx512", 0) == 0 || isa == "amx") return avx512<Scalar>;
  if (isa == "avx2") return avx2<Scalar>;
#endif
  return portable<Scalar>;
}

Loop loop_for(const std::string& dtype) {
  if (dtype == "float32") return widest<float>();
  if (dtype == "float64") return widest<double>();
  if (dtype != "bfloat16")
    throw std::invalid_argument("peak_gflops: dtype must be float32, float64 or bfloat16, got " + dtype);
#if defined(__x86_64__)
  const std::string isa = capability();
#if defined(FUSEGRAD_HAS_AMX)
  if (isa == "amx") return amx;
#endif
  if (isa == "avx512_bf16") return avx512_bf16;
#endif
  return nullptr;
}

double rate(Loop loop, double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  double flops = 0, elapsed = 0;
  while (elapsed < seconds) {
    flops += loop();
    elapsed = std::chrono::duration<double>(Clock::now() - start).count();
  }
  return flops / elapsed / 1e9;
}

}  // namespace

double peak_gflops(const std::string& dtype, int threads, double seconds) {
  if (threads < 1) throw std::invalid_argument("peak_gflops: threads must be at least 1");
  const Loop loop = loop_for(dtype);
  if (loop == nullptr) return 0;
  std::atomic<int> waiting{threads};
  std::vector<std::future<double>> rates;  // each joins its thread when it is destroyed
  try {
    for (int i = 0; i < threads; i++) {
      rates.push_back(std::async(std::launch::async, [&] {
        waiting--;
        while (waiting > 0) std::this_thread::yield();
        return rate(loop, seconds);
      }));
    }
  } catch (...) {  // no more threads: those that there are wait for no others
    waiting = 0;
    throw;
  }
  double total = 0;
  for (auto& each : rates) total += each.get();
  return total;
}

}  // namespace fusegrad
