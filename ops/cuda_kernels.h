// The CUDA kernels as functions of (arguments, plan, block, thread). They use no shared memory and no shuffles, so that tests
// can run every thread of a launch on the CPU; the plans are in cuda_plan.h.
#pragma once

#include "activation.h"
#include "cuda_plan.h"
#include "cuda_types.h"

namespace lia {

// max(v, v * slope), clamped: the activations that need no more than a gain drawn into what comes before.
struct Ramp {
  float gain, slope, limit;

  LIA_DEVICE explicit Ramp(const Activation& a)
      : gain(static_cast<float>(a.gain)),
        slope(a.act == kLrelu ? static_cast<float>(a.alpha) : 1.0f),
        limit(a.clamp < 0 ? float_of(0x7f800000) : static_cast<float>(a.clamp)) {}

  LIA_DEVICE float operator()(float v) const { return clamped(fmaxf(v, v * slope), limit); }
};

// The other activations are called, not inlined: eight copies of all of them would take most of the compilation.
LIA_DEVICE_CALL float any_forward(int act, float v, float alpha) { return activation_forward(act, v, alpha); }
LIA_DEVICE_CALL float any_derivative(int act, float ref, float alpha, float gain, float limit) {
  return activation_derivative(act, ref, alpha, gain, limit);
}

// -- epilogue

// V elements at once, in chunks or one by one.
template <class T, int V>
LIA_DEVICE void read(const T* p, float* v) {
  if constexpr (V == 1) {
    v[0] = number(*p);
  } else {
    unpack(T{}, load_chunk(p), v);
  }
}

template <class T, bool CHANNELS_LAST, bool CHUNKED>
LIA_DEVICE void epilogue(const EpilogueArgs& a, const EpiloguePlan& plan, unsigned block, unsigned thread) {
  constexpr int V = CHUNKED ? Lanes<T>::count : 1, STEPS = CHUNKED ? 4 : 8;
  const unsigned image = block / plan.image_blocks, unit = (block - image * plan.image_blocks) * kThreads + thread;
  if (unit >= plan.units) return;
  const unsigned fast = CHANNELS_LAST ? plan.across : plan.phases, slow = unit / fast;
  const unsigned phase = CHANNELS_LAST ? slow : unit - slow * fast;
  const unsigned channel = CHANNELS_LAST ? (unit - slow * fast) * V : slow;
  // Step i takes the elements from `first + i * stride` on; `position` is where the noise is.
  const int64_t base = int64_t(image) * plan.positions * a.c;
  const int64_t first = base + (CHANNELS_LAST ? int64_t(phase) * a.c + channel : channel * plan.positions + int64_t(phase) * V);
  const int64_t stride = int64_t(plan.phases) * (CHANNELS_LAST ? a.c : V);
  const unsigned last = CHANNELS_LAST ? static_cast<unsigned>(plan.positions) : plan.across;
  const T* x = static_cast<const T*>(a.x) + first;
  T* y = static_cast<T*>(a.y) + first;
  const T* noise = static_cast<const T*>(a.tail.noise);
  if (noise) noise += image * a.tail.noise_stride;

  constexpr int OWN = CHANNELS_LAST ? V : 1;  // Channels of this thread.
  float scale[OWN], bias[OWN];
  LIA_UNROLL for (int j = 0; j < OWN; j++) scale[j] = 1, bias[j] = 0;
  if (a.tail.scale) read<T, OWN>(static_cast<const T*>(a.tail.scale) + image * a.c + channel, scale);
  if (a.tail.bias) read<T, OWN>(static_cast<const T*>(a.tail.bias) + channel, bias);

  // v[j] of the chunk at step i, before the activation.
  auto affine = [&](float* v, int i) {
    constexpr int M = CHANNELS_LAST ? 1 : V;
    float shift[M];
    LIA_UNROLL for (int j = 0; j < M; j++) shift[j] = 0;
    if (noise) read<T, M>(noise + (int64_t(phase) + int64_t(i) * plan.phases) * M, shift);
    LIA_UNROLL for (int j = 0; j < V; j++) v[j] = v[j] * scale[j % OWN] + (shift[j % M] + bias[j % OWN]);
  };
  auto write = [&](T* to, const float* v) {
    if constexpr (CHUNKED) {
      store_chunk(to, pack(T{}, v));
    } else {
      assign(*to, v[0]);
    }
  };

  if (is_fusible(a.tail.activation)) {
    const Ramp ramp(a.tail.activation);
    // All loads come before the first store, as x and y may be the same memory.
    float v[STEPS][V];
    if constexpr (CHUNKED) {
      Chunk chunks[STEPS];
      LIA_UNROLL for (int i = 0; i < STEPS; i++) {
        if (phase + i * plan.phases < last) chunks[i] = load_chunk(x + i * stride);
      }
      LIA_UNROLL for (int i = 0; i < STEPS; i++) unpack(T{}, chunks[i], v[i]);
    } else {
      LIA_UNROLL for (int i = 0; i < STEPS; i++) v[i][0] = phase + i * plan.phases < last ? number(x[i * stride]) : 0.0f;
    }
    LIA_UNROLL for (int i = 0; i < STEPS; i++) {
      if (phase + i * plan.phases >= last) return;
      affine(v[i], i);
      LIA_UNROLL for (int j = 0; j < V; j++) v[i][j] = ramp(v[i][j] * ramp.gain);
      write(y + i * stride, v[i]);
    }
    return;
  }
  const Ramp ramp(a.tail.activation);
  const float alpha = static_cast<float>(a.tail.activation.alpha);
  LIA_LOOP for (int i = 0; i < STEPS && phase + i * plan.phases < last; i++) {
    float v[V];
    read<T, V>(x + i * stride, v);
    affine(v, i);
    LIA_UNROLL for (int j = 0; j < V; j++) {
      v[j] = clamped(any_forward(a.tail.activation.act, v[j], alpha) * ramp.gain, ramp.limit);
    }
    write(y + i * stride, v);
  }
}

// -- act_backward

template <class T, bool CHUNKED>
LIA_DEVICE void act_backward(const ActBackwardArgs& a, unsigned block, unsigned thread) {
  constexpr int V = CHUNKED ? Lanes<T>::count : 1, STEPS = CHUNKED ? 4 : 8;
  const int64_t first = (int64_t(block) * (STEPS * kThreads) + thread) * V;
  const T* dy = static_cast<const T*>(a.dy);
  const T* ref = static_cast<const T*>(a.ref);
  T* dx = static_cast<T*>(a.dx);
  const Activation& activation = a.activation;
  Ramp ramp(activation);
  if (activation.act != kSwish) {  // Its ref is not an output; outputs that were clamped were rounded as well.
    T limit;
    assign(limit, ramp.limit);
    ramp.limit = number(limit);
  }
  const float alpha = static_cast<float>(activation.alpha), below = ramp.gain * ramp.slope;
  const bool linear = is_fusible(activation);
  auto derivative = [&](float r) {
    if (!linear) return any_derivative(activation.act, r, alpha, ramp.gain, ramp.limit);
    return r >= ramp.limit || r <= -ramp.limit ? 0.0f : (r > 0 ? ramp.gain : below);
  };
  // The last elements, fewer than a chunk.
  auto rest = [&](int64_t begin) {
    LIA_LOOP for (int64_t e = begin; e < a.size && e < begin + V; e++) {
      assign(dx[e], number(dy[e]) * derivative(number(ref[e])));
    }
  };
  if constexpr (!CHUNKED) {
    LIA_UNROLL for (int i = 0; i < STEPS; i++) rest(first + i * kThreads);
  } else {
    constexpr int64_t STRIDE = int64_t{kThreads} * V;
    if (linear && first + (STEPS - 1) * STRIDE + V <= a.size) {
      Chunk g[STEPS], r[STEPS];
      LIA_UNROLL for (int i = 0; i < STEPS; i++) {
        g[i] = load_chunk(dy + first + i * STRIDE);
        r[i] = load_chunk(ref + first + i * STRIDE);
      }
      LIA_UNROLL for (int i = 0; i < STEPS; i++) {
        float gradient[V], value[V];
        unpack(T{}, g[i], gradient);
        unpack(T{}, r[i], value);
        LIA_UNROLL for (int j = 0; j < V; j++) {
          gradient[j] *= value[j] >= ramp.limit || value[j] <= -ramp.limit ? 0.0f : (value[j] > 0 ? ramp.gain : below);
        }
        store_chunk(dx + first + i * STRIDE, pack(T{}, gradient));
      }
      return;
    }
    LIA_LOOP for (int i = 0; i < STEPS; i++) {
      const int64_t e = first + i * STRIDE;
      if (e + V > a.size) {
        rest(e);
        continue;
      }
      float gradient[V], value[V];
      read<T, V>(dy + e, gradient);
      read<T, V>(ref + e, value);
      LIA_UNROLL for (int j = 0; j < V; j++) gradient[j] *= derivative(value[j]);
      store_chunk(dx + e, pack(T{}, gradient));
    }
  }
}

// -- upfirdn2d

LIA_DEVICE int floor_half(int x) { return x >> 1; }

// Tap (i, j) in the order in which taps meet the samples.
LIA_DEVICE float tap(const UpfirdnArgs& a, int i, int j) {
  const int row = a.flip ? i : a.kh - 1 - i, column = a.flip ? j : a.kw - 1 - j;
  return a.separable ? load_constant(a.f + row) * load_constant(a.f + column) : load_constant(a.f + row * a.kw + column);
}

// One element by the definition, with any filter, tail included.
template <class T, bool CHANNELS_LAST>
LIA_DEVICE void filter_element(const UpfirdnArgs& a, int64_t image, int channel, int oy, int ox) {
  const int pixel = CHANNELS_LAST ? static_cast<int>(a.c) : 1;
  const T* x = static_cast<const T*>(a.x) + (CHANNELS_LAST ? image * a.in_h * a.in_w * a.c + channel
                                                           : (image * a.c + channel) * a.in_h * a.in_w);
  // Taps first, first + up, ... meet samples source, source + 1, ...; the others meet stuffed zeros.
  const int start_y = oy * a.down_y - a.pad_y0, start_x = ox * a.down_x - a.pad_x0;
  int first_y = start_y % a.up_y, first_x = start_x % a.up_x;
  first_y = first_y > 0 ? a.up_y - first_y : -first_y;
  first_x = first_x > 0 ? a.up_x - first_x : -first_x;
  const int source_y = (start_y + first_y) / a.up_y, source_x = (start_x + first_x) / a.up_x;
  float sum = 0;
  int row = source_y;
  LIA_LOOP for (int i = first_y; i < a.kh; i += a.up_y, row++) {
    if (row < 0 || row >= a.in_h) continue;
    const T* p = x + int64_t(row) * a.in_w * pixel;
    int column = source_x;
    LIA_LOOP for (int j = first_x; j < a.kw; j += a.up_x, column++) {
      if (column >= 0 && column < a.in_w) sum += tap(a, i, j) * number(load_constant(p + int64_t(column) * pixel));
    }
  }
  sum *= static_cast<float>(a.gain);
  const int64_t position = int64_t(oy) * a.out_w + ox;
  if (a.has_tail) {
    const Ramp ramp(a.tail.activation);
    if (a.tail.scale) sum *= number(static_cast<const T*>(a.tail.scale)[image * a.c + channel]);
    if (a.tail.noise) sum += number(static_cast<const T*>(a.tail.noise)[image * a.tail.noise_stride + position]);
    if (a.tail.bias) sum += number(static_cast<const T*>(a.tail.bias)[channel]);
    sum = ramp(sum * ramp.gain);
  }
  const int64_t plane = a.out_h * a.out_w;
  T* y = static_cast<T*>(a.y);
  assign(y[CHANNELS_LAST ? (image * plane + position) * a.c + channel : (image * a.c + channel) * plane + position], sum);
}

template <class T, bool CHANNELS_LAST>
LIA_DEVICE void upfirdn2d_generic(const UpfirdnArgs& a, const UpfirdnPlan& plan, unsigned block, unsigned thread) {
  const unsigned image = block / plan.image_blocks, unit = (block - image * plan.image_blocks) * kThreads + thread;
  if (unit >= plan.units) return;
  const unsigned c = static_cast<unsigned>(a.c), h = static_cast<unsigned>(a.out_h), w = static_cast<unsigned>(a.out_w);
  const unsigned outer = unit / (CHANNELS_LAST ? c : w), inner = unit - outer * (CHANNELS_LAST ? c : w);
  const unsigned slow = outer / (CHANNELS_LAST ? w : h), middle = outer - slow * (CHANNELS_LAST ? w : h);
  filter_element<T, CHANNELS_LAST>(a, image, CHANNELS_LAST ? inner : slow, CHANNELS_LAST ? slow : middle,
                                   CHANNELS_LAST ? middle : inner);
}

// A 4 x 4 filter as the outer product of y and x (rank 1), with the gain in y.
struct Taps4 {
  float x[4], y[4];

