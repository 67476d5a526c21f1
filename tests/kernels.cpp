// The kernels in a plain program, without torch: for sanitizers, and to try them on their own.
//
//   g++ -O1 -g -std=c++17 -fsanitize=address,undefined -Icsrc tests/kernels.cpp csrc/cpu/isa_*.cpp -lpthread
//
// or, of one instruction set, -DONLY=avx2::kKernels and its isa_avx2.cpp. (clang++ also sees what is added to null
// pointers.)
//
// Products of all types, layouts and sizes around the tiles, with every epilogue, of one matrix or of two, and gated
// ones, against sums in float64; chains of layers and their gradients; activations for NaN and for rows, and their
// backward passes, gz and gu with their sums against them. Exits with 1 at the first wrong number.
#include "cpu/kernels.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <future>
#include <new>
#include <random>
#include <vector>

#include "cpu/amx_allowed.h"

namespace fusegrad {

static int g_threads = 2;
static bool g_is_intel = false;
static thread_local bool t_inside = false;

bool is_intel() { return g_is_intel; }
bool multiply_by_mkl(const Gemm&) { return false; }

int threads() { return t_inside ? 1 : g_threads; }

void parallel(int64_t n, int64_t, void (*body)(int64_t, int64_t, void*), void* context) {
  std::vector<std::future<void>> pool;  // each joins its thread when it is destroyed
  const int64_t share = (n + g_threads - 1) / g_threads;
  for (int64_t from = 0; from < n; from += share)
    pool.push_back(std::async(std::launch::async, [=] {
      t_inside = true;
      body(from, std::min(n, from + share), context);
    }));
  for (auto& t : pool) t.get();
}

void* scratch(int slot, int64_t bytes) {
  // of the exact size each time, so that a sanitizer sees the least overrun
  thread_local std::vector<char> memory[kSlots];
  auto& m = memory[slot];
  m = std::vector<char>(bytes + 64);
  return m.data() + (64 - reinterpret_cast<uintptr_t>(m.data()) % 64) % 64;
}
void give_back(int) {}

}  // namespace fusegrad

using namespace fusegrad;

