// CPU kernel of upfirdn2d, with or without an epilogue, for any filter: rows are filtered along x, then summed along y.

#include "upfirdn_cpu.h"

#include "cpu.h"
#include "tail_cpu.h"

namespace lia {
namespace {

// One row, filtered along x: an object a thread, as it holds the padded row.
template <class T>
class Horizontal {
  using A = compute_t<T>;

 public:
  Horizontal(const UpfirdnArgs& args) : up_(args.up_x), down_(args.down_x), kw_(args.kw), out_w_(args.out_w), in_w_(args.in_w) {
    // The window of samples that outputs can meet, zeros included; a phase of the outputs begins at `lead_` or later.
    const int64_t first = floor_div(-args.pad_x0, up_), last = floor_div((out_w_ - 1) * down_ - args.pad_x0 + kw_ - 1, up_);
    first_ = first;
    padded_.assign(last - first + 1 + 2, A(0));
    copy_begin_ = std::max<int64_t>(first, 0);
    copy_end_ = std::min<int64_t>(last + 1, in_w_);
    pad_ = args.pad_x0;
  }

  // Takes a row of the image [in_w].
  void read(const T* row) {
    if (copy_end_ > copy_begin_) load_row(row + copy_begin_, padded_.data() + (copy_begin_ - first_), copy_end_ - copy_begin_);
  }

  // to[ox] += sum over k of taps[k] * zero-stuffed[ox * down - pad + k].
  void filter(const A* taps, A* __restrict to) const {
    const A* p = padded_.data();
    if (up_ == 1) {
      for (int k = 0; k < kw_; k++) {
#pragma GCC ivdep
        for (int64_t i = 0; i < out_w_; i++) to[i] += taps[k] * p[i * down_ + k];
      }
      return;
    }
    for (int64_t ox = 0; ox < out_w_; ox++) {
      const int64_t start = ox * down_ - pad_, first = modulo(-start, up_);
      const A* source = p + ((start + first) / up_ - first_);
      for (int64_t k = first; k < kw_; k += up_) to[ox] += taps[k] * *source++;
    }
  }

 private:
  int up_, down_, kw_;
  int64_t out_w_, in_w_, first_, copy_begin_, copy_end_, pad_;
  std::vector<A> padded_;
};

// The rows that a thread has filtered along x and that the outputs to come still need: row i lies in slot i % slots.
template <class A>
class Window {
 public:
  Window(int slots, int64_t width) : slots_(slots), width_(width), rows_(slots * width) {}
  A* row(int64_t i) { return rows_.data() + (i % slots_) * width_; }

  // Calls fill(i, row) for the rows of [first, first + count) that are not here yet. `first` never goes back.
  template <class F>
  void advance(int64_t first, int count, const F& fill) {
    for (int64_t i = std::max(first, next_); i < first + count; i++) fill(i, row(i));
    next_ = std::max(next_, first + count);
  }
  void forget() { next_ = 0; }

