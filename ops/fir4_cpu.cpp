// CPU kernel of upfirdn2d for StyleGAN2's filters: 4 taps an axis, rank 1, and a factor of 1, 2 up or 2 down on both axes.
// A block of columns (NCHW) or channels (channels_last) lies in a vector and marches down the rows: the rows that the filter
// spans, filtered along x, stay in registers (NCHW) or in the first-level cache, and the epilogue follows before the store.

#include "cpu.h"
#include "tail_cpu.h"
#include "upfirdn_cpu.h"
#include "vectors.h"

namespace lia {
namespace {

// Where the outputs of one axis begin on the samples. UP = 2: even outputs 2i meet samples even + i and even + i + 1 with
// taps even_tap and even_tap + 2, odd ones likewise from odd = even + shift on.
struct Axis {
  int64_t first;  // Sample that output 0 (or the even outputs) begins with.
  int even_tap = 0, odd_tap = 0, shift = 0;

  Axis(int up, int64_t pad) : first(-pad) {
    if (up == 2) {
      even_tap = static_cast<int>(modulo(pad, 2));
      odd_tap = 1 - even_tap;
      first = (even_tap - pad) / 2;
      shift = static_cast<int>((1 + odd_tap - pad) / 2 - first);
    }
  }
};

// The rows of a strip with their padding, as numbers of the type of arithmetic. With DOWN = 2 the even columns come first and
// the odd ones behind them, so that all loads are of neighbours.
template <class T, int UP, int DOWN>
class Strip {
  using A = compute_t<T>;

 public:
  Strip(const UpfirdnArgs& args, int64_t most_rows)
      : in_h_(args.in_h), in_w_(args.in_w), first_(Axis(UP, args.pad_x0).first) {
    const int64_t units = UP == 2 ? (args.out_w + 1) / 2 : args.out_w, size = Vector<A>::size;
    half_ = (units + size - 1) / size * size + 4;  // The last vector may reach over the edge, by as much as there are taps.
    pitch_ = half_ * DOWN;
    rows_.assign(most_rows * pitch_, A(0));
    begin_ = std::max<int64_t>(first_, 0);
    end_ = std::min<int64_t>(in_w_, first_ + pitch_);
  }

  // Takes rows top, top + 1, ... of a plane; those outside are zeros.
  void read(const T* plane, int64_t top, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
      A* to = rows_.data() + i * pitch_;
      const int64_t y = top + i;
      if (y < 0 || y >= in_h_) {
        std::memset(to, 0, pitch_ * sizeof(A));
      } else if (end_ > begin_) {
        const T* from = plane + y * in_w_;
        if constexpr (DOWN == 1) {
          load_row(from + begin_, to + (begin_ - first_), end_ - begin_);
        } else {
          deal(from, to);
        }
      }
    }
  }

  const A* even(int64_t row) const { return rows_.data() + row * pitch_; }
  const A* odd(int64_t row) const { return rows_.data() + row * pitch_ + half_; }

 private:
  void deal(const T* from, A* __restrict to) const {
    int64_t x = begin_;
    if ((x - first_) % 2) to[half_ + (x - first_) / 2] = number(from[x]), x++;
    A* __restrict even = to + (x - first_) / 2;
    A* __restrict odd = even + half_;
    const int64_t pairs = (end_ - x) / 2;
#pragma GCC ivdep
    for (int64_t i = 0; i < pairs; i++) {
      even[i] = number(from[x + 2 * i]);
      odd[i] = number(from[x + 2 * i + 1]);
    }
    if (x + 2 * pairs < end_) even[pairs] = number(from[x + 2 * pairs]);
  }

