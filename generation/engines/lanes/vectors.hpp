// One vector holds one number of each of kLanes models. All arithmetic of the kernel goes through
// this file. Every operation is a correctly rounded IEEE one (+ - * / sqrt, fused multiply-add) or
// works on bits, and the compiler may not contract or reorder (-ffp-contract=off): so a lane's
// result does not depend on its neighbours, on the number of lanes or on the instruction set.

#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the Philox products assume it");

namespace lanes {

#if defined(LANES_AVX512)
constexpr int kLanes = 16, kRegisters = 32;
#elif defined(LANES_AVX2)
constexpr int kLanes = 8, kRegisters = 16;
#else
constexpr int kLanes = 4, kRegisters = 16;
#endif

typedef float Float __attribute__((vector_size(4 * kLanes)));
typedef int32_t Int __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Word __attribute__((vector_size(4 * kLanes)));
typedef uint64_t Wide __attribute__((vector_size(4 * kLanes)));

template <class To, class From>
inline To bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// What differs between instruction sets: a broadcast, a*b + c rounded once, the square root, and
// the 64-bit products of the even 32-bit lanes. (The maskz forms with a full mask are the plain
// operations; gcc 12 warns about those in its own header.)
#if defined(LANES_AVX512)
inline Float all(float a) { return (Float)_mm512_set1_ps(a); }
inline Float fma(Float a, Float b, Float c) {
  return (Float)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
inline Float sqrt(Float a) { return (Float)_mm512_maskz_sqrt_ps(0xffff, (__m512)a); }
inline Wide multiply_even(Wide a, Wide b) {
  return (Wide)_mm512_maskz_mul_epu32(0xff, (__m512i)a, (__m512i)b);
}
#elif defined(LANES_AVX2)
inline Float all(float a) { return (Float)_mm256_set1_ps(a); }
inline Float fma(Float a, Float b, Float c) {
  return (Float)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
inline Float sqrt(Float a) { return (Float)_mm256_sqrt_ps((__m256)a); }
inline Wide multiply_even(Wide a, Wide b) { return (Wide)_mm256_mul_epu32((__m256i)a, (__m256i)b); }
#else
inline Float all(float a) { return Float{a, a, a, a}; }
inline Float fma(Float a, Float b, Float c) {
#if defined(__FP_FAST_FMAF)
  for (int lane = 0; lane < kLanes; lane++) c[lane] = __builtin_fmaf(a[lane], b[lane], c[lane]);
  return c;
#else
  return a * b + c;  // two roundings: the only place where a processor without FMA differs
#endif
}
inline Float sqrt(Float a) {
  for (int lane = 0; lane < kLanes; lane++) a[lane] = __builtin_sqrtf(a[lane]);
  return a;
}
inline Wide multiply_even(Wide a, Wide b) { return (a & 0xffffffffu) * (b & 0xffffffffu); }
#endif

inline Int all(int32_t a) { return Int{} + a; }
inline Word all(uint32_t a) { return Word{} + a; }

// The vectors (a0 b0 a1 b1 ...) of the lower or the upper halves of a and b.
template <bool upper, std::size_t... i>
inline Float interleave(Float a, Float b, std::index_sequence<i...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, int(i / 2 + (i % 2) * kLanes + upper * kLanes / 2)...);
#else
  return __builtin_shuffle(a, b, Int{int(i / 2 + (i % 2) * kLanes + upper * kLanes / 2)...});
#endif
}

// Turns kLanes rows into columns: log2(kLanes) rounds of pairing row i with row i + kLanes / 2.
inline void transpose(Float (&rows)[kLanes]) {
  constexpr auto indices = std::make_index_sequence<kLanes>{};
#pragma GCC unroll 4
  for (int round = 1; round < kLanes; round *= 2) {
    Float paired[kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; i++) {
      paired[2 * i] = interleave<false>(rows[i], rows[i + kLanes / 2], indices);
      paired[2 * i + 1] = interleave<true>(rows[i], rows[i + kLanes / 2], indices);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; i++) rows[i] = paired[i];
  }
}

// e^x = 2^k (1 + expm1): k = round(x / ln 2), and e^r - 1 for the rest |r| <= ln(2) / 2 by the
// polynomial of Cephes' expf (S. Moshier). |x| must be below 88; NaN stays NaN.
struct ReducedExp {
  Float expm1, power;
  explicit ReducedExp(Float x) {
    const Float shifted = fma(x, all(1.44269504f), all(12582912.0f));  // 1.5 * 2^23: rounds
    const Float k = shifted - 12582912.0f;
    const Float r = fma(k, all(2.12194440e-4f), fma(k, all(-0.693359375f), x));
    Float p = fma(r, all(1.9875691500e-4f), all(1.3981999507e-3f));
    p = fma(p, r, all(8.3334519073e-3f));
    p = fma(p, r, all(4.1665795894e-2f));
    p = fma(p, r, all(1.6666665459e-1f));
    p = fma(p, r, all(5.0000001201e-1f));
    expm1 = fma(p, r * r, r);
    power = bits<Float>((bits<Int>(shifted) - (0x4b400000 - 127)) << 23);
  }
};

// Saturates at e^88 (1.7e38); below the smallest normal number 0.
inline Float exp(Float x) {
  Float clamped = x > 88.0f ? all(88.0f) : x;
  clamped = clamped < -87.0f ? all(-87.0f) : clamped;
  const ReducedExp e(clamped);
  const Float result = fma(e.expm1, e.power, e.power);
  return x < -87.0f ? all(0.0f) : result;
}

// (e^2|x| - 1) / (e^2|x| + 1) with the sign of x.
inline Float tanh(Float x) {
  const Int sign = bits<Int>(x) & INT32_MIN;
  const Float magnitude = bits<Float>(bits<Int>(x) ^ sign);
  const Float doubled = magnitude + magnitude;
  const ReducedExp e(doubled > 20.0f ? all(20.0f) : doubled);
  const Float expm1 = fma(e.expm1, e.power, e.power - 1.0f);
  return bits<Float>(bits<Int>(expm1 / (expm1 + 2.0f)) | sign);
}

// Natural logarithm of a normal positive number, after fdlibm's logf; NaN stays NaN.
inline Float log(Float x) {
  const Int k = (bits<Int>(x) - 0x3f3504f3) >> 23;  // x = 2^k m, m in [sqrt(1/2), sqrt(2))
  const Float f = bits<Float>(bits<Int>(x) - (k << 23)) - 1.0f;
  const Float s = f / (f + 2.0f), z = s * s;
  Float p = fma(z, all(0.24279078841f), all(0.28498786688f));
  p = fma(p, z, all(0.40000972152f));
  p = fma(p, z, all(0.66666662693f)) * z;
  const Float half = f * f * 0.5f, exponent = __builtin_convertvector(k, Float);
  const Float low = fma(s, half + p, exponent * 9.0580006145e-6f);
  const Float result = fma(exponent, all(0.69313812256f), f - (half - low));
  return x == x ? result : x;
}

// cos and sin of 2 pi u, u in [0, 1]: a number of quarters of a turn and the rest of at most an
// eighth, exact, by the polynomials of Cephes' sinf and cosf (S. Moshier).
struct Turn {
  Float cosine, sine;
  explicit Turn(Float u) {
    const Float shifted = fma(u, all(4.0f), all(12582912.0f));  // 1.5 * 2^23: rounds
    const Int quarters = bits<Int>(shifted);
    const Float x = fma(u, all(4.0f), 12582912.0f - shifted) * 1.57079632679489662f, z = x * x;
    Float s = fma(z, all(-1.9515295891e-4f), all(8.3321608736e-3f));
    s = fma(s, z, all(-1.6666654611e-1f));
    s = fma(s * z, x, x);
    Float c = fma(z, all(2.443315711809948e-5f), all(-1.388731625493765e-3f));
    c = fma(c, z, all(4.166664568298827e-2f));
    c = fma(c, z * z, fma(z, all(-0.5f), all(1.0f)));
    const Int odd = (quarters & 1) != 0;
    const Int cosine_sign = ((quarters + 1) & 2) << 30, sine_sign = (quarters & 2) << 30;
    cosine = bits<Float>(bits<Int>(odd ? s : c) ^ cosine_sign);
    sine = bits<Float>(bits<Int>(odd ? c : s) ^ sine_sign);
  }
};

// Error function to about 1 ulp (polynomials of N. Juffa), in two branches at 475/512.
inline Float erf(Float x) {
  const Int sign = bits<Int>(x) & INT32_MIN;
  const Float a = bits<Float>(bits<Int>(x) ^ sign), s = x * x;
  const Float t = a > 4.0f ? all(4.0f) : a;  // erf(4) rounds to 1; t * t must not overflow
  Float outer = fma(all(-1.72853470e-5f), t, all(3.83197126e-4f));
  outer = fma(outer, t * t, fma(all(-3.88396438e-3f), t, all(2.42546219e-2f)));
  outer = fma(outer, t, all(-1.06777877e-1f));
  outer = fma(outer, t, all(-6.34846687e-1f));
  outer = fma(outer, t, all(-1.28717512e-1f));
  outer = 1.0f - exp(fma(outer, t, -t));
  outer = bits<Float>(bits<Int>(outer) | sign);
  Float inner = fma(all(-5.96761703e-4f), s, all(4.99119423e-3f));
  inner = fma(inner, s, all(-2.67681349e-2f));
  inner = fma(inner, s, all(1.12819925e-1f));
  inner = fma(inner, s, all(-3.76125336e-1f));
  inner = fma(inner, s, all(1.28379166e-1f));
  inner = fma(inner, x, x);
  return a > 0.927734375f ? outer : inner;
}

// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", 2011);
// the counter becomes four random words, each lane under its own key. The even and the odd lanes go
// through the rounds apart, each in the lower half of a 64-bit lane; what lies in the upper half
// takes no part in the products.
inline void philox(Word (&counter)[4], Word key0, Word key1) {
  const Wide m0 = Wide{} + 0xD2511F53u, m1 = Wide{} + 0xCD9E8D57u;
  const Wide low_half = Wide{} + 0xffffffffu;
  Wide c[4][2], key[2][2];
#pragma GCC unroll 2
  for (int odd = 0; odd < 2; odd++) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) c[i][odd] = bits<Wide>(counter[i]) >> (32 * odd);
    key[0][odd] = bits<Wide>(key0) >> (32 * odd);
    key[1][odd] = bits<Wide>(key1) >> (32 * odd);
  }
#pragma GCC unroll 10
  for (int round = 0; round < 10; round++)
#pragma GCC unroll 2
    for (int odd = 0; odd < 2; odd++) {
      const Wide a = multiply_even(c[0][odd], m0), b = multiply_even(c[2][odd], m1);
      c[0][odd] = (b >> 32) ^ c[1][odd] ^ key[0][odd];
      c[2][odd] = (a >> 32) ^ c[3][odd] ^ key[1][odd];
      c[1][odd] = b;
      c[3][odd] = a;
      key[0][odd] += 0x9E3779B9u;
      key[1][odd] += 0xBB67AE85u;
    }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) counter[i] = bits<Word>((c[i][0] & low_half) | (c[i][1] << 32));
}

}  // namespace lanes
