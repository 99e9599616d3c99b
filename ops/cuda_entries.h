// The kernels as the launchers see them, under plain names such as lia_upfirdn2d_half_last_kUp2, for nvcc and NVRTC.
#pragma once

#include "cuda_kernels.h"

#define LIA_KERNEL extern "C" __global__ void __launch_bounds__(lia::kThreads, 4)

#define LIA_POINTWISE(name, T)                                                                                          \
  LIA_KERNEL lia_epilogue_##name##_planes_single(const lia::EpilogueArgs a, const lia::EpiloguePlan plan) {             \
    lia::epilogue<T, false, false>(a, plan, blockIdx.x, threadIdx.x);                                                   \
  }                                                                                                                     \
  LIA_KERNEL lia_epilogue_##name##_planes_chunked(const lia::EpilogueArgs a, const lia::EpiloguePlan plan) {            \
    lia::epilogue<T, false, true>(a, plan, blockIdx.x, threadIdx.x);                                                    \
  }                                                                                                                     \
  LIA_KERNEL lia_epilogue_##name##_last_single(const lia::EpilogueArgs a, const lia::EpiloguePlan plan) {               \
    lia::epilogue<T, true, false>(a, plan, blockIdx.x, threadIdx.x);                                                    \
  }                                                                                                                     \
  LIA_KERNEL lia_epilogue_##name##_last_chunked(const lia::EpilogueArgs a, const lia::EpiloguePlan plan) {              \
    lia::epilogue<T, true, true>(a, plan, blockIdx.x, threadIdx.x);                                                     \
  }                                                                                                                     \
  LIA_KERNEL lia_act_backward_##name##_single(const lia::ActBackwardArgs a) {                                           \
    lia::act_backward<T, false>(a, blockIdx.x, threadIdx.x);                                                            \
  }                                                                                                                     \
  LIA_KERNEL lia_act_backward_##name##_chunked(const lia::ActBackwardArgs a) {                                          \
    lia::act_backward<T, true>(a, blockIdx.x, threadIdx.x);                                                             \
  }

#define LIA_UPFIRDN(name, T, layout, LAST)                                                                              \
  LIA_KERNEL lia_upfirdn2d_##name##_##layout##_plain4(const lia::UpfirdnArgs a, const lia::UpfirdnPlan plan) {          \
    lia::upfirdn2d_taps4<T, LAST, 1, 1>(a, plan, blockIdx.x, threadIdx.x);                                              \
  }                                                                                                                     \
  LIA_KERNEL lia_upfirdn2d_##name##_##layout##_up2(const lia::UpfirdnArgs a, const lia::UpfirdnPlan plan) {             \
    lia::upfirdn2d_taps4<T, LAST, 2, 1>(a, plan, blockIdx.x, threadIdx.x);                                              \
  }                                                                                                                     \
  LIA_KERNEL lia_upfirdn2d_##name##_##layout##_down2(const lia::UpfirdnArgs a, const lia::UpfirdnPlan plan) {           \
    lia::upfirdn2d_taps4<T, LAST, 1, 2>(a, plan, blockIdx.x, threadIdx.x);                                              \
  }                                                                                                                     \
  LIA_KERNEL lia_upfirdn2d_##name##_##layout##_generic(const lia::UpfirdnArgs a, const lia::UpfirdnPlan plan) {         \
    lia::upfirdn2d_generic<T, LAST>(a, plan, blockIdx.x, threadIdx.x);                                                  \
  }

LIA_POINTWISE(float, float)
LIA_POINTWISE(half, lia::Half)
LIA_POINTWISE(bfloat16, lia::BFloat16)
LIA_UPFIRDN(float, float, planes, false)
LIA_UPFIRDN(float, float, last, true)
LIA_UPFIRDN(half, lia::Half, planes, false)
LIA_UPFIRDN(half, lia::Half, last, true)
LIA_UPFIRDN(bfloat16, lia::BFloat16, planes, false)
LIA_UPFIRDN(bfloat16, lia::BFloat16, last, true)