  int64_t in_h_, in_w_, first_, half_, pitch_, begin_, end_;
  std::vector<A> rows_;
};

// Down the rows of one strip, UP = 1, with B vectors of columns side by side from column ox on.
template <class T, int DOWN, int B>
void march(const UpfirdnArgs& args, const Strip<T, 1, DOWN>& strip, const compute_t<T>* tx, const compute_t<T>* ty,
           const PlaneTail<T> tail, int64_t top, int64_t count, int64_t ox, T* y, const T* ahead) {
  using A = compute_t<T>;
  using V = vector_t<A>;
  constexpr int64_t size = Vector<A>::size;
  const A x0 = tx[0], x1 = tx[1], x2 = tx[2], x3 = tx[3], y0 = ty[0], y1 = ty[1], y2 = ty[2], y3 = ty[3];
  const int64_t out_w = args.out_w;
  auto across = [&](int64_t row, int k) -> V {
    const A* e = strip.even(row) + ox + k * size;
    if constexpr (DOWN == 2) {
      const A* o = strip.odd(row) + ox + k * size;
      return x0 * load(e) + x1 * load(o) + x2 * load(e + 1) + x3 * load(o + 1);
    } else {
      return x0 * load(e) + x1 * load(e + 1) + x2 * load(e + 2) + x3 * load(e + 3);
    }
  };
  V a[B], b[B], c[B];
  for (int k = 0; k < B; k++) {
    a[k] = across(0, k), b[k] = across(1, k);
    if constexpr (DOWN == 1) c[k] = across(2, k);
  }
  for (int64_t i = 0; i < count; i++) {
    const int64_t position = (top + i) * out_w + ox;
#pragma GCC unroll 4
    for (int k = 0; k < B; k++) {
      __builtin_prefetch(ahead + (i * args.in_w + ox + k * size) * DOWN);
      if constexpr (DOWN == 2) c[k] = across(2 * i + 2, k);
      const V d = across(i * DOWN + 3, k);
      const int64_t here = position + k * size, n = B > 1 ? size : std::min(size, out_w - ox);
      store_first(y + here, tail(y0 * a[k] + y1 * b[k] + y2 * c[k] + y3 * d, here, n), n);
      if constexpr (DOWN == 2) {
        a[k] = c[k], b[k] = d;
      } else {
        a[k] = b[k], b[k] = c[k], c[k] = d;
      }
    }
  }
}

// Down the rows of one strip, UP = 2: two rows and two phases at a time. `top` is even.
template <class T>
void march_up(const UpfirdnArgs& args, const Strip<T, 2, 1>& strip, const Axis& ax, const Axis& ay, const compute_t<T>* tx,
              const compute_t<T>* ty, const PlaneTail<T> tail, int64_t top, int64_t count, T* y) {
  using A = compute_t<T>;
  using V = vector_t<A>;
  constexpr int64_t size = Vector<A>::size;
  const A xe0 = tx[ax.even_tap], xe1 = tx[ax.even_tap + 2], xo0 = tx[ax.odd_tap], xo1 = tx[ax.odd_tap + 2];
  const A ye0 = ty[ay.even_tap], ye1 = ty[ay.even_tap + 2], yo0 = ty[ay.odd_tap], yo1 = ty[ay.odd_tap + 2];
  const int64_t out_w = args.out_w, shift = ax.shift;
  const bool later = ay.shift == 1;  // Whether odd rows begin one sample after the even ones.
  struct Pair {
    V even, odd;
  };
  for (int64_t ox = 0; ox < out_w; ox += 2 * size) {
    const int64_t n = out_w - ox;
    auto across = [&](int64_t row) -> Pair {
      const A* s = strip.even(row) + ox / 2;
      const A* t = s + shift;
      return {xe0 * load(s) + xe1 * load(s + 1), xo0 * load(t) + xo1 * load(t + 1)};
    };
    auto emit = [&](const Pair& p, const Pair& q, A t0, A t1, int64_t oy) {
      V first, second;
      weave<A>(t0 * p.even + t1 * q.even, t0 * p.odd + t1 * q.odd, first, second);
      const int64_t position = oy * out_w + ox;
      const int64_t n0 = std::min(n, size), n1 = std::min(n - size, size);
      store_first(y + position, tail(first, position, n0), n0);
      if (n1 > 0) store_first(y + position + size, tail(second, position + size, n1), n1);
    };
    Pair a = across(0), b = across(1);
    for (int64_t i = 0; i < count; i += 2) {
      const Pair c = across(i / 2 + 2);
      emit(a, b, ye0, ye1, top + i);
      if (i + 1 < count) emit(later ? b : a, later ? c : b, yo0, yo1, top + i + 1);
      a = b, b = c;
    }
  }
}

template <class T, int UP, int DOWN>
void planes(const UpfirdnArgs& args, const Taps<compute_t<T>>& taps) {
  constexpr int64_t size = Vector<compute_t<T>>::size;
  using A = compute_t<T>;
  const Axis ax(UP, args.pad_x0), ay(UP, args.pad_y0);
  // Strips as high as the first-level cache allows, and even, so that they begin with the same phase.
  const int64_t width = UP == 2 ? args.out_w / 2 : args.out_w * DOWN, rows = 16384 / int64_t{sizeof(A)} / (width + 20);
  const int64_t most = UP == 2 ? rows * 2 : rows / DOWN, height = std::max<int64_t>(most / 2 * 2, 4);
  const int64_t strips = (args.out_h + height - 1) / height;
  const int64_t area = std::min(height, args.out_h) * args.out_w;
  parallel_for(args.n * args.c * strips, std::max<int64_t>(kGrain / area, 1), [&](int64_t begin, int64_t end) {
    const int64_t reach = UP == 2 ? height / 2 + 3 : (height - 1) * DOWN + 4;
    Strip<T, UP, DOWN> strip(args, reach);
    for (int64_t unit = begin; unit < end; unit++) {
      const int64_t plane = unit / strips, top = unit % strips * height, count = std::min(height, args.out_h - top);
      const T* x = static_cast<const T*>(args.x) + plane * args.in_h * args.in_w;
      T* y = static_cast<T*>(args.y) + plane * args.out_h * args.out_w;
      const PlaneTail<T> tail(args.tail, plane, args.c, args.has_tail);
      if constexpr (UP == 2) {
        strip.read(x, top / 2 + ay.first, (count + 1) / 2 + 2);
        march_up<T>(args, strip, ax, ay, taps.x.data(), taps.y.data(), tail, top, count, y);
      } else {
        strip.read(x, top * DOWN + ay.first, (count - 1) * DOWN + 4);
        // The rows of the next strip come into the cache while this one is computed.
        const T* ahead = x + (top * DOWN + ay.first + (count - 1) * DOWN + 4) * args.in_w;
        int64_t ox = 0;
        for (; ox + 2 * size <= args.out_w; ox += 2 * size) {
          march<T, DOWN, 2>(args, strip, taps.x.data(), taps.y.data(), tail, top, count, ox, y, ahead);
        }
        for (; ox < args.out_w; ox += size) {
          march<T, DOWN, 1>(args, strip, taps.x.data(), taps.y.data(), tail, top, count, ox, y, ahead);
        }
      }
    }
  });
}

// The same with channels in the vectors, a tile of columns at a time: rows filtered along x are kept in a ring of four, far
// smaller than the second-level cache, and a fifth row is zeros.
template <class T>
void channels_last(const UpfirdnArgs& args, const Taps<compute_t<T>>& taps) {
  using A = compute_t<T>;
  using V = vector_t<A>;
  constexpr int64_t size = Vector<A>::size, most = 32, room = 256;  // Vectors of a block; vectors of a row of the ring.
  const int64_t block = std::min(args.c, most * size), blocks = (args.c + block - 1) / block;
  const int64_t columns = std::min(args.out_w, room * size / block), tiles = (args.out_w + columns - 1) / columns;
  const int64_t parts = args.n * blocks * tiles, strips = strips_for(parts, args.out_h);
  const int64_t height = (args.out_h + strips - 1) / strips;
  std::vector<Meeting> across;
  for (int64_t ox = 0; ox < args.out_w; ox++) across.push_back(meet(ox, args.up_x, args.down_x, args.pad_x0, 4, args.in_w));
  const int64_t grain = std::max<int64_t>(kGrain / (height * columns * block), 1);
  parallel_for(parts * strips, grain, [&](int64_t begin, int64_t end) {
    constexpr int64_t pitch = room * size;
    std::vector<A> memory(5 * pitch + size);
    A* const ring = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64 / sizeof(A);
    const A* const zeros = ring + 4 * pitch;
    const A x0 = taps.x[0], x1 = taps.x[1], x2 = taps.x[2], x3 = taps.x[3];
    const int64_t pixel = args.c, in_w = args.in_w, out_w = args.out_w;
    for (int64_t unit = begin; unit < end; unit++) {
      // Tiles of a row follow each other, so that their rows lie side by side in memory.
      const int64_t image = unit / tiles / strips / blocks, channel = unit / tiles / strips % blocks * block;
      const int64_t width = std::min(block, args.c - channel), left = unit % tiles * columns;
      const int64_t right = std::min(left + columns, out_w), top = unit / tiles % strips * height;
      const int64_t bottom = std::min(top + height, args.out_h);
      const T* x = static_cast<const T*>(args.x) + image * args.in_h * in_w * pixel + channel;
      T* y = static_cast<T*>(args.y) + image * args.out_h * out_w * pixel + channel;
      const PixelTail<T> tail(args.tail, image, args.c, args.has_tail);
      auto filter_row = [&](int64_t i) {
        A* to = ring + i % 4 * pitch;
        for (int64_t ox = left; ox < right; ox++, to += width) {
          const Meeting m = across[ox];
          const T* from = x + (i * in_w + m.source) * pixel;
          const A* t = taps.x.data() + m.first;
          if (m.count == 4) {
            for (int64_t c = 0; c < width; c += size) {
              store(to + c, x0 * load(from + c) + x1 * load(from + pixel + c) + x2 * load(from + 2 * pixel + c) +
                                x3 * load(from + 3 * pixel + c));
            }
          } else if (m.count == 2) {
            const A t0 = t[0], t1 = t[args.up_x];
            for (int64_t c = 0; c < width; c += size) store(to + c, t0 * load(from + c) + t1 * load(from + pixel + c));
          } else {
            for (int64_t c = 0; c < width; c += size) {
              V v{};
              for (int j = 0; j < m.count; j++) v += t[j * args.up_x] * load(from + j * pixel + c);
              store(to + c, v);
            }
          }
        }
      };
      int64_t next = 0;
      for (int64_t oy = top; oy < bottom; oy++) {
        const Meeting m = meet(oy, args.up_y, args.down_y, args.pad_y0, 4, args.in_h);
        for (next = std::max(next, m.source); next < m.source + m.count; next++) filter_row(next);
        const A* rows[4] = {zeros, zeros, zeros, zeros};
        A t[4] = {0, 0, 0, 0};
        for (int j = 0; j < m.count; j++) rows[j] = ring + (m.source + j) % 4 * pitch, t[j] = taps.y[m.first + j * args.up_y];
        const A *r0 = rows[0], *r1 = rows[1], *r2 = rows[2], *r3 = rows[3];
        const A y0 = t[0], y1 = t[1], y2 = t[2], y3 = t[3];
        const bool two = m.count <= 2;
        int64_t i = 0;  // In a row of the ring.
        for (int64_t ox = left; ox < right; ox++) {
          const int64_t position = oy * out_w + ox;
          T* to = y + position * pixel;
          for (int64_t c = 0; c < width; c += size, i += size) {
            V v = y0 * load(r0 + i) + y1 * load(r1 + i);
            if (!two) v += y2 * load(r2 + i) + y3 * load(r3 + i);
            store(to + c, tail(v, position, channel + c, size));
          }
        }
      }
    }
  });
}

template <class T>
bool fir4(const UpfirdnArgs& args) {
  using A = compute_t<T>;
  const Taps<A> taps(args);
  if (!taps.separable) return false;
  if (args.channels_last) {
    if (args.c % Vector<A>::size) return false;
    channels_last<T>(args, taps);
  } else if (args.up_x == 2) {
    planes<T, 2, 1>(args, taps);
  } else if (args.down_x == 2) {
    planes<T, 1, 2>(args, taps);
  } else {
    planes<T, 1, 1>(args, taps);
  }
  return true;
}

}  // namespace

bool fir4_cpu(const UpfirdnArgs& args) {
  const bool square = args.kh == 4 && args.kw == 4 && args.up_x == args.up_y && args.down_x == args.down_y;
  const bool factors = (args.up_x == 1 && args.down_x <= 2) || (args.up_x == 2 && args.down_x == 1);
  if (!square || !factors) return false;
  bool done = false;
  with_type(args.dtype, [&](auto t) { done = fir4<decltype(t)>(args); });
  return done;
}

}  // namespace lia
