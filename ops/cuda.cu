// Launchers of the CUDA kernels. They return a cudaError_t; float64 is left to the reference path.

#include "cuda.h"

#include <cuda_runtime.h>

#include "cuda_entries.h"

namespace lia {
namespace {

template <class... Args>
int launch(void (*kernel)(Args...), unsigned blocks, void* stream, const Args&... args) {
  if (blocks == 0) return cudaErrorInvalidConfiguration;
  kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(args...);
  return cudaGetLastError();
}

// What a launcher can choose from, by dtype in the order of Dtype.
#define LIA_BY_DTYPE(prefix, suffix) {prefix##float##suffix, prefix##half##suffix, prefix##bfloat16##suffix}

using Epilogue = void (*)(const EpilogueArgs, const EpiloguePlan);
constexpr Epilogue kEpilogue[2][2][3] = {  // [channels_last][chunked][dtype]
    {LIA_BY_DTYPE(lia_epilogue_, _planes_single), LIA_BY_DTYPE(lia_epilogue_, _planes_chunked)},
    {LIA_BY_DTYPE(lia_epilogue_, _last_single), LIA_BY_DTYPE(lia_epilogue_, _last_chunked)},
};

using ActBackward = void (*)(const ActBackwardArgs);
constexpr ActBackward kActBackward[2][3] = {  // [chunked][dtype]
    LIA_BY_DTYPE(lia_act_backward_, _single),
    LIA_BY_DTYPE(lia_act_backward_, _chunked),
};

using Upfirdn = void (*)(const UpfirdnArgs, const UpfirdnPlan);
constexpr Upfirdn kUpfirdn[2][4][3] = {  // [channels_last][path][dtype]
    {LIA_BY_DTYPE(lia_upfirdn2d_, _planes_plain4), LIA_BY_DTYPE(lia_upfirdn2d_, _planes_up2),
     LIA_BY_DTYPE(lia_upfirdn2d_, _planes_down2), LIA_BY_DTYPE(lia_upfirdn2d_, _planes_generic)},
    {LIA_BY_DTYPE(lia_upfirdn2d_, _last_plain4), LIA_BY_DTYPE(lia_upfirdn2d_, _last_up2),
     LIA_BY_DTYPE(lia_upfirdn2d_, _last_down2), LIA_BY_DTYPE(lia_upfirdn2d_, _last_generic)},
};

}  // namespace

int epilogue_cuda(const EpilogueArgs& args, void* stream) {
  if (args.dtype == kFloat64) return cudaErrorNotSupported;
  const EpiloguePlan plan = plan_epilogue(args);
  return launch(kEpilogue[args.channels_last][plan.chunked][args.dtype], plan.blocks, stream, args, plan);
}

int act_backward_cuda(const ActBackwardArgs& args, void* stream) {
  if (args.dtype == kFloat64) return cudaErrorNotSupported;
  const ActBackwardPlan plan = plan_act_backward(args);
  return launch(kActBackward[plan.chunked][args.dtype], plan.blocks, stream, args);
}

int upfirdn2d_cuda(const UpfirdnArgs& given, void* stream) {
  if (given.dtype == kFloat64) return cudaErrorNotSupported;
  UpfirdnArgs args = given;
  const bool fused = args.has_tail && is_fusible(args.tail.activation);
  args.has_tail = fused;
  const UpfirdnPlan plan = plan_upfirdn2d(args);
  const int error = launch(kUpfirdn[args.channels_last][plan.path][args.dtype], plan.blocks, stream, args, plan);
  if (error || fused || !given.has_tail) return error;
  // The rarer activations come in a pass of their own, in place.
  const int64_t positions = args.out_h * args.out_w;
  return epilogue_cuda({args.y, args.y, args.n, args.c, positions, args.channels_last, args.dtype, args.tail}, stream);
}

}  // namespace lia
