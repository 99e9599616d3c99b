// filtered_lrelu by tiles: what one thread of a block does between two barriers. Read by nvcc, by NVRTC, and by a C++ compiler,
// for which a test plays all threads in turn.
//
// A block makes one tile of one plane in five steps through shared memory: x with its bias; filtered upwards along rows, then
// along columns with the activation in the same step; filtered downwards along rows, then along columns. Floats throughout.
#pragma once

#include "activation.h"
#include "cuda_types.h"
#include "filtered.h"

namespace lia {

constexpr int kTileThreads = 256;
// Shared memory that every GPU gives a block without being asked twice.
constexpr int kSharedFloats = 12 * 1024;

LIA_DEVICE int64_t floor_quotient(int64_t a, int64_t b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

struct FilteredPlan {
  FilteredArgs args;
  int64_t blocks, tiles_x, tiles_y;
  int tile_w, tile_h;
  // Sizes of a tile at the higher rate and of the part of x behind it.
  int high_w, high_h, in_w, in_h;
};

LIA_DEVICE float load_number(const void* from, int64_t i, int dtype) {
  if (dtype == kFloat32) return static_cast<const float*>(from)[i];
  if (dtype == kFloat16) return number(static_cast<const Half*>(from)[i]);
  return number(static_cast<const BFloat16*>(from)[i]);
}

LIA_DEVICE void store_number(void* to, int64_t i, int dtype, float v) {
  if (dtype == kFloat32) {
    static_cast<float*>(to)[i] = v;
  } else if (dtype == kFloat16) {
    assign(static_cast<Half*>(to)[i], v);
  } else {
    assign(static_cast<BFloat16*>(to)[i], v);
  }
}

// Where a tile lies, and the steps that do not depend on the filters.
struct TilePlace {
  const FilteredPlan& plan;
  const FilteredArgs& args;
  int64_t plane, out_x, out_y;  // The tile's first output.
  int64_t high_x, high_y;       // The first sample that it reads at the higher rate.
  int64_t in_x, in_y;           // The first of x.
  bool last_x, last_y;

  LIA_DEVICE TilePlace(const FilteredPlan& p, int64_t block)
      : plan(p), args(p.args), plane(block / (p.tiles_x * p.tiles_y)) {
    const int64_t tile = block - plane * p.tiles_x * p.tiles_y, ty = tile / p.tiles_x, tx = tile - ty * p.tiles_x;
    out_x = tx * p.tile_w, out_y = ty * p.tile_h;
    last_x = tx == p.tiles_x - 1, last_y = ty == p.tiles_y - 1;
    high_x = out_x * args.down.factor - args.down.pad_x0, high_y = out_y * args.down.factor - args.down.pad_y0;
    in_x = floor_quotient(high_x - args.up.pad_x0, args.up.factor);
    in_y = floor_quotient(high_y - args.up.pad_y0, args.up.factor);
  }

  // Taps in the order in which they meet the samples, zeros up to `count`.
  LIA_DEVICE void load_taps(const FilterStage& stage, float* to, int count, int thread) const {
    const int size = stage.separable ? stage.kw : stage.kw * stage.kh;
    for (int i = thread; i < count; i += kTileThreads) {
      to[i] = i >= size ? 0.f : stage.f ? stage.f[args.flip ? i : size - 1 - i] : 1.f;
    }
  }

  LIA_DEVICE void load(float* x, int thread) const {
    const float bias = args.bias ? load_number(args.bias, plane % args.channels, args.dtype) : 0.f;
    const int64_t base = plane * args.in_h * args.in_w;
    for (int i = thread; i < plan.in_h * plan.in_w; i += kTileThreads) {
      const int row = i / plan.in_w, column = i - row * plan.in_w;
      const int64_t y = in_y + row, c = in_x + column;
      const bool exists = y >= 0 && y < args.in_h && c >= 0 && c < args.in_w;
      x[i] = exists ? load_number(args.x, base + y * args.in_w + c, args.dtype) + bias : 0.f;
    }
  }

  // The activation, or its recorded derivative, of four neighbours v of which the first is at `column` of row `row`.
  LIA_DEVICE void activate(float* v, int row, int column) const {
    const int64_t y = high_y + row, x = high_x + column, stride = (args.high_w + 3) / 4;
    const float gain = static_cast<float>(args.gain), below = static_cast<float>(args.gain * args.slope);
    const int64_t byte = (plane * args.high_h + y) * stride + floor_quotient(x, 4);
    const bool row_exists = y >= 0 && y < args.high_h;
    if (args.mask_in) {
      u32 codes = 0xffffffff;
      if (row_exists && x + 3 >= 0 && x < args.high_w) {
        const int64_t first = floor_quotient(x, 4);
        codes = first >= 0 ? args.mask_in[byte] : 0xff;
        codes |= first + 1 < stride ? u32{args.mask_in[byte + 1]} << 8 : 0xff00;
        codes >>= 2 * (x - first * 4);
      }
      for (int i = 0; i < 4; i++, codes >>= 2) {
        const bool exists = row_exists && x + i >= 0 && x + i < args.high_w;
        v[i] = (codes & kClamped) || !exists ? 0.f : v[i] * (codes & kNegative ? below : gain);
      }
      return;
    }
    u32 codes = 0;
    for (int i = 0; i < 4; i++) {
      const bool positive = v[i] > 0.f;
      const float u = v[i] * (positive ? gain : below);
      v[i] = u;
      u32 code = positive ? 0 : kNegative;
      if (args.clamp >= 0) {
        const float limit = static_cast<float>(args.clamp);
        v[i] = clamped(u, limit);
        if (u > limit || u < -limit) code |= kClamped;
      }
      if (x + i < args.high_w) codes |= code << (2 * i);
    }
    if (!args.mask_out || !row_exists || x >= args.high_w) return;
    // Samples that two tiles read belong to the first of them that comes later.
    const bool owned = (last_x || column < plan.tile_w * args.down.factor) && (last_y || row < plan.tile_h * args.down.factor);
    if (owned) args.mask_out[byte] = static_cast<unsigned char>(codes);
  }

  LIA_DEVICE void store(int row, int column, float v) const {
    const int64_t y = out_y + row, x = out_x + column;
    if (row >= plan.tile_h || y >= args.out_h || column >= plan.tile_w || x >= args.out_w) return;
    store_number(args.y, (plane * args.out_h + y) * args.out_w + x, args.dtype, v);
  }
};

constexpr int larger(int a, int b) { return a > b ? a : b; }

struct alignas(16) Four {
  float v[4];
};

// Separable filters of at most 6 taps a phase upwards and 6 * DOWN downwards, as StyleGAN3's are: everything unrolls, sums are
// kept in registers four at a time or more.
template <int UP, int DOWN>
struct FixedTile {
  static constexpr int kPhase = 6, kTaps = 6 * DOWN;
  static constexpr int kW = DOWN > 2 ? 16 : 32, kH = kW;
  static constexpr int kHigh = (kW - 1) * DOWN + kTaps;
  static constexpr int kQuads = (kHigh + 3) / 4;
  static constexpr int kStride = 4 * (kQuads | 1);  // An odd number of Fours: neighbouring rows are in different banks.
  static constexpr int kGroups = (kHigh + UP - 2) / UP + 1;  // Runs of UP samples between two of x, in any phase.
  static constexpr int kIn = kGroups + kPhase;
  static constexpr int kOutStride = kW + 4;
  // Offsets in shared memory. Of two that share a place, the second is made when the first is no longer read.
  static constexpr int kRows = 0, kOut = 0;
  static constexpr int kX = larger(kIn * kStride, kHigh * kOutStride), kSamples = kX;
  static constexpr int kUpTaps = kX + larger(kIn * kIn, kHigh * kStride), kDownTaps = kUpTaps + kPhase * UP;
  static constexpr int kShared = kDownTaps + kTaps;
  static_assert(kShared <= kSharedFloats);
  static constexpr int kSteps = 5;

  LIA_DEVICE static void step(int which, const FilteredPlan& plan, int64_t block, float* shared, int thread) {
    const TilePlace place(plan, block);
    if (which == 0) {
      place.load_taps(plan.args.up, shared + kUpTaps, kPhase * UP, thread);
      place.load_taps(plan.args.down, shared + kDownTaps, kTaps, thread);
      place.load(shared + kX, thread);
    } else if (which == 1) {
      up_x(place, shared, thread);
    } else if (which == 2) {
      up_y(place, shared, thread);
    } else if (which == 3) {
      down_x(shared, thread);
    } else {
      down_y(place, shared, thread);
    }
  }

  // The samples between two of x: phase 0 lies on x[0], the others between x[0] and x[1]. x has kPhase + 1 entries.
  LIA_DEVICE static float between(const float* x, const float* taps, int phase) {
    float sum = 0;
    LIA_UNROLL for (int t = 0; t < kPhase; t++) {
      sum += x[phase == 0 ? t : t + 1] * taps[(phase == 0 ? 0 : UP - phase) + t * UP];
    }
    return sum;
  }

  LIA_DEVICE static void up_x(const TilePlace& place, float* shared, int thread) {
    const int skipped = static_cast<int>(place.high_x - place.args.up.pad_x0 - place.in_x * UP);
    float taps[kPhase * UP];
    LIA_UNROLL for (int t = 0; t < kPhase * UP; t++) taps[t] = shared[kUpTaps + t];
    for (int i = thread; i < kIn * kGroups; i += kTileThreads) {
      const int row = i / kGroups, group = i - row * kGroups;
      float x[kPhase + 1];
      LIA_UNROLL for (int t = 0; t < kPhase + 1; t++) x[t] = shared[kX + row * kIn + group + t];
      LIA_UNROLL for (int phase = 0; phase < UP; phase++) {
        const int column = group * UP + phase - skipped;
        if (column >= 0 && column < kStride) shared[kRows + row * kStride + column] = between(x, taps, phase);
      }
    }
  }

  LIA_DEVICE static void up_y(const TilePlace& place, float* shared, int thread) {
    const int skipped = static_cast<int>(place.high_y - place.args.up.pad_y0 - place.in_y * UP);
    float taps[kPhase * UP];
    LIA_UNROLL for (int t = 0; t < kPhase * UP; t++) taps[t] = shared[kUpTaps + t];
    for (int i = thread; i < kGroups * kQuads; i += kTileThreads) {
      const int group = i / kQuads, quad = i - group * kQuads;
      Four x[kPhase + 1];
      LIA_UNROLL for (int t = 0; t < kPhase + 1; t++) {
        x[t] = *reinterpret_cast<const Four*>(shared + kRows + (group + t) * kStride + 4 * quad);
      }
      LIA_UNROLL for (int phase = 0; phase < UP; phase++) {
        const int row = group * UP + phase - skipped;
        if (row < 0 || row >= kHigh) continue;
        Four sum;
        LIA_UNROLL for (int j = 0; j < 4; j++) {
          float column[kPhase + 1];
          LIA_UNROLL for (int t = 0; t < kPhase + 1; t++) column[t] = x[t].v[j];
          sum.v[j] = between(column, taps, phase);
        }
        place.activate(sum.v, row, 4 * quad);
        *reinterpret_cast<Four*>(shared + kSamples + row * kStride + 4 * quad) = sum;
      }
    }
  }

  // Four outputs from the samples that they reach.
  static constexpr int kReach = 3 * DOWN + kTaps;

  LIA_DEVICE static Four decimate(const float* samples, const float* taps) {
    Four sum{};
    LIA_UNROLL for (int t = 0; t < kTaps; t++) {
      const float tap = taps[t];
      LIA_UNROLL for (int j = 0; j < 4; j++) sum.v[j] += samples[j * DOWN + t] * tap;
    }
    return sum;
  }

  LIA_DEVICE static void down_x(float* shared, int thread) {
    for (int i = thread; i < kHigh * (kW / 4); i += kTileThreads) {
      const int quad = i / kHigh, row = i - quad * kHigh;
      constexpr int kLoads = (kReach + 3) / 4;
      float samples[4 * kLoads];
      LIA_UNROLL for (int t = 0; t < kLoads; t++) {
        const Four four = *reinterpret_cast<const Four*>(shared + kSamples + row * kStride + 4 * (quad * DOWN + t));
        LIA_UNROLL for (int j = 0; j < 4; j++) samples[4 * t + j] = four.v[j];
      }
      *reinterpret_cast<Four*>(shared + kOut + row * kOutStride + 4 * quad) = decimate(samples, shared + kDownTaps);
    }
  }

  LIA_DEVICE static void down_y(const TilePlace& place, float* shared, int thread) {
    for (int i = thread; i < kW * (kH / 4); i += kTileThreads) {
      const int quad = i / kW, column = i - quad * kW;
      float samples[kReach];
      LIA_UNROLL for (int t = 0; t < kReach; t++) {
        samples[t] = shared[kOut + (4 * quad * DOWN + t) * kOutStride + column];
      }
      const Four sum = decimate(samples, shared + kDownTaps);
      LIA_UNROLL for (int j = 0; j < 4; j++) place.store(4 * quad + j, column, sum.v[j]);
    }
  }
};

// Any factors and filters, 2-D ones included.
struct AnyTile {
  static constexpr int kShared = kSharedFloats;
  static constexpr int kSteps = 5;

  // Offsets in shared memory.
  struct Layout {
    int x, rows, samples, out, up_taps, down_taps, end;
  };

  LIA_HOST_DEVICE static int taps_of(const FilterStage& stage) { return stage.separable ? stage.kw : stage.kw * stage.kh; }
  LIA_HOST_DEVICE static int row_of(const FilteredPlan& plan) { return (plan.high_w + 3) / 4 * 4; }

  LIA_HOST_DEVICE static Layout layout(const FilteredPlan& plan) {
    Layout l{};
    const int row = row_of(plan);
    l.rows = (l.x + plan.in_h * plan.in_w + 3) / 4 * 4;  // Rows from here on begin on a Four.
    l.samples = l.rows + (plan.args.up.separable ? plan.in_h * row : 0);
    l.out = l.samples + plan.high_h * row;
    l.up_taps = l.out + (plan.args.down.separable ? plan.high_h * plan.tile_w : 0);
    l.down_taps = l.up_taps + taps_of(plan.args.up);
    l.end = l.down_taps + taps_of(plan.args.down);
    return l;
  }

  LIA_DEVICE static void step(int which, const FilteredPlan& plan, int64_t block, float* shared, int thread) {
    const TilePlace place(plan, block);
    const Layout l = layout(plan);
    const FilterStage &up = plan.args.up, &down = plan.args.down;
    const int row = row_of(plan);
    const float *up_taps = shared + l.up_taps, *down_taps = shared + l.down_taps;
    const int skipped_x = static_cast<int>(place.high_x - up.pad_x0 - place.in_x * up.factor);
    const int skipped_y = static_cast<int>(place.high_y - up.pad_y0 - place.in_y * up.factor);
    if (which == 0) {
      place.load_taps(up, shared + l.up_taps, taps_of(up), thread);
      place.load_taps(down, shared + l.down_taps, taps_of(down), thread);
      place.load(shared + l.x, thread);
    } else if (which == 1) {
      if (!up.separable) return;
      for (int i = thread; i < plan.in_h * row; i += kTileThreads) {
        const int y = i / row, column = i - y * row;
        const Meeting m(column + skipped_x, up.factor);
        float sum = 0;
        if (column < plan.high_w) {
          const float* x = shared + l.x + y * plan.in_w + m.source;
          for (int k = m.first; k < up.kw; k += up.factor) sum += *x++ * up_taps[k];
        }
        shared[l.rows + i] = sum;
      }
    } else if (which == 2) {
      for (int i = thread; i < plan.high_h * (row / 4); i += kTileThreads) {
        const int y = i / (row / 4), column = 4 * (i - y * (row / 4));
        const Meeting m(y + skipped_y, up.factor);
        Four sum{};
        for (int j = 0; j < 4; j++) {
          int source = m.source;
          for (int k = m.first; k < up.kh; k += up.factor, source++) {
            if (up.separable) {
              sum.v[j] += shared[l.rows + source * row + column + j] * up_taps[k];
            } else if (column + j < plan.high_w) {
              const Meeting n(column + j + skipped_x, up.factor);
              const float* x = shared + l.x + source * plan.in_w + n.source;
              for (int h = n.first; h < up.kw; h += up.factor) sum.v[j] += *x++ * up_taps[k * up.kw + h];
            }
          }
        }
        place.activate(sum.v, y, column);
        *reinterpret_cast<Four*>(shared + l.samples + y * row + column) = sum;
      }
    } else if (which == 3) {
      if (!down.separable) return;
      for (int i = thread; i < plan.high_h * plan.tile_w; i += kTileThreads) {
        const int y = i / plan.tile_w, column = i - y * plan.tile_w;
        const float* samples = shared + l.samples + y * row + column * down.factor;
        float sum = 0;
        for (int k = 0; k < down.kw; k++) sum += samples[k] * down_taps[k];
        shared[l.out + i] = sum;
      }
    } else {
      for (int i = thread; i < plan.tile_h * plan.tile_w; i += kTileThreads) {
        const int y = i / plan.tile_w, column = i - y * plan.tile_w;
        float sum = 0;
        for (int k = 0; k < down.kh; k++) {
          if (down.separable) {
            sum += shared[l.out + (y * down.factor + k) * plan.tile_w + column] * down_taps[k];
          } else {
            const float* samples = shared + l.samples + (y * down.factor + k) * row + column * down.factor;
            for (int h = 0; h < down.kw; h++) sum += samples[h] * down_taps[k * down.kw + h];
          }
        }
        place.store(y, column, sum);
      }
    }
  }

 private:
  // The first tap that meets a sample of x, and that sample.
  struct Meeting {
    int first, source;
    LIA_DEVICE Meeting(int position, int factor)
        : first((position + factor - 1) / factor * factor - position), source((position + factor - 1) / factor) {}
  };
};

// Which of the kernels takes it.
enum TileKind : int { kTile22, kTile42, kTile24, kTileAny };

#ifndef __CUDACC_RTC__

inline void set_tiles(FilteredPlan& plan, int tile_w, int tile_h, int high_w, int high_h) {
  const FilteredArgs& a = plan.args;
  plan.tile_w = tile_w, plan.tile_h = tile_h, plan.high_w = high_w, plan.high_h = high_h;
  const int down = a.down.factor;
  // Samples at the end that no output reaches still have a mask.
  auto tiles = [down](int64_t out, int64_t high, int tile, int reach, bool masked) {
    int64_t count = (out + tile - 1) / tile;
    while (masked && (count - 1) * tile * down + reach < high) count++;
    return count;
  };
  plan.tiles_x = tiles(a.out_w, a.high_w, tile_w, high_w, a.mask_out);
  plan.tiles_y = tiles(a.out_h, a.high_h, tile_h, high_h, a.mask_out);
  plan.blocks = a.planes * plan.tiles_x * plan.tiles_y;
}

template <int UP, int DOWN>
bool plan_fixed(FilteredPlan& plan) {
  using Tile = FixedTile<UP, DOWN>;
  const FilterStage &up = plan.args.up, &down = plan.args.down;
  if (up.factor != UP || down.factor != DOWN || !up.separable || !down.separable) return false;
  if (up.kw > Tile::kPhase * UP || down.kw > Tile::kTaps) return false;
  plan.in_w = plan.in_h = Tile::kIn;
  set_tiles(plan, Tile::kW, Tile::kH, Tile::kHigh, Tile::kHigh);
  return true;
}

// Fills in the plan's sizes. Returns false where the filters are too long for shared memory.
inline bool plan_filtered(const FilteredArgs& args, FilteredPlan& plan, TileKind& kind) {
  plan.args = args;
  if (plan_fixed<2, 2>(plan)) return kind = kTile22, true;
  if (plan_fixed<4, 2>(plan)) return kind = kTile42, true;
  if (plan_fixed<2, 4>(plan)) return kind = kTile24, true;
  kind = kTileAny;
  const FilterStage &up = args.up, &down = args.down;
  auto in = [&up](int high, int taps) { return (high - 1) / up.factor + (taps - 1) / up.factor + 3; };
  for (int tile = 32; tile > 0; tile /= 2) {
    // A multiple of four samples, so that each byte of the mask has one thread.
    const int tile_w = tile < 4 ? 4 : tile;
    // Where the filter is shorter than the step, the samples between still have a mask.
    const int high_w = (tile_w - 1) * down.factor + (down.kw > down.factor ? down.kw : down.factor);
    const int high_h = (tile - 1) * down.factor + (down.kh > down.factor ? down.kh : down.factor);
    plan.in_w = in(high_w, up.kw), plan.in_h = in(high_h, up.kh);
    set_tiles(plan, tile_w, tile, high_w, high_h);
    if (AnyTile::layout(plan).end <= kSharedFloats) return true;
  }
  return false;
}

#endif

}  // namespace lia