namespace {

double value(Type t, const void* data, int64_t i) {
  if (t == Type::f64) return static_cast<const double*>(data)[i];
  if (t == Type::f32) return static_cast<const float*>(data)[i];
  const uint16_t h = static_cast<const uint16_t*>(data)[i];
  if (t == Type::bf16) {
    const uint32_t u = uint32_t(h) << 16;
    float f;
    std::memcpy(&f, &u, 4);
    return f;
  }
  const int exponent = h >> 10 & 31, fraction = h & 1023;
  const double size = exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
  return h >> 15 ? -size : size;
}

double number(Type t, const std::vector<char>& data, int64_t i) { return value(t, data.data(), i); }

// A buffer of exactly n numbers, so that a sanitizer sees a read past its end.
std::vector<char> random_numbers(Type t, int64_t n, std::mt19937& random) {
  std::normal_distribution<double> normal;
  std::vector<char> data(n * size_of(t));
  for (int64_t i = 0; i < n; i++) {
    const float f = float(normal(random));
    const double d = f;
    uint32_t u;
    std::memcpy(&u, &f, 4);
    const uint16_t b = uint16_t(u >> 16);
    // a float16 with random sign and fraction, between 1/2 and 2
    const uint16_t h = uint16_t((u >> 16 & 0x8000) | ((u & 1) + 14) << 10 | (u >> 1 & 1023));
    const void* from = t == Type::f64    ? (const void*)&d
                       : t == Type::f32  ? (const void*)&f
                       : t == Type::bf16 ? (const void*)&b
                                         : &h;
    std::memcpy(data.data() + i * size_of(t), from, size_of(t));
  }
  return data;
}

double tolerance(Type t) { return t == Type::f64 ? 1e-13 : t == Type::f32 ? 1e-4 : t == Type::bf16 ? 0.1 : 0.02; }

// Room for a result that starts a line, as torch's do, full of NaN.
struct Result {
  char* data;
  explicit Result(int64_t bytes) : data(static_cast<char*>(::operator new(bytes, kAligned))) {
    std::memset(data, 0xff, bytes);
  }
  ~Result() { ::operator delete(data, kAligned); }
  Result(const Result&) = delete;
  static constexpr std::align_val_t kAligned{64};
};

struct Case {
  Type type;
  int64_t m, n, k;
  bool trans_a, trans_b, bias, relu, save;
};

bool right(const Kernels& kernels, const Case& c, std::mt19937& random) {
  const auto a = random_numbers(c.type, c.m * c.k, random), b = random_numbers(c.type, c.k * c.n, random),
             bias = random_numbers(c.type, c.n, random);
  const Result y(c.m * c.n * size_of(c.type)), saved(c.m * c.n * size_of(c.type));
  Gemm g{c.type,
         c.m,
         c.n,
         c.k,
         {a.data(), c.trans_a ? 1 : c.k, c.trans_a ? c.m : 1},
         {b.data(), c.trans_b ? 1 : c.n, c.trans_b ? c.k : 1},
         y.data};
  const Activation& relu = kernels.activations[1];
  if (c.bias) g.bias = bias.data();
  if (c.relu) g.activation = (c.type == Type::f64 ? relu.float64 : relu.float32)[0];
  if (c.save) g.saved = saved.data;
  kernels.gemm(g);
  for (int64_t i = 0; i < c.m; i++)
    for (int64_t j = 0; j < c.n; j++) {
      double z = c.bias ? value(c.type, bias.data(), j) : 0, size = std::fabs(z);
      for (int64_t p = 0; p < c.k; p++) {
        const double term = value(c.type, a.data(), i * g.a.row_stride + p * g.a.column_stride) *
                            value(c.type, b.data(), p * g.b.row_stride + j * g.b.column_stride);
        z += term;
        size += std::fabs(term);
      }
      const double got = value(c.type, y.data, i * c.n + j), want = c.relu ? std::fmax(z, 0) : z;
      const double got_saved = c.save ? value(c.type, saved.data, i * c.n + j) : z;
      if (std::fabs(got - want) <= tolerance(c.type) * (1 + size) &&
          std::fabs(got_saved - z) <= tolerance(c.type) * (1 + size))
        continue;
      std::printf(
          "%s: type %d, (%ld, %ld) x (%ld, %ld), transposed %d %d, bias %d, relu %d, save %d: (%ld, %ld) is %g, saved "
          "%g, not %g\n",
          kernels.isa, int(c.type), long(c.m), long(c.k), long(c.k), long(c.n), c.trans_a, c.trans_b, c.bias, c.relu,
          c.save, long(i), long(j), got, got_saved, z);
      return false;
    }
  return true;
}

}  // namespace

#include "kernels_chain.h"
#include "kernels_derivatives.h"
#include "kernels_gated.h"
#include "kernels_products.h"
#include "kernels_programs.h"
#include "kernels_streams.h"

