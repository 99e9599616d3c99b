// The activations and their derivatives, for float and double, on CPU and GPU. The definitions are those of ACTIVATIONS in
// lia_adapter/ops/reference.py.
#pragma once

#include "kernels.h"

#ifndef __CUDACC_RTC__  // NVRTC brings these functions itself.
#include <cmath>
#endif

#ifdef __CUDACC__
#define LIA_HOST_DEVICE __host__ __device__ inline
#else
#define LIA_HOST_DEVICE inline
#endif

namespace lia {

#ifndef __CUDACC_RTC__
using std::exp;
using std::expm1;
using std::log1p;
using std::tanh;
#endif

// act(v), before gain and clamp.
template <class A>
LIA_HOST_DEVICE A activation_forward(int act, A v, A alpha) {
  switch (act) {
    case kRelu: return v < A(0) ? A(0) : v;  // This way round, a NaN stays one.
    case kLrelu: return v > A(0) ? v : v * alpha;
    case kTanh: return tanh(v);
    case kSigmoid: return A(1) / (A(1) + exp(-v));
    case kElu: return v > A(0) ? v : expm1(v);
    case kSelu: return A(1.0507009873554805) * (v > A(0) ? v : A(1.6732632423543772) * expm1(v));
    case kSoftplus: return v > A(20) ? v : log1p(exp(v));  // Torch's threshold; beyond it the two agree to float precision.
    case kSwish: return v / (A(1) + exp(-v));
    default: return v;
  }
}

// d clamp(act(v) * gain, ±limit) / dv, from ref: clamp(act(v) * gain, ±limit), but v for swish. No clamp: limit = infinity.
template <class A>
LIA_HOST_DEVICE A activation_derivative(int act, A ref, A alpha, A gain, A limit) {
  if (gain == A(0)) return A(0);
  const A sigmoid = act == kSwish ? A(1) / (A(1) + exp(-ref)) : A(0);
  const A y = act == kSwish ? ref * sigmoid * gain : ref;
  if (y >= limit || y <= -limit) return A(0);
  const A a = y / gain;  // act(v)
  switch (act) {
    case kRelu: return a > A(0) ? gain : A(0);
    case kLrelu: return a > A(0) ? gain : gain * alpha;
    case kTanh: return gain * (A(1) - a * a);
    case kSigmoid: return gain * a * (A(1) - a);
    case kElu: return a > A(0) ? gain : gain * (a + A(1));
    case kSelu: return gain * (a > A(0) ? A(1.0507009873554805) : a + A(1.0507009873554805) * A(1.6732632423543772));
    case kSoftplus: return gain * -expm1(-a);
    case kSwish: return gain * sigmoid * (A(1) + ref * (A(1) - sigmoid));
    default: return gain;
  }
}

}  // namespace lia