 private:
  int slots_;
  int64_t width_, next_ = 0;
  std::vector<A> rows_;
};

template <class T>
void upfirdn2d_planes(const UpfirdnArgs& args) {
  using A = compute_t<T>;
  const Taps<A> taps(args);
  const T* x = static_cast<const T*>(args.x);
  T* y = static_cast<T*>(args.y);
  const int64_t planes = args.n * args.c, strips = strips_for(planes, args.out_h), strip = (args.out_h + strips - 1) / strips;
  const int64_t grain = std::max<int64_t>(kGrain / (strip * args.out_w), 1);
  parallel_for(planes * strips, grain, [&](int64_t begin, int64_t end) {
    Horizontal<T> horizontal(args);
    Window<A> window((args.kh + args.up_y - 1) / args.up_y + 1, args.out_w);
    std::vector<A> sum(args.out_w + Vector<A>::size), used(args.kh);
    std::vector<const A*> rows(args.kh);
    for (int64_t unit = begin; unit < end; unit++) {
      const int64_t plane = unit / strips, top = (unit % strips) * strip, bottom = std::min(top + strip, args.out_h);
      const T* from = x + plane * args.in_h * args.in_w;
      const PlaneTail<T> tail(args.tail, plane, args.c, args.has_tail);
      window.forget();
      for (int64_t oy = top; oy < bottom; oy++) {
        const Meeting m = meet(oy, args.up_y, args.down_y, args.pad_y0, args.kh, args.in_h);
        std::fill(sum.begin(), sum.end(), A(0));
        if (taps.separable) {
          window.advance(m.source, m.count, [&](int64_t i, A* to) {
            horizontal.read(from + i * args.in_w);
            std::fill(to, to + args.out_w, A(0));
            horizontal.filter(taps.x.data(), to);
          });
          for (int j = 0; j < m.count; j++) {
            rows[j] = window.row(m.source + j);
            used[j] = taps.y[m.first + j * args.up_y];
          }
          add_rows(rows.data(), used.data(), m.count, sum.data(), args.out_w);
        } else {
          for (int j = 0; j < m.count; j++) {
            horizontal.read(from + (m.source + j) * args.in_w);
            horizontal.filter(taps.across(m.first + j * args.up_y), sum.data());
          }
        }
        T* to = y + (plane * args.out_h + oy) * args.out_w;
        for (int64_t ox = 0; ox < args.out_w; ox += Vector<A>::size) {
          const int64_t n = std::min(Vector<A>::size, args.out_w - ox);
          store_first(to + ox, tail(load(sum.data() + ox), oy * args.out_w + ox, n), n);
        }
      }
    }
  });
}

template <class T>
void upfirdn2d_channels_last(const UpfirdnArgs& args) {
  using A = compute_t<T>;
  const Taps<A> taps(args);
  const T* x = static_cast<const T*>(args.x);
  T* y = static_cast<T*>(args.y);
  const int slots = (args.kh + args.up_y - 1) / args.up_y + 1;
  // As many channels at a time as keep the window in the second-level cache.
  const int64_t fit = (256 * 1024 / int64_t{sizeof(A)}) / (args.out_w * slots) / 16 * 16;
  const int64_t block = std::min<int64_t>(args.c, std::max<int64_t>(fit, 16)), blocks = (args.c + block - 1) / block;
  const int64_t images = args.n * blocks, strips = strips_for(images, args.out_h), strip = (args.out_h + strips - 1) / strips;
  std::vector<Meeting> across;
  for (int64_t ox = 0; ox < args.out_w; ox++) across.push_back(meet(ox, args.up_x, args.down_x, args.pad_x0, args.kw, args.in_w));
  const int64_t grain = std::max<int64_t>(kGrain / (strip * args.out_w * block), 1);
  parallel_for(images * strips, grain, [&](int64_t begin, int64_t end) {
    Window<A> window(slots, args.out_w * block);
    std::vector<A> sum(args.out_w * block + Vector<A>::size), used(std::max(args.kh, args.kw));
    std::vector<const A*> rows(args.kh);
    std::vector<const T*> pixels(args.kw);
    for (int64_t unit = begin; unit < end; unit++) {
      const int64_t image = unit / strips / blocks, c0 = (unit / strips % blocks) * block, c = std::min(block, args.c - c0);
      const int64_t top = (unit % strips) * strip, bottom = std::min(top + strip, args.out_h);
      const T* from = x + image * args.in_h * args.in_w * args.c + c0;
      const PixelTail<T> tail(args.tail, image, args.c, args.has_tail);
      window.forget();
      // Adds row i of the image, filtered along x, to a row [out_w, c].
      auto along_x = [&](int64_t i, const A* filter, A* to) {
        for (int64_t ox = 0; ox < args.out_w; ox++, to += c) {
          const Meeting& m = across[ox];
          for (int j = 0; j < m.count; j++) {
            pixels[j] = from + (i * args.in_w + m.source + j) * args.c;
            used[j] = filter[m.first + j * args.up_x];
          }
          add_rows(pixels.data(), used.data(), m.count, to, c);
        }
      };
      for (int64_t oy = top; oy < bottom; oy++) {
        const Meeting m = meet(oy, args.up_y, args.down_y, args.pad_y0, args.kh, args.in_h);
        std::fill(sum.begin(), sum.end(), A(0));
        if (taps.separable) {
          window.advance(m.source, m.count, [&](int64_t i, A* to) {
            std::fill(to, to + args.out_w * c, A(0));
            along_x(i, taps.x.data(), to);
          });
          for (int j = 0; j < m.count; j++) {
            rows[j] = window.row(m.source + j);
            used[j] = taps.y[m.first + j * args.up_y];
          }
          add_rows(rows.data(), used.data(), m.count, sum.data(), args.out_w * c);
        } else {
          for (int j = 0; j < m.count; j++) along_x(m.source + j, taps.across(m.first + j * args.up_y), sum.data());
        }
        for (int64_t ox = 0; ox < args.out_w; ox++) {
          T* to = y + ((image * args.out_h + oy) * args.out_w + ox) * args.c + c0;
          for (int64_t i = 0; i < c; i += Vector<A>::size) {
            const int64_t n = std::min(Vector<A>::size, c - i);
            store_first(to + i, tail(load(sum.data() + ox * c + i), oy * args.out_w + ox, c0 + i, n), n);
          }
        }
      }
    }
  });
}

}  // namespace

void upfirdn2d_cpu(const UpfirdnArgs& args) {
  if (fir4_cpu(args)) return;
  with_type(args.dtype, [&](auto t) {
    if (args.channels_last) {
      upfirdn2d_channels_last<decltype(t)>(args);
    } else {
      upfirdn2d_planes<decltype(t)>(args);
    }
  });
}

}  // namespace lia
