// filtered_lrelu on CUDA, as the launchers of cuda.h.
#pragma once

#include "filtered.h"

namespace lia {

int filtered_cuda(const FilteredArgs& args, void* stream);

}  // namespace lia
