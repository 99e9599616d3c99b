// The CPU kernels. Sizes are positive, the memory is dense, and nothing overlaps, but that epilogue may work in place.
#pragma once

#include "kernels.h"

namespace lia {

void epilogue_cpu(const EpilogueArgs& args);
void act_backward_cpu(const ActBackwardArgs& args);
void upfirdn2d_cpu(const UpfirdnArgs& args);

}  // namespace lia
