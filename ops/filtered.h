// What the binding hands to the kernels of filtered_lrelu; plain, as kernels.h.
#pragma once

#include "kernels.h"

namespace lia {

// One of the two filters. Taps are taken as they are stored where `flip`, else mirrored.
struct FilterStage {
  const float* f;      // [kh, kw]; where separable, [kw] for both axes, and kh = kw; null: one tap of 1
  int kh, kw;
  bool separable;
  int factor;          // Of upsampling, or of decimation.
  int pad_x0, pad_y0;  // The other two paddings act through the sizes alone.
};

// y = D (m * (U (x + b))): U upsamples and filters, m acts on each sample of the higher rate, D filters and decimates.
// Without `mask_in`, m is the activation clamp(lrelu(v) * gain, ±clamp), and the paddings of D are zero.
// With it, m is the derivative that was recorded there: a linear operator, whose adjoint is of the same kind.
struct FilteredArgs {
  const void* x;                 // [planes, in_h, in_w]; plane = image * channels + channel
  void* y;                       // [planes, out_h, out_w]
  const void* bias;              // [channels], or null
  const unsigned char* mask_in;  // [planes, high_h, ceil(high_w / 4)], or null
  unsigned char* mask_out;       // The same, or null where no derivative will be asked for.
  int64_t planes, channels;
  int64_t in_h, in_w, high_h, high_w, out_h, out_w;
  FilterStage up, down;
  bool flip;
  int dtype;
  double gain, slope, clamp;  // clamp < 0 means none
};

// Two bits of the mask, the first sample of a byte in the lowest: bit 0 where the sample took the negative slope, bit 1 where
// the clamp acted and the derivative is zero.
constexpr int kNegative = 1, kClamped = 2;

}  // namespace lia