  // Returns whether the filter is such a product.
  LIA_DEVICE bool read(const UpfirdnArgs& a) {
    const float gain = static_cast<float>(a.gain);
    auto mirrored = [&](int k) { return a.flip ? k : 3 - k; };
    if (a.separable) {
      LIA_UNROLL for (int k = 0; k < 4; k++) x[k] = load_constant(a.f + mirrored(k)), y[k] = x[k] * gain;
      return true;
    }
    float f[16];
    LIA_UNROLL for (int k = 0; k < 16; k++) f[k] = load_constant(a.f + k);
    float largest = 0;
    int pivot = 0;
    LIA_UNROLL for (int k = 0; k < 16; k++) {
      if (fabsf(f[k]) > largest) largest = fabsf(f[k]), pivot = k;
    }
    const int row = pivot / 4, column = pivot % 4;
    const float scale = 1.0f / load_constant(a.f + pivot);
    float across[4], down[4];
    LIA_UNROLL for (int k = 0; k < 4; k++) {
      across[k] = load_constant(a.f + row * 4 + k);
      down[k] = load_constant(a.f + k * 4 + column) * scale;
      x[k] = load_constant(a.f + row * 4 + mirrored(k));
      y[k] = load_constant(a.f + mirrored(k) * 4 + column) * scale * gain;
    }
    bool product = true;  // False for zeros and for NaN as well.
    LIA_UNROLL for (int k = 0; k < 16; k++) product &= fabsf(across[k % 4] * down[k / 4] - f[k]) <= 1e-6f * largest;
    return product;
  }
};

// COUNT neighbours in a row. Half types come in pairs, whatever the alignment: half as many loads, which take along one
// element on the left or up to two on the right.
template <class T, int COUNT>
LIA_DEVICE void read_inside(const T* p, float* v) {
  if constexpr (sizeof(T) == 2) {
    const auto address = reinterpret_cast<size_t>(p);
    const u32* words = reinterpret_cast<const u32*>(address & ~size_t{3});
    const u32 shift = address & 2 ? 16 : 0;
    constexpr int PAIRS = (COUNT + 1) / 2;
    u32 word[PAIRS + 1];
    LIA_UNROLL for (int k = 0; k <= PAIRS; k++) word[k] = 2 * k <= COUNT ? load_constant(words + k) : 0;
    LIA_UNROLL for (int k = 0; k < PAIRS; k++) {
      float pair[2];
      unpack_pair(T{}, funnel_shift(word[k], word[k + 1], shift), pair);
      v[2 * k] = pair[0];
      if (2 * k + 1 < COUNT) v[2 * k + 1] = pair[1];
    }
  } else {
    LIA_UNROLL for (int k = 0; k < COUNT; k++) v[k] = number(load_constant(p + k));
  }
}

// The samples of one thread, filtered along x row by row.
template <class T, bool CHANNELS_LAST, int UP, int DOWN>
struct Across {
  static constexpr int V = Lanes<T>::count;
  static constexpr int WIDTH = CHANNELS_LAST ? UP * V : V;  // Results a row.
  static constexpr int COLUMNS = CHANNELS_LAST ? (UP == 2 ? 3 : 4) : UP == 2 ? V / 2 + 2 : (V - 1) * DOWN + 4;

