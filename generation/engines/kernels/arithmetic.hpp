// Functions of numbers: e^x, log, tanh, the error function, a turn's cosine and sine. `Float` is a
// vector with a number of each lane's model (lanes/vectors.hpp) or one number (cuda/scalars.hpp);
// either file gives `all`, `fma`, `sqrt`, `bits` and `to_float`. As each operation is rounded
// correctly, the result has the same bits in either.

#pragma once

namespace networks {

constexpr int32_t kSign = -0x7fffffff - 1;  // the sign bit

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
  const Int sign = bits<Int>(x) & kSign;
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
  const Float half = f * f * 0.5f, exponent = to_float(k);
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
  const Int sign = bits<Int>(x) & kSign;
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

}  // namespace networks
