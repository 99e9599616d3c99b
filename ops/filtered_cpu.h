// filtered_lrelu on the CPU. Sizes are positive, the memory is dense, and nothing overlaps.
#pragma once

#include "filtered.h"

namespace lia {

void filtered_cpu(const FilteredArgs& args);

}  // namespace lia
