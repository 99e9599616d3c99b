// How a call is laid over blocks and threads. Plain host code, mirrored for NVRTC in lia_adapter/ops/nvrtc_plans.py; a test compares.
#pragma once

#include "activation.h"
#include "kernels.h"

namespace lia {

constexpr int kThreads = 128;

// A thread of `epilogue` takes `steps` chunks (or single elements) of one channel (or group of channels), `phases` apart.
struct EpiloguePlan {
  int64_t n, positions;   // Of the tensor after images that nothing tells apart have been joined.
  unsigned chunked;       // Sixteen bytes at a time, else single elements.
  unsigned across;        // channels_last: chunks in a pixel; else chunks in a plane.
  unsigned phases;        // Threads that share a column of pixels (channels_last) or a plane.
  unsigned units;         // Threads an image.
  unsigned image_blocks;  // Blocks an image.
  unsigned blocks;        // 0: too large.
};

struct ActBackwardPlan {
  unsigned chunked;
  unsigned blocks;
};

enum Path : unsigned { kPlain4, kUp2, kDown2, kGeneric };

// A thread of the 4-tap paths takes a chunk of a row (two side by side in channels_last if up = 2) and marches down `rows`
// steps, each of which makes one row of y (two if up = 2). A block of channels_last has 2^log_channels chunks of channels times
// kThreads / 2^log_channels columns. The generic path has a thread an element.
struct UpfirdnPlan {
  unsigned path;
  unsigned chunked;        // Sixteen bytes at a time can be stored, else single elements.
  unsigned log_channels;   // channels_last
  unsigned channel_tiles;  // channels_last: blocks side by side that make up a pixel
  unsigned columns;        // channels_last: blocks side by side that make up a row; else threads that make up a row
  unsigned steps;          // That make up all rows.
  unsigned rows;           // Steps of a thread.
  unsigned strips;         // Threads that share a column.
  unsigned units;          // Threads in all; generic: of an image.
  unsigned image_blocks;   // Generic: blocks of an image.
  unsigned blocks;         // 0: too large.
};

// What the kernels of upfirdn2d fuse: max(v, v * slope), which a gain of 0 or more can be drawn into.
LIA_HOST_DEVICE bool is_fusible(const Activation& a) {
  return a.gain >= 0 && (a.act == kLinear || (a.act == kLrelu && a.alpha <= 1));
}

#ifndef __CUDACC_RTC__

// -- Making the plans. Counts that do not fit make `blocks` zero.

constexpr int64_t kMaxBlocks = 0x7fffffff, kMaxUnits = 0xffffffff - kThreads;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
// Null is, too.
inline bool is_aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }
inline int64_t lanes(int dtype) { return dtype == kFloat32 ? 4 : 8; }

inline EpiloguePlan plan_epilogue(const EpilogueArgs& a) {
  EpiloguePlan plan{};
  // Images that share scale and noise are one image with more positions.
  const bool joined = a.channels_last && !a.tail.scale && !a.tail.noise;
  plan.n = joined ? 1 : a.n;
  plan.positions = joined ? a.n * a.positions : a.positions;
  const int64_t v = lanes(a.dtype), inner = a.channels_last ? a.c : plan.positions;
  const bool parts = a.channels_last ? is_aligned(a.tail.scale) && is_aligned(a.tail.bias) : is_aligned(a.tail.noise);
  plan.chunked = inner % v == 0 && is_aligned(a.x) && is_aligned(a.y) && parts;
  const int64_t across = plan.chunked ? inner / v : inner, steps = plan.chunked ? 4 : 8;
  const int64_t phases = ceil_div(a.channels_last ? plan.positions : across, steps);
  const int64_t units = phases * (a.channels_last ? across : a.c), image_blocks = ceil_div(units, kThreads);
  plan.across = static_cast<unsigned>(across);
  plan.phases = static_cast<unsigned>(phases);
  plan.units = static_cast<unsigned>(units);
  plan.image_blocks = static_cast<unsigned>(image_blocks);
  const bool fits = across <= kMaxUnits && units <= kMaxUnits && plan.n * image_blocks <= kMaxBlocks;
  plan.blocks = fits ? static_cast<unsigned>(plan.n * image_blocks) : 0;
  return plan;
}

