// What the CPU kernels share: dispatch over dtypes, and the tail of a modulated convolution on a vector.
#pragma once

#include <algorithm>

#include "vectors.h"

namespace lia {

// Elements that are worth a thread of their own.
constexpr int64_t kGrain = 32768;

// Calls f with a value of the type that `dtype` names.
template <class F>
void with_type(int dtype, const F& f) {
  if (dtype == kFloat32) return f(float{});
  if (dtype == kFloat64) return f(double{});
  if (dtype == kFloat16) return f(Half{});
  return f(BFloat16{});
}

// The tails hold copies, not references: a store of floats could change anything that lies behind a pointer, and the compiler
// would read it again for every vector.

// One channel of one image (NCHW).
template <class T>
class PlaneTail {
  using A = compute_t<T>;
  using V = vector_t<A>;

 public:
  // `plane` counts the channels of all images. Not `present`: nothing is done.
  PlaneTail(const Tail& tail, int64_t plane, int64_t channels, bool present = true)
      : present_(present), activate_(tail.activation) {
    if (tail.scale) scale_ = number(static_cast<const T*>(tail.scale)[plane]);
    if (tail.bias) bias_ = number(static_cast<const T*>(tail.bias)[plane % channels]);
    if (tail.noise) noise_ = static_cast<const T*>(tail.noise) + plane / channels * tail.noise_stride;
  }

  // For `count` neighbours from `position` on.
  V operator()(V v, int64_t position, int64_t count) const {
    if (!present_) return v;
    v = v * scale_ + bias_;
    if (noise_) v += load_first(noise_ + position, count);
    return activate_.forward(v);
  }

 private:
  bool present_;
  A scale_ = 1, bias_ = 0;
  const T* noise_ = nullptr;
  Activate<A> activate_;
};

// One image (channels_last).
template <class T>
class PixelTail {
  using A = compute_t<T>;
  using V = vector_t<A>;

 public:
  PixelTail(const Tail& tail, int64_t image, int64_t channels, bool present = true)
      : present_(present), bias_(static_cast<const T*>(tail.bias)), activate_(tail.activation) {
    if (tail.scale) scale_ = static_cast<const T*>(tail.scale) + image * channels;
    if (tail.noise) noise_ = static_cast<const T*>(tail.noise) + image * tail.noise_stride;
  }

  // For `count` channels from `channel` on.
  V operator()(V v, int64_t position, int64_t channel, int64_t count) const {
    if (!present_) return v;
    if (scale_) v *= load_first(scale_ + channel, count);
    if (bias_) v += load_first(bias_ + channel, count);
    if (noise_) v += A(number(noise_[position]));
    return activate_.forward(v);
  }

 private:
  bool present_;
  const T *scale_ = nullptr, *noise_ = nullptr, *bias_ = nullptr;
  Activate<A> activate_;
};

}  // namespace lia
