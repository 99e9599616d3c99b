// Threads of torch's own pool: a second pool beside it would fight for the same cores.
#pragma once

#include <torch/csrc/stable/c/shim.h>

#include <algorithm>
#include <cstdint>

namespace lia {

inline int64_t num_threads() {
  uint32_t count = 1;
  return torch_get_num_threads(&count) == 0 ? count : 1;
}

// Calls f(begin, end) for parts of [0, n) that have at least `grain` items. f must not throw.
template <class F>
void parallel_for(int64_t n, int64_t grain, const F& f) {
  if (n <= grain) {
    if (n > 0) f(int64_t{0}, n);
    return;
  }
  auto call = [](int64_t begin, int64_t end, void* context) { (*static_cast<const F*>(context))(begin, end); };
  torch_parallel_for(0, n, std::max<int64_t>(grain, 1), call, const_cast<F*>(&f));
}

}  // namespace lia