inline ActBackwardPlan plan_act_backward(const ActBackwardArgs& a) {
  ActBackwardPlan plan{};
  plan.chunked = is_aligned(a.dy) && is_aligned(a.ref) && is_aligned(a.dx);
  const int64_t per_block = kThreads * (plan.chunked ? 4 * lanes(a.dtype) : 8), blocks = ceil_div(a.size, per_block);
  plan.blocks = blocks <= kMaxBlocks ? static_cast<unsigned>(blocks) : 0;
  return plan;
}

inline UpfirdnPlan plan_upfirdn2d(const UpfirdnArgs& a) {
  UpfirdnPlan plan{};
  const int64_t v = lanes(a.dtype);
  const bool square = a.kh == 4 && a.kw == 4 && a.up_x == a.up_y && a.down_x == a.down_y;
  plan.path = !square ? kGeneric : a.up_x == 1 && a.down_x == 1 ? kPlain4 : a.up_x == 2 && a.down_x == 1 ? kUp2
            : a.up_x == 1 && a.down_x == 2 ? kDown2 : kGeneric;
  plan.chunked = is_aligned(a.y) && (a.channels_last ? a.c % v == 0 && is_aligned(a.x) : a.out_w % v == 0);
  if (a.channels_last && !plan.chunked) plan.path = kGeneric;
  if (plan.path == kGeneric) {
    const int64_t units = a.c * a.out_h * a.out_w, image_blocks = ceil_div(units, kThreads);
    plan.units = static_cast<unsigned>(units);
    plan.image_blocks = static_cast<unsigned>(image_blocks);
    plan.blocks = units <= kMaxUnits && a.n * image_blocks <= kMaxBlocks ? static_cast<unsigned>(a.n * image_blocks) : 0;
    return plan;
  }
  const int64_t up = plan.path == kUp2 ? 2 : 1;
  // With up = 2, a step makes rows 2t and 2t + 1, or 2t - 1 and 2t where the padding is even.
  const int64_t steps = up == 2 ? (a.out_h + (a.pad_y0 % 2 == 0 ? 1 : 0) + 1) / 2 : a.out_h;
  int64_t units;  // Threads as long as the image is high.
  if (a.channels_last) {
    while (plan.log_channels < 3 && (2 << plan.log_channels) <= a.c / v) plan.log_channels++;
    plan.channel_tiles = static_cast<unsigned>(ceil_div(a.c / v, 1 << plan.log_channels));
    plan.columns = static_cast<unsigned>(ceil_div(ceil_div(a.out_w, up), kThreads >> plan.log_channels));
    units = a.n * plan.channel_tiles * plan.columns * kThreads;
  } else {
    plan.columns = static_cast<unsigned>(ceil_div(a.out_w, v));
    units = a.n * a.c * plan.columns;
  }
  // Long strips repeat fewer rows where they meet; there are enough of them to fill a large GPU.
  const int64_t enough = ceil_div(int64_t{1} << 18, units), most = ceil_div(steps, 4), least = ceil_div(steps, 32);
  const int64_t wanted = enough > most ? most : enough < least ? least : enough;
  const int64_t rows = ceil_div(steps, wanted), strips = ceil_div(steps, rows);
  plan.steps = static_cast<unsigned>(steps);
  plan.rows = static_cast<unsigned>(rows);
  plan.strips = static_cast<unsigned>(strips);
  const int64_t blocks = a.channels_last ? units / kThreads * strips : ceil_div(units * strips, kThreads);
  plan.units = static_cast<unsigned>(units * strips);
  plan.blocks = blocks <= kMaxBlocks && (a.channels_last || units * strips <= kMaxUnits) ? static_cast<unsigned>(blocks) : 0;
  return plan;
}

#endif

}  // namespace lia