namespace {

// backward and jvp of an activation, of two rows of n numbers, against the activation's own derivatives.
bool derivatives_right(const Kernels& kernels, const Activation& a, int order, Type t, int64_t n,
                       std::mt19937& random) {
  const auto gy = random_numbers(t, 2 * n, random), s = random_numbers(t, 2 * n, random),
             g = random_numbers(t, 2 * n, random), tg = random_numbers(t, 2 * n, random);
  const Elementwise* act = t == Type::f64 ? a.float64 : a.float32;
  std::vector<char> d(s.size()), next(s.size()), out[3] = {d, d, d};
  kernels.act(t, act[order], {1, 2 * n, s.data(), 0, nullptr, 0, d.data(), 0}, 1);
  kernels.act(t, act[order + 1], {1, 2 * n, s.data(), 0, nullptr, 0, next.data(), 0}, 1);
  const Derivative backward = (t == Type::f64 ? a.backward_float64 : a.backward_float32)[order - 1];
  const Derivative jvp = (t == Type::f64 ? a.jvp_float64 : a.jvp_float32)[order - 1];
  for (int forward = 0; forward < 2; forward++)
    for (int needed = 1; needed < (forward ? 4 : 8); needed += forward + 1) {  // forward, the first always is
      DerivativeArgs sheets{2, n, 3, 3, {gy.data(), s.data(), g.data()}, {n, n, n}, {}};
      if (forward) sheets = {2, n, 4, 2, {gy.data(), tg.data(), s.data(), g.data()}, {n, n, n, n}, {}};
      for (int k = 0; k < sheets.outs; k++) sheets.out[k] = needed >> k & 1 ? out[k].data() : nullptr;
      kernels.differentiate(t, forward ? jvp : backward, sheets, 1);
      for (int64_t i = 0; i < 2 * n; i++) {
        const double gy_i = value(t, gy.data(), i), g_i = value(t, g.data(), i), d_i = value(t, d.data(), i);
        const double gs = gy_i * g_i * value(t, next.data(), i), y = g_i * d_i;
        const double want[] = {forward ? gs + value(t, tg.data(), i) * d_i : gs, forward ? y : gy_i * d_i, y};
        for (int k = 0; k < sheets.outs; k++) {
          const double got = value(t, out[k].data(), i);
          if (!(needed >> k & 1) || std::fabs(got - want[k]) <= tolerance(t) * (2 + std::fabs(gs) + std::fabs(want[k])))
            continue;
          std::printf("%s: %s, %s of order %d, type %d: output %d of %ld is %g, not %g\n", kernels.isa, a.name,
                      forward ? "jvp" : "backward", order, int(t), k, long(i), got, want[k]);
          return false;
        }
      }
    }
  return true;
}

// gz and the sum of its rows, of rows that lie apart, against act and sums in float64; of gy alone without an
// activation.
bool gz_right(const Kernels& kernels, const Activation* a, Type t, int64_t m, int64_t n, int64_t gap,
              std::mt19937& random) {
  const int64_t numbers = m > 0 ? (m - 1) * (n + gap) + n : 0;
  const auto s = random_numbers(t, numbers, random), gy = random_numbers(t, numbers, random);
  std::vector<char> gz(m * n * size_of(t)), want(gz.size()), sum(n * size_of(t == Type::f64 ? t : Type::f32));
  const Elementwise f = a ? (t == Type::f64 ? a->float64 : a->float32)[1] : nullptr;
  ElementwiseArgs sheet{m, n, nullptr, 0, gy.data(), n + gap, nullptr, 0};
  if (f) sheet = {m, n, s.data(), n + gap, gy.data(), n + gap, want.data(), n};
  if (f) kernels.act(t, f, sheet, 1);
  if (f) sheet.out = gz.data();
  kernels.gz_and_sum(t, f, sheet, sum.data(), 1);
  if (gz != want) {
    std::printf("%s: gz of %s, type %d, is not as by act\n", kernels.isa, a->name, int(t));
    return false;
  }
  for (int64_t j = 0; j < n; j++) {
    double total = 0, size = 1;
    for (int64_t i = 0; i < m; i++) {
      const double term = f ? value(t, gz.data(), i * n + j) : value(t, gy.data(), i * (n + gap) + j);
      total += term;
      size += std::fabs(term);
    }
    const double got = value(t == Type::f64 ? t : Type::f32, sum.data(), j);
    if (std::fabs(got - total) <= 1e-6 * size) continue;
    std::printf("%s: sum of gz, type %d, column %ld of (%ld, %ld) is %g, not %g\n", kernels.isa, int(t), long(j),
                long(m), long(n), got, total);
    return false;
  }
  return true;
}

bool all_right(const Kernels& kernels, int rounds) {
  std::mt19937 random(1);
  const int64_t sizes[] = {0, 1, 2, 3, 5, 6, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 64, 65, 100, 145, 170, 257, 300};
  const auto size = [&] { return sizes[random() % (sizeof sizes / sizeof *sizes)]; };
  for (int i = 0; i < rounds; i++) {
    g_threads = 1 + random() % 3;
    const unsigned bits = random();
    Case c{Type(random() % 4), size(),         size(),         size(),         bool(bits & 1),
           bool(bits & 2),     bool(bits & 4), bool(bits & 8), bool(bits & 16)};
    if (c.m * c.n <= 3000 && i % 3 == 0) c.k = 2501;  // several blocks
    if (!right(kernels, c, random) || !gated_right(kernels, c, random)) return false;
  }
  for (int bits = 0; bits < 16; bits++) {  // of megabytes, which are written past the caches
    g_threads = 1 + bits % 2;
    const Type t = Type(bits / 4);
    const bool more = bits & 1, half = size_of(t) == 2;
    if (!right(kernels, {t, 701, half ? 1600 : 800, 5, false, bool(bits & 2), more, more, more}, random)) return false;
  }
  if (!chains_right(kernels, random) || !all_streams_right(kernels, random)) return false;
  if (!all_derivatives_right(kernels, random)) return false;
  if (!products_of_streams_right(kernels, random) || !programs_right(kernels, random)) return false;
  for (int a = 0; a < kernels.count; a++)
    for (int order = 0; order < kOrders; order++)
      for (Type t : {Type::f32, Type::f64, Type::bf16, Type::f16})
        for (int64_t n : {0, 1, 3, 8, 17, 1030}) {
          const auto s = random_numbers(t, n, random), g = random_numbers(t, n, random);
          std::vector<char> out(s.size()), again(s.size()), by_blocks(s.size());
          const Activation& act = kernels.activations[a];
          const Elementwise f = (t == Type::f64 ? act.float64 : act.float32)[order];
          const bool narrow = order < 2 && size_of(t) == 2;
          const auto run = [&](const ElementwiseArgs& args) {
            narrow ? (t == Type::bf16 ? act.bfloat16 : act.float16)[order](args, 1) : kernels.act(t, f, args, 1);
          };
          run({1, n, s.data(), 0, order ? g.data() : nullptr, 0, out.data(), 0});
          kernels.act(t, f, {1, n, s.data(), 0, order ? g.data() : nullptr, 0, by_blocks.data(), 0}, 1);
          for (int64_t i = 0; i < n; i++) {
            const double y = value(t, by_blocks.data(), i), last_place = narrow ? std::abs(y) / 128 + 1e-7 : 0;
            if (!(std::abs(value(t, out.data(), i) - y) <= last_place)) {
              std::printf("%s: %s, order %d: %g by blocks, %g not\n", kernels.isa, act.name, order, y,
                          value(t, out.data(), i));
              return false;
            }
          }
          const int64_t row = n / 3, size = size_of(t);
          run({3, row, s.data(), row, order ? g.data() : nullptr, row, again.data(), row});
          if (row > 0 && std::memcmp(out.data(), again.data(), 3 * row * size) != 0) {
            std::printf("%s: %s, order %d: rows differ from one\n", kernels.isa, kernels.activations[a].name, order);
            return false;
          }
          for (int64_t i = 0; i < n; i++)
            if (std::isnan(value(t, out.data(), i))) {
              std::printf("%s: %s, order %d: NaN at %g\n", kernels.isa, kernels.activations[a].name, order,
                          value(t, s.data(), i));
              return false;
            }
        }
  for (int a = 0; a < kernels.count; a++)
    for (int order = 1; order <= kDerivativeOrders; order++)
      for (Type t : {Type::f32, Type::f64, Type::bf16, Type::f16})
        for (int64_t n : {0, 1, 3, 8, 17, 1030})
          if (!derivatives_right(kernels, kernels.activations[a], order, t, n, random)) return false;
  for (Type t : {Type::f32, Type::f64, Type::bf16, Type::f16})
    for (int64_t m : {0, 1, 40})
      for (int64_t n : {1, 5, 100, 1030})
        for (int64_t gap : {0, 3})
          for (const Activation* a : {static_cast<const Activation*>(nullptr), kernels.activations + 1})
            if (!gz_right(kernels, a, t, m, n, gap, random) || !gates_right(kernels, t, m, n, gap, random))
              return false;
  return true;
}

}  // namespace

int main(int count, char** arguments) {
  const int rounds = count > 1 ? std::atoi(arguments[1]) : 500;
  [[maybe_unused]] const bool tiles = are_tiles_allowed();
#if defined(ONLY)
  const std::vector<Kernels> there = {ONLY};
#else
  std::vector<Kernels> there = {portable::kKernels};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) there.push_back(avx2::kKernels);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) there.push_back(avx512::kKernels);
  if (__builtin_cpu_supports("avx512bf16")) there.push_back(with_bf16());
  if (__builtin_cpu_supports("avx512bf16") && tiles) there.push_back(with_amx());
#endif
#endif
  for (const Kernels& kernels : there) {
    for (const bool intel : {false, true}) {
      g_is_intel = intel;
      const bool right = all_right(kernels, rounds);
      std::printf("%s%s: %s\n", kernels.isa, intel ? " as on Intel" : "", right ? "right" : "WRONG");
      if (!right) return 1;
    }
  }
  return 0;
}
