// One vector register of numbers in the type of arithmetic, loaded from and stored to any dtype (GCC's vector extension), and
// the activations on it.
#pragma once

#include <limits>

#include "activation.h"
#include "kernels.h"
#include "rows.h"

namespace lia {

// As many numbers as an AVX-512 register holds; narrower machines take several registers.
template <class A>
struct Vector {
  static constexpr int64_t size = 64 / sizeof(A);
  typedef A type __attribute__((vector_size(64)));
};
template <class A>
using vector_t = typename Vector<A>::type;
typedef uint32_t bits_t __attribute__((vector_size(64)));
typedef uint16_t words_t __attribute__((vector_size(32)));

template <class T>
inline vector_t<compute_t<T>> load(const T* from) {
  using A = compute_t<T>;
  vector_t<A> v;
  if constexpr (std::is_same_v<T, A>) {
    std::memcpy(&v, from, sizeof v);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    words_t words;
    std::memcpy(&words, from, sizeof words);
    const bits_t bits = __builtin_convertvector(words, bits_t) << 16;
    std::memcpy(&v, &bits, sizeof v);
#ifdef __AVX512F__
  } else if constexpr (std::is_same_v<T, Half>) {
    const __m512 wide = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    std::memcpy(&v, &wide, sizeof v);
#endif
  } else {
    alignas(64) A part[Vector<A>::size];
    load_row(from, part, Vector<A>::size);
    std::memcpy(&v, part, sizeof v);
  }
  return v;
}

// The first n numbers; zeros follow. Single elements are reached through an array, never as v[i]: that would keep v in memory
// on the common path, too.
template <class T>
inline vector_t<compute_t<T>> load_first(const T* from, int64_t n) {
  using A = compute_t<T>;
  if (n >= Vector<A>::size) return load(from);
  A part[Vector<A>::size] = {};
  for (int64_t i = 0; i < n; i++) part[i] = number(from[i]);
  return load(part);
}

template <class T>
inline void store(T* to, vector_t<compute_t<T>> v) {
  using A = compute_t<T>;
  if constexpr (std::is_same_v<T, A>) {
    std::memcpy(to, &v, sizeof v);
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    bits_t bits;
    std::memcpy(&bits, &v, sizeof v);
    // As `assign` does it.
    const bits_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16, nan = (bits >> 16) | 0x40;
    const words_t words = __builtin_convertvector(v != v ? nan : rounded, words_t);
    std::memcpy(to, &words, sizeof words);
#ifdef __AVX512F__
  } else if constexpr (std::is_same_v<T, Half>) {
    __m512 wide;
    std::memcpy(&wide, &v, sizeof v);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(wide, _MM_FROUND_TO_NEAREST_INT));
#endif
  } else {
    A part[Vector<A>::size];
    std::memcpy(part, &v, sizeof v);
    for (int64_t i = 0; i < Vector<A>::size; i++) assign(to[i], part[i]);
  }
}

// The first n numbers of v.
template <class T>
inline void store_first(T* to, vector_t<compute_t<T>> v, int64_t n) {
  using A = compute_t<T>;
  if (n >= Vector<A>::size) return store(to, v);
  A part[Vector<A>::size];
  std::memcpy(part, &v, sizeof v);
  for (int64_t i = 0; i < n; i++) assign(to[i], part[i]);
}

// a0 b0 a1 b1 ...: the first and the second half.
template <class A>
inline void weave(vector_t<A> a, vector_t<A> b, vector_t<A>& first, vector_t<A>& second) {
  if constexpr (sizeof(A) == 4) {
    first = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    second = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  } else {
    first = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    second = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
  }
}

// The activation on a vector. The piecewise linear ones, which StyleGANs use, take a few instructions; the others are computed
// one by one. Objects of this class are copied into the functions that loop, so that the numbers stay in registers.
template <class A>
class Activate {
  using V = vector_t<A>;

 public:
  explicit Activate(const Activation& a)
      : act_(a.act),
        alpha_(A(a.alpha)),
        above_(A(a.gain)),
        below_(A(a.gain) * (a.act == kLinear ? A(1) : a.act == kRelu ? A(0) : A(a.alpha))),
        limit_(a.clamp < 0 ? std::numeric_limits<A>::infinity() : A(a.clamp)) {}

  // clamp(act(v) * gain, ±clamp)
  V forward(V v) const {
    if (is_piecewise()) {
      // Where the slope is 0, -infinity becomes 0 and a NaN stays one, which a product would not do.
      const V negative = below_ == 0 ? (v < 0 ? V{} : v) : v * below_;
      v = v > 0 ? v * above_ : negative;
    } else {
      v = smooth_forward(v);
    }
    v = v < -limit_ ? V{} - limit_ : v;
    return v > limit_ ? V{} + limit_ : v;
  }

  // dy * d forward(v) / dv, from ref = forward(v), but v for swish.
  V backward(V dy, V ref) const {
    if (!is_piecewise()) return smooth_backward(dy, ref);
    const V sign = above_ < 0 ? V{} - ref : ref;  // The gain may have turned it.
    const V g = sign > 0 ? dy * above_ : dy * below_;
    return ref >= limit_ ? V{} : (ref <= -limit_ ? V{} : g);
  }

 private:
  bool is_piecewise() const { return act_ == kLinear || act_ == kRelu || act_ == kLrelu; }

  [[gnu::noinline]] V smooth_forward(V v) const {
    A part[Vector<A>::size];
    store(part, v);
    for (A& value : part) value = activation_forward(act_, value, alpha_) * above_;
    return load(part);
  }

  [[gnu::noinline]] V smooth_backward(V dy, V ref) const {
    A part[Vector<A>::size], refs[Vector<A>::size];
    store(part, dy), store(refs, ref);
    for (int64_t i = 0; i < Vector<A>::size; i++) part[i] *= activation_derivative(act_, refs[i], alpha_, above_, limit_);
    return load(part);
  }

  int act_;
  A alpha_, above_, below_, limit_;
};

}  // namespace lia
