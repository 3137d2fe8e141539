// One number of one model: what kernels/arithmetic.hpp and the others need where a thread works on
// single numbers. Every operation is a correctly rounded IEEE one or works on bits; the compiler may
// not contract, and takes subnormal numbers as zero, as the lanes do.

#pragma once

#if defined(__CUDACC_RTC__)  // NVRTC has no standard headers
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;

inline unsigned char* shared_memory() {
  extern __shared__ double2 memory[];
  return reinterpret_cast<unsigned char*>(memory);
}
#endif

namespace networks {

constexpr int kLanes = 1;

typedef float Float;
typedef int32_t Int;
typedef uint32_t Word;

template <class To, class From>
inline To bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "the same number of bits");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

inline Float all(float a) { return a; }
inline Int all(int32_t a) { return a; }
inline Float fma(Float a, Float b, Float c) { return ::fmaf(a, b, c); }
inline Float sqrt(Float a) { return ::sqrtf(a); }
inline Float to_float(Int a) { return float(a); }
inline float lane_of(Float a, int) { return a; }

template <class Number>
inline Float each_lane(Number number) {
  return number(0);
}

// Philox4x32-10, see generation/streams.py: the counter becomes four random words.
inline void philox(Word (&counter)[4], Word key0, Word key1) {
  for (int round = 0; round < 10; round++) {
    const uint64_t a = uint64_t(counter[0]) * 0xD2511F53u, b = uint64_t(counter[2]) * 0xCD9E8D57u;
    counter[0] = Word(b >> 32) ^ counter[1] ^ key0;
    counter[2] = Word(a >> 32) ^ counter[3] ^ key1;
    counter[1] = Word(b);
    counter[3] = Word(a);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

// The n numbers from `from` on, with loads of up to four at a time. The address is known to be a
// multiple of `aligned` numbers.
struct alignas(8) Two {
  float at[2];
};
struct alignas(16) Four {
  float at[4];
};
template <int aligned, int n>
inline void load(const float* from, float (&to)[n]) {
  constexpr int width = aligned % 4 == 0 && n % 4 == 0 ? 4 : aligned % 2 == 0 && n % 2 == 0 ? 2 : 1;
#pragma unroll
  for (int start = 0; start < n; start += width) {
    if constexpr (width == 4) {
      const Four four = *reinterpret_cast<const Four*>(from + start);
#pragma unroll
      for (int i = 0; i < 4; i++) to[start + i] = four.at[i];
    } else if constexpr (width == 2) {
      const Two two = *reinterpret_cast<const Two*>(from + start);
      to[start] = two.at[0];
      to[start + 1] = two.at[1];
    } else {
      to[start] = from[start];
    }
  }
}

}  // namespace networks
