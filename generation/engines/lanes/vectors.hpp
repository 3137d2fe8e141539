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

namespace networks {

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

inline float lane_of(Float a, int lane) { return a[lane]; }
inline Float to_float(Int a) { return __builtin_convertvector(a, Float); }

// The vector of what `number` gives for each lane.
template <class Number>
inline Float each_lane(Number number) {
  Float result{};
  for (int lane = 0; lane < kLanes; lane++) result[lane] = number(lane);
  return result;
}

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

}  // namespace networks
