// The index arithmetic and the taps of upfirdn2d on the CPU.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels.h"
#include "parallel.h"

namespace lia {

inline int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }
inline int64_t modulo(int64_t a, int64_t b) { return a - floor_div(a, b) * b; }

// The taps that meet real samples (not stuffed zeros) at one output: taps first, first + up, ... on samples source, source + 1, ...
struct Meeting {
  int first, count;
  int64_t source;
};

inline Meeting meet(int64_t out, int up, int down, int64_t pad, int taps, int64_t samples) {
  const int64_t start = out * down - pad;  // On the zero-stuffed axis.
  int64_t k = modulo(-start, up), source = (start + k) / up;
  if (source < 0) k += -source * up, source = 0;
  const int64_t count = std::min<int64_t>(taps > k ? (taps - k + up - 1) / up : 0, samples - source);
  return {static_cast<int>(std::min<int64_t>(k, taps)), static_cast<int>(std::max<int64_t>(count, 0)), source};
}

// A filter as rows x columns of taps in the order in which they meet the samples, gain included. A filter that is the outer
// product of two vectors (rank 1) is kept as these.
template <class A>
struct Taps {
  int kh, kw;
  bool separable;
  std::vector<A> x, y;  // Separable: [kw] and [kh]. Otherwise x is [kh, kw].

  explicit Taps(const UpfirdnArgs& args) : kh(args.kh), kw(args.kw), separable(args.separable) {
    auto row = [&](int i) { return args.flip ? i : kh - 1 - i; };
    auto column = [&](int j) { return args.flip ? j : kw - 1 - j; };
    if (separable) {
      // The gain is spread over the axes, like that of the reference.
      const A gain = std::sqrt(A(std::abs(args.gain)));
      for (int j = 0; j < kw; j++) x.push_back(A(args.f[column(j)]) * gain);
      for (int i = 0; i < kh; i++) y.push_back(A(args.f[row(i)]) * (args.gain < 0 ? -gain : gain));
      return;
    }
    for (int i = 0; i < kh; i++) {
      for (int j = 0; j < kw; j++) x.push_back(A(args.f[row(i) * kw + column(j)]));
    }
    const auto pivot = std::max_element(x.begin(), x.end(), [](A a, A b) { return std::abs(a) < std::abs(b); }) - x.begin();
    const A largest = x[pivot];
    bool rank1 = largest != 0;
    for (int i = 0; i < kh && rank1; i++) {
      for (int j = 0; j < kw && rank1; j++) {
        const A product = x[i * kw + pivot % kw] * x[(pivot / kw) * kw + j] / largest;
        rank1 = std::abs(product - x[i * kw + j]) <= 4 * std::numeric_limits<A>::epsilon() * std::abs(largest);
      }
    }
    if (rank1) {
      separable = true;
      for (int i = 0; i < kh; i++) y.push_back(x[i * kw + pivot % kw] / largest * A(args.gain));
      const std::vector<A> across(x.begin() + (pivot / kw) * kw, x.begin() + (pivot / kw + 1) * kw);
      x = across;
    } else {
      for (A& tap : x) tap *= A(args.gain);
    }
  }

  // What filters the samples of row k of the filter.
  const A* across(int k) const { return separable ? x.data() : x.data() + k * kw; }
};

// Into how many strips of rows each of `planes` planes is cut: strips repeat the rows where they meet, so there are no more
// of them than threads need.
inline int64_t strips_for(int64_t planes, int64_t out_h) {
  return planes >= 4 * num_threads() ? 1 : std::min<int64_t>(out_h, (4 * num_threads() + planes - 1) / planes);
}

// StyleGAN2's filters (fir4_cpu.cpp). False, and nothing done, where the filter is another one.
bool fir4_cpu(const UpfirdnArgs& args);

}  // namespace lia