  const T* x;       // Row 0 at the leftmost column, which may lie outside, and the thread's first channel.
  int64_t pitch;    // Of a row.
  int c, w, h;      // c: elements from one column to the next.
  int first;        // Leftmost column.
  bool inside;      // All columns are in the image, and what read_inside takes along: one on the left and two on the right.
  float even[4];    // Taps of the results at even columns if UP is 2, else of all.
  float odd[3];

  LIA_DEVICE Across(const UpfirdnArgs& a, const Taps4& taps, const T* from, int ox)
      : pitch(a.in_w * (CHANNELS_LAST ? a.c : 1)), c(CHANNELS_LAST ? static_cast<int>(a.c) : 1),
        w(static_cast<int>(a.in_w)), h(static_cast<int>(a.in_h)),
        first(UP == 2 ? floor_half(ox) + floor_half(1 - a.pad_x0) : ox * DOWN - a.pad_x0),
        inside(first >= 1 && first + COLUMNS + 1 < w) {
    x = from + int64_t(first) * c;
    if constexpr (UP == 2) {
      // Results 2i and 2i + 1 meet columns i, i + 1 and i + 2, but every other tap meets a stuffed zero.
      const bool shifted = a.pad_x0 % 2 == 0;
      even[0] = shifted ? taps.x[0] : taps.x[1];
      even[1] = shifted ? taps.x[2] : taps.x[3];
      odd[0] = shifted ? 0.0f : taps.x[0];
      odd[1] = shifted ? taps.x[1] : taps.x[2];
      odd[2] = shifted ? taps.x[3] : 0.0f;
    } else {
      LIA_UNROLL for (int k = 0; k < 4; k++) even[k] = taps.x[k];
    }
  }

