// The CUDA launchers. Sizes are positive, the memory is dense, and nothing overlaps, but that epilogue may work in place. They
// return a cudaError_t, 0 if all went well.
#pragma once

#include "kernels.h"

namespace lia {

int epilogue_cuda(const EpilogueArgs& args, void* stream);
int act_backward_cuda(const ActBackwardArgs& args, void* stream);
int upfirdn2d_cuda(const UpfirdnArgs& args, void* stream);

}  // namespace lia
