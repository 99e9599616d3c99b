// Launcher of filtered_lrelu's CUDA kernels. Returns a cudaError_t; float64 is left to the reference path.

#include "filtered_cuda.h"

#include <cuda_runtime.h>

#include "filtered_entries.h"

namespace lia {

int filtered_cuda(const FilteredArgs& args, void* stream) {
  if (args.dtype == kFloat64) return cudaErrorNotSupported;
  FilteredPlan plan{};
  TileKind kind;
  if (!plan_filtered(args, plan, kind)) return cudaErrorInvalidConfiguration;
  constexpr void (*kKernels[])(const FilteredPlan) = {lia_filtered_22, lia_filtered_42, lia_filtered_24, lia_filtered_any};
  const unsigned blocks = static_cast<unsigned>(plan.blocks < 0x7fffffff ? plan.blocks : 0x7fffffff);
  kKernels[kind]<<<blocks, kTileThreads, 0, static_cast<cudaStream_t>(stream)>>>(plan);
  return cudaGetLastError();
}

}  // namespace lia
