// The dtypes on the CPU, and sums of rows. Everything is written as plain loops, which compilers vectorise.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#ifdef __F16C__
#include <immintrin.h>
#endif

namespace lia {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// Arithmetic is done in float, for double in double.
template <class T>
using compute_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

inline uint32_t bits_of(float x) {
  uint32_t u;
  std::memcpy(&u, &x, sizeof u);
  return u;
}

inline float float_of(uint32_t u) {
  float x;
  std::memcpy(&x, &u, sizeof x);
  return x;
}

inline float number(float x) { return x; }
inline double number(double x) { return x; }
inline float number(BFloat16 x) { return float_of(uint32_t{x.bits} << 16); }

inline void assign(float& to, float x) { to = x; }
inline void assign(double& to, double x) { to = x; }
inline void assign(BFloat16& to, float x) {
  // To nearest, ties to even; a NaN keeps a bit that makes it one.
  const uint32_t u = bits_of(x), rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  to.bits = static_cast<uint16_t>(x != x ? (u >> 16) | 0x40 : rounded);
}

#ifdef __F16C__
inline float number(Half x) { return _cvtsh_ss(x.bits); }
inline void assign(Half& to, float x) { to.bits = static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT)); }
#else
inline float number(Half x) {
  // The exponent is moved by a multiplication, which makes numbers of the subnormals as well (2^112 = 2^(127 - 15)).
  const float magnitude = float_of(uint32_t(x.bits & 0x7fff) << 13) * 0x1p112f;
  const uint32_t special = (x.bits & 0x7c00) == 0x7c00 ? 0x7f800000 : 0;
  return float_of(bits_of(magnitude) | special | uint32_t(x.bits & 0x8000) << 16);
}
inline void assign(Half& to, float x) {
  const uint32_t u = bits_of(x), sign = u >> 16 & 0x8000, magnitude = u & 0x7fffffff;
  uint32_t h;
  if (magnitude > 0x7f800000) {
    h = 0x7e00;
  } else if (magnitude >= 0x477ff000) {  // Rounds to 2^16 or more.
    h = 0x7c00;
  } else if (magnitude < 0x38800000) {  // Subnormal: adding 0.5 leaves multiples of 2^-24 in the low bits.
    h = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000;
  } else {
    h = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
  }
  to.bits = static_cast<uint16_t>(h | sign);
}
#endif

// to[i] = from[i], in the type of arithmetic.
template <class T>
inline void load_row(const T* from, compute_t<T>* to, int64_t n) {
  int64_t i = 0;
#ifdef __F16C__
  if constexpr (std::is_same_v<T, Half>) {
    for (; i + 8 <= n; i += 8) {
      _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
    }
  }
#endif
#pragma GCC ivdep
  for (; i < n; i++) to[i] = number(from[i]);
}

// to[i] += sum over m < M of taps[m] * rows[m][i].
template <int M, class T, class A>
inline void add_rows(const T* const* rows, const A* taps, A* to, int64_t n) {
  const T* r[M];
  A t[M];
  for (int m = 0; m < M; m++) r[m] = rows[m], t[m] = taps[m];
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) {
    A sum = to[i];
#pragma GCC unroll 4
    for (int m = 0; m < M; m++) sum += t[m] * number(r[m][i]);
    to[i] = sum;
  }
}

template <class T, class A>
inline void add_rows(const T* const* rows, const A* taps, int count, A* to, int64_t n) {
  int m = 0;
  for (; m + 4 <= count; m += 4) add_rows<4>(rows + m, taps + m, to, n);
  for (; m < count; m++) add_rows<1>(rows + m, taps + m, to, n);
}

}  // namespace lia