  LIA_DEVICE bool has_column(int k) const { return static_cast<unsigned>(first + k) < static_cast<unsigned>(w); }

  LIA_DEVICE void row(int r, float* to) const {
    LIA_UNROLL for (int j = 0; j < WIDTH; j++) to[j] = 0;
    if (r < 0 || r >= h) return;
    const T* p = x + r * pitch;
    if constexpr (CHANNELS_LAST) {
      Chunk chunks[COLUMNS];
      LIA_UNROLL for (int k = 0; k < COLUMNS; k++) {
        chunks[k] = Chunk{0, 0, 0, 0};
        if (has_column(k)) chunks[k] = load_constant(reinterpret_cast<const Chunk*>(p));
        p += c;
      }
      LIA_UNROLL for (int k = 0; k < COLUMNS; k++) {
        float v[V];
        unpack(T{}, chunks[k], v);
        LIA_UNROLL for (int j = 0; j < V; j++) {
          if constexpr (UP == 2) {
            if (k < 2) to[j] += even[k] * v[j];
            to[V + j] += odd[k] * v[j];
          } else {
            to[j] += even[k] * v[j];
          }
        }
      }
    } else {
      float v[COLUMNS];
      if (inside) {
        read_inside<T, COLUMNS>(p, v);
      } else {
        LIA_UNROLL for (int k = 0; k < COLUMNS; k++) v[k] = has_column(k) ? number(load_constant(p + k)) : 0.0f;
      }
      LIA_UNROLL for (int j = 0; j < V; j++) {
        if constexpr (UP == 2) {
          if (j % 2 == 0) {
            to[j] = even[0] * v[j / 2] + even[1] * v[j / 2 + 1];
          } else {
            to[j] = odd[0] * v[j / 2] + odd[1] * v[j / 2 + 1] + odd[2] * v[j / 2 + 2];
          }
        } else {
          LIA_UNROLL for (int k = 0; k < 4; k++) to[j] += even[k] * v[j * DOWN + k];
        }
      }
    }
  }
};

// The tail of one thread and where its results go.
template <class T, bool CHANNELS_LAST, int UP>
struct Emit {
  static constexpr int V = Lanes<T>::count;
  static constexpr int OWN = CHANNELS_LAST ? V : 1;  // Channels of this thread.

