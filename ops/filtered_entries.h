// The kernels of filtered_lrelu under plain names, for nvcc and NVRTC.
#pragma once

#include "filtered_tile.h"

namespace lia {

template <class Tile>
__device__ __forceinline__ void filtered_block(const FilteredPlan& plan) {
  __shared__ alignas(16) float shared[Tile::kShared];
  for (int64_t block = blockIdx.x; block < plan.blocks; block += gridDim.x) {
#pragma unroll
    for (int step = 0; step < Tile::kSteps; step++) {
      Tile::step(step, plan, block, shared, threadIdx.x);
      __syncthreads();
    }
  }
}

}  // namespace lia

#define LIA_FILTERED(name, ...)                                                                                          \
  extern "C" __global__ void __launch_bounds__(lia::kTileThreads, 2) lia_filtered_##name(const lia::FilteredPlan plan) { \
    lia::filtered_block<__VA_ARGS__>(plan);                                                                              \
  }

LIA_FILTERED(22, lia::FixedTile<2, 2>)
LIA_FILTERED(42, lia::FixedTile<4, 2>)
LIA_FILTERED(24, lia::FixedTile<2, 4>)
LIA_FILTERED(any, lia::AnyTile)