  const UpfirdnArgs& a;
  bool chunked;
  int ox;
  int64_t pitch;   // Of a row of y.
  T* y;            // Row 0 at the thread's first result.
  const T* noise;  // The same of the noise.
  Ramp ramp;
  float scale[OWN], bias[OWN];  // Times the gain.

  LIA_DEVICE Emit(const UpfirdnArgs& args, bool aligned, int64_t image, int channel, int column)
      : a(args), chunked(aligned), ox(column), pitch(a.out_w * (CHANNELS_LAST ? a.c : 1)),
        noise(static_cast<const T*>(args.tail.noise)), ramp(args.tail.activation) {
    const int64_t plane = a.out_h * a.out_w;
    y = static_cast<T*>(a.y) + (CHANNELS_LAST ? (image * plane + ox) * a.c + channel : (image * a.c + channel) * plane + ox);
    if (noise) noise += image * a.tail.noise_stride + ox;
    LIA_UNROLL for (int j = 0; j < OWN; j++) {
      scale[j] = a.tail.scale ? number(static_cast<const T*>(a.tail.scale)[image * a.c + channel + j]) * ramp.gain : ramp.gain;
      bias[j] = a.tail.bias ? number(static_cast<const T*>(a.tail.bias)[channel + j]) * ramp.gain : 0.0f;
    }
  }

  // Results of row oy. In channels_last, those of column ox + 1 follow those of column ox if UP is 2.
  LIA_DEVICE void operator()(int oy, float* v) const {
    const int w = static_cast<int>(a.out_w);
    T* to = y + oy * pitch;
    const T* shifts = noise + int64_t(oy) * w;
    if constexpr (CHANNELS_LAST) {
      LIA_UNROLL for (int i = 0; i < UP; i++) {
        if (ox + i >= w) return;
        if (a.has_tail) {
          const float shift = noise ? number(load_constant(shifts + i)) * ramp.gain : 0.0f;
          LIA_UNROLL for (int j = 0; j < V; j++) v[i * V + j] = ramp(v[i * V + j] * scale[j] + (bias[j] + shift));
        }
        store_chunk(to + i * a.c, pack(T{}, v + i * V));
      }
    } else {
      if (a.has_tail) {
        LIA_UNROLL for (int j = 0; j < V; j++) {
          const float shift = noise && ox + j < w ? number(load_constant(shifts + j)) * ramp.gain : 0.0f;
          v[j] = ramp(v[j] * scale[0] + (bias[0] + shift));
        }
      }
      if (chunked) {
        store_chunk(to, pack(T{}, v));
      } else {
        LIA_UNROLL for (int j = 0; j < V; j++) {
          if (ox + j < w) assign(to[j], v[j]);
        }
      }
    }
  }
};

// 4 x 4 taps with up, down = 1, 1 or 2, 1 or 1, 2. Each row of x is filtered along x once and then added, with its tap, to
// the sums of all rows of y that it is part of: no row is kept.
template <class T, bool CHANNELS_LAST, int UP, int DOWN>
LIA_DEVICE void upfirdn2d_taps4(const UpfirdnArgs& a, const UpfirdnPlan& plan, unsigned block, unsigned thread) {
  constexpr int V = Lanes<T>::count;
  unsigned channel, column, strip, image;
  if constexpr (CHANNELS_LAST) {
    const unsigned tile = block / plan.channel_tiles, row = tile / plan.columns;
    channel = (((block - tile * plan.channel_tiles) << plan.log_channels) + (thread & ((1u << plan.log_channels) - 1))) * V;
    column = ((tile - row * plan.columns) * (kThreads >> plan.log_channels) + (thread >> plan.log_channels)) * UP;
    image = row / plan.strips;
    strip = row - image * plan.strips;
    if (channel >= a.c || column >= a.out_w) return;
  } else {
    const unsigned unit = block * kThreads + thread;
    if (unit >= plan.units) return;
    const unsigned row = unit / plan.columns, plane = row / plan.strips;
    column = (unit - row * plan.columns) * V;
    strip = row - plane * plan.strips;
    image = plane / static_cast<unsigned>(a.c);
    channel = plane - image * static_cast<unsigned>(a.c);
  }
  const int top = strip * plan.rows, ox = column, out_h = static_cast<int>(a.out_h);
  const int bottom = top + plan.rows < plan.steps ? top + plan.rows : plan.steps;
  const int shift = UP == 2 && a.pad_y0 % 2 == 0 ? -1 : 0;  // Of the rows of y: see plan_upfirdn2d.

  Taps4 taps;
  if (!taps.read(a)) {
    LIA_LOOP for (int oy = UP * top + shift; oy < UP * bottom + shift; oy++) {
      if (oy < 0 || oy >= out_h) continue;
      LIA_LOOP for (int i = 0; i < (CHANNELS_LAST ? UP * V : V); i++) {
        const int at = CHANNELS_LAST ? ox + i / V : ox + i;
        if (at < a.out_w) filter_element<T, CHANNELS_LAST>(a, image, CHANNELS_LAST ? channel + i % V : channel, oy, at);
      }
    }
    return;
  }

  using Row = Across<T, CHANNELS_LAST, UP, DOWN>;
  constexpr int W = Row::WIDTH;
  const T* x = static_cast<const T*>(a.x) + (CHANNELS_LAST ? image * a.in_h * a.in_w * a.c + channel
                                                           : (image * a.c + channel) * a.in_h * a.in_w);
  const Row across(a, taps, x, ox);
  const Emit<T, CHANNELS_LAST, UP> emit(a, plan.chunked, image, channel, ox);
  const float* g = taps.y;
  float r[W], y[W];
  if constexpr (UP == 2) {
    float even[W] = {}, odd[W] = {};  // Sums of the next two rows of y.
    const int source = floor_half(3 - a.pad_y0);
    LIA_LOOP for (int t = top - 1; t < bottom; t++) {
      across.row(t + source, r);
      const int oy = 2 * t + shift;
      if (t >= top && oy >= 0) {
        LIA_UNROLL for (int j = 0; j < W; j++) y[j] = even[j] + r[j] * g[3];
        emit(oy, y);
      }
      if (t >= top && oy + 1 < out_h) {
        LIA_UNROLL for (int j = 0; j < W; j++) y[j] = odd[j] + r[j] * g[2];
        emit(oy + 1, y);
      }
      LIA_UNROLL for (int j = 0; j < W; j++) even[j] = r[j] * g[1], odd[j] = r[j] * g[0];
    }
  } else if constexpr (DOWN == 2) {
    float sum[W] = {}, s[W];
    LIA_LOOP for (int t = top - 1; t < bottom; t++) {
      across.row(2 * t - a.pad_y0 + 2, r);
      across.row(2 * t - a.pad_y0 + 3, s);
      if (t >= top) {
        LIA_UNROLL for (int j = 0; j < W; j++) y[j] = sum[j] + r[j] * g[2] + s[j] * g[3];
        emit(t, y);
      }
      LIA_UNROLL for (int j = 0; j < W; j++) sum[j] = r[j] * g[0] + s[j] * g[1];
    }
  } else {
    float first[W] = {}, second[W] = {}, third[W] = {};
    LIA_LOOP for (int t = top - 3; t < bottom; t++) {
      across.row(t - a.pad_y0 + 3, r);
      if (t >= top) {
        LIA_UNROLL for (int j = 0; j < W; j++) y[j] = first[j] + r[j] * g[3];
        emit(t, y);
      }
      LIA_UNROLL for (int j = 0; j < W; j++) {
        first[j] = second[j] + r[j] * g[2];
        second[j] = third[j] + r[j] * g[1];
        third[j] = r[j] * g[0];
      }
    }
  }
}

}  // namespace lia
