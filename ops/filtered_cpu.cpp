// filtered_lrelu on the CPU.
//
// Every lane of a vector works on a plane of its own (or on a strip of rows of one, where planes are few). All sums are then
// sums of whole vectors, whatever the factors and phases of the filters; only reading and writing has to turn lanes into
// columns. Rows pass through rings that hold no more than the filters reach, so the higher rate never exists as a plane.

#include "filtered_cpu.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "parallel.h"
#include "vectors.h"

namespace lia {
namespace {

// Bytes that the rings of a thread may take: they should stay in its second-level cache.
constexpr int64_t kScratch = 600 << 10;
// Strips below this height would spend their time on the rows that they share.
constexpr int64_t kShortestStrip = 32;
// Samples of the mask in a word: 2 bits each.
constexpr int64_t kWord = 16;

int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }
int64_t ceil_div(int64_t a, int64_t b) { return floor_div(a + b - 1, b); }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// -- filters

// The taps that meet real samples (not stuffed zeros) at an output: taps first, first + factor, ... on samples source,
// source + 1, ...
struct Meeting {
  int64_t first, source;
};

Meeting meeting(int64_t output, int64_t padding, int64_t factor) {
  const int64_t source = ceil_div(output - padding, factor);
  return {source * factor - output + padding, source};
}

template <class A>
using Taps = std::vector<A>;

// Taps in the order in which they meet the samples. The row is that of a 2-D filter; for a separable one there is but row 0.
template <class A>
Taps<A> row_of(const FilterStage& stage, int row, bool flip) {
  Taps<A> taps(stage.kw);
  for (int k = 0; k < stage.kw; k++) {
    const int y = stage.separable ? 0 : (flip ? row : stage.kh - 1 - row);
    taps[k] = stage.f ? A(stage.f[y * stage.kw + (flip ? k : stage.kw - 1 - k)]) : A(1);
  }
  return taps;
}

template <class A>
std::vector<Taps<A>> rows_of(const FilterStage& stage, bool flip) {
  std::vector<Taps<A>> rows;
  for (int row = 0; row < (stage.separable ? 1 : stage.kh); row++) rows.push_back(row_of<A>(stage, row, flip));
  return rows;
}

// For each phase of upsampling, the taps that meet real samples.
template <class A>
std::vector<Taps<A>> phases_of(const Taps<A>& taps, int factor) {
  std::vector<Taps<A>> phases(factor);
  for (size_t k = 0; k < taps.size(); k++) phases[k % factor].push_back(taps[k]);
  return phases;
}

// to[i * to_step] = sum over k of taps[k] * from[k][i * STEP], added to what is there where ADD. The sources are rows, or one
// row from its k-th column on. Not inlined: the sums need the registers for themselves.
template <int STEP, bool ADD, class A, class V, class Source>
__attribute__((noinline)) void fir(const Taps<A>& taps, Source from, V* to, int64_t to_step, int64_t n) {
  constexpr int kBlock = 8;
  const A* const t = taps.data();
  const int64_t count = taps.size();
  int64_t i = 0;
  for (; i + kBlock <= n; i += kBlock, to += kBlock * to_step) {
    V sum[kBlock];
    for (int j = 0; j < kBlock; j++) sum[j] = ADD ? to[j * to_step] : V{};
    for (int64_t k = 0; k < count; k++) {
      const V* source = from[k] + i * STEP;
      for (int j = 0; j < kBlock; j++) sum[j] += t[k] * source[j * STEP];
    }
    for (int j = 0; j < kBlock; j++) to[j * to_step] = sum[j];
  }
  for (; i < n; i++, to += to_step) {
    V sum = ADD ? *to : V{};
    for (int64_t k = 0; k < count; k++) sum += t[k] * from[k][i * STEP];
    *to = sum;
  }
}

template <class V>
struct Row {
  const V* first;
  const V* operator[](int64_t k) const { return first + k; }
};

// -- lanes and columns

// A square [N, N] transposed: weaving all of it with its second half rotates the bits of an element's index by one; rotated by
// half their number, row and column have changed places.
template <class A>
inline void transpose(vector_t<A>* square) {
  constexpr int N = Vector<A>::size;
  for (int width = 1; width < N; width *= 2) {
    vector_t<A> woven[N];
    for (int i = 0; i < N / 2; i++) weave<A>(square[i], square[i + N / 2], woven[2 * i], woven[2 * i + 1]);
    std::copy(woven, woven + N, square);
  }
}

// A word of the mask, of which a row may end with a part.
inline void copy_word(void* to, const void* from, int64_t bytes_left) {
  if (bytes_left >= 4) {
    std::memcpy(to, from, 4);
  } else {
    std::memcpy(to, from, bytes_left);
  }
}

// What one lane works on: output rows from `first` on of a plane.
struct Job {
  int64_t plane, first;
  bool last;  // The strip ends with the plane.
};

// -- one strip of rows and one tile of columns, for kLanes jobs

template <class T>
class Strip {
  using A = compute_t<T>;
  using V = vector_t<A>;
  using Bits = decltype(V{} > V{});
  static constexpr int kLanes = Vector<A>::size;

 public:
  // height: output rows of a strip; [begin, end): output columns of the tile.
  Strip(const FilteredArgs& args, int64_t height, int64_t begin, int64_t end)
      : args_(args), height_(height), begin_(begin), width_(end - begin) {
    const FilterStage &up = args.up, &down = args.down;
    for (const Taps<A>& row : rows_of<A>(up, args.flip)) up_rows_.push_back(phases_of(row, up.factor));
    down_rows_ = rows_of<A>(down, args.flip);
    const bool ends_plane = end == args.out_w;
    // Columns of the higher rate that the tile reads, those of them that exist, and those whose mask it writes.
    low_ = begin * down.factor - down.pad_x0;
    own_ = ends_plane ? args.high_w : end * down.factor;
    high_width_ = (width_ - 1) * down.factor + down.kw;
    if (args.mask_out) high_width_ = std::max(high_width_, own_ - low_);
    from_ = std::max<int64_t>(low_, 0);
    to_ = std::max(from_, std::min(low_ + high_width_, args.high_w));
    x_low_ = meeting(from_, up.pad_x0, up.factor).source;
    x_width_ = ceil_div(to_ - from_, up.factor) + ceil_div(up.kw, up.factor) + 1;
    x_ring_ = ceil_div(up.kh, up.factor);
    y_ring_ = down.separable ? down.kh : ceil_div(down.kh, down.factor);
    mask_.resize(ceil_div(args.high_w, kWord));
    rows_.resize(std::max(x_ring_, y_ring_));
    memory_.resize(x_width_ * (x_ring_ + 1) + high_width_ + width_ * (y_ring_ + 1));
    x_rows_ = &memory_[0].v;
    x_row_ = x_rows_ + x_width_ * x_ring_;
    high_ = x_row_ + x_width_;
    y_rows_ = high_ + high_width_;
    y_row_ = y_rows_ + width_ * y_ring_;
  }

  void run(const Job* jobs, int count) {
    const FilterStage &up = args_.up, &down = args_.down;
    jobs_ = jobs, count_ = count;
    std::fill(memory_.begin(), memory_.end(), Slot{});
    int64_t rows = (height_ - 1) * down.factor + down.kh;
    if (args_.mask_out) {
      rows = std::max(rows, height_ * down.factor);
      for (int l = 0; l < count; l++) {
        if (jobs[l].last) rows = std::max(rows, args_.high_h - jobs[l].first * down.factor);
      }
    }
    // All lanes are in the same phase: the strips are a whole number of periods apart.
    const int64_t start = jobs[0].first * down.factor - down.pad_y0;
    int64_t loaded = meeting(start, up.pad_y0, up.factor).source;
    for (int64_t row = 0; row < rows; row++) {
      const Meeting m = meeting(start + row, up.pad_y0, up.factor);
      const int64_t count = std::max<int64_t>(ceil_div(up.kh - m.first, up.factor), 0);
      for (; loaded < m.source + count; loaded++) load(loaded);
      upsample(m, count);
      if (args_.mask_in) {
        modulate(row);
      } else {
        activate();
        if (args_.mask_out) write_mask(row);
      }
      downsample(row);
    }
  }

 private:
  V* x_row(int64_t row) { return x_rows_ + (row - floor_div(row, x_ring_) * x_ring_) * x_width_; }

  // One row of x + b of every lane, lanes in the columns of a vector. `row` is that of the first lane.
  void load(int64_t row) {
    const int64_t begin = std::max<int64_t>(x_low_, 0), end = std::min(x_low_ + x_width_, args_.in_w);
    V* to = x_row(row) - x_low_;
    const T* from[kLanes]{};
    V bias{};
    for (int l = 0; l < count_; l++) {
      const int64_t y = row + (jobs_[l].first - jobs_[0].first) * args_.down.factor / args_.up.factor;
      if (y < 0 || y >= args_.in_h) continue;
      from[l] = static_cast<const T*>(args_.x) + (jobs_[l].plane * args_.in_h + y) * args_.in_w;
      if (args_.bias) bias[l] = number(static_cast<const T*>(args_.bias)[jobs_[l].plane % args_.channels]);
    }
    for (int64_t i = begin; i < end; i += kLanes) {
      const int64_t n = std::min<int64_t>(kLanes, end - i);
      V square[kLanes];
      for (int l = 0; l < kLanes; l++) square[l] = from[l] ? load_first(from[l] + i, n) + bias[l] : V{};
      transpose<A>(square);
      std::copy(square, square + n, to + i);
    }
  }

  // A row at the higher rate from the `count` rows of x that it meets.
  void upsample(const Meeting& m, int64_t count) {
    const FilterStage& up = args_.up;
    if (up.separable) {
      for (int64_t k = 0; k < count; k++) rows_[k] = x_row(m.source + k);
      fir<1, false>(up_rows_[0][m.first], rows_.data(), x_row_, 1, x_width_);
      spread<false>(up_rows_[0], x_row_);
      return;
    }
    if (count == 0) std::fill(high_, high_ + high_width_, V{});
    for (int64_t k = 0; k < count; k++) {
      const std::vector<Taps<A>>& phases = up_rows_[m.first + k * up.factor];
      k == 0 ? spread<false>(phases, x_row(m.source)) : spread<true>(phases, x_row(m.source + k));
    }
  }

  template <bool ADD>
  void spread(const std::vector<Taps<A>>& phases, const V* x) {
    const int64_t factor = args_.up.factor;
    for (int64_t column = from_; column < std::min(from_ + factor, to_); column++) {
      const Meeting m = meeting(column, args_.up.pad_x0, factor);
      const int64_t n = ceil_div(to_ - column, factor);
      fir<1, ADD>(phases[m.first], Row<V>{x + m.source - x_low_}, high_ + column - low_, factor, n);
    }
  }

  // The activation, and what its derivative is.
  void activate() {
    const A gain = A(args_.gain), below = A(args_.gain * args_.slope), limit = A(args_.clamp);
    V* high = high_ - low_;
    if (!args_.mask_out) {
      if (args_.clamp < 0) {
        for (int64_t i = from_; i < to_; i++) high[i] = high[i] > 0 ? high[i] * gain : high[i] * below;
        return;
      }
      for (int64_t i = from_; i < to_; i++) {
        const V v = high[i] > 0 ? high[i] * gain : high[i] * below;
        high[i] = v > limit ? V{} + limit : (v < -limit ? V{} - limit : v);
      }
      return;
    }
    const V top = V{} + (args_.clamp < 0 ? std::numeric_limits<A>::infinity() : limit);
    for (int64_t word = from_ / kWord; word * kWord < to_; word++) {
      Bits bits{};
      const int64_t end = std::min(word * kWord + kWord, to_);
      for (int64_t i = std::max(word * kWord, from_); i < end; i++) {
        const int shift = 2 * (i % kWord);
        const Bits positive = high[i] > 0;
        const V v = high[i] * (positive ? V{} + gain : V{} + below);
        const Bits above = v > top, under = v < -top;
        high[i] = above ? top : (under ? -top : v);
        bits |= (~positive & kNegative) << shift | ((above | under) & kClamped) << shift;
      }
      mask_[word].bits = bits;
    }
  }

  int64_t mask_stride() const { return ceil_div(args_.high_w, 4); }

  void write_mask(int64_t row) {
    for (int l = 0; l < count_; l++) {
      const Job& job = jobs_[l];
      const int64_t y = job.first * args_.down.factor + row;
      if (y >= args_.high_h || (row >= height_ * args_.down.factor && !job.last)) continue;
      unsigned char* to = args_.mask_out + (job.plane * args_.high_h + y) * mask_stride();
      for (int64_t word = begin_ * args_.down.factor / kWord; word * kWord < own_; word++) {
        const uint32_t bits = static_cast<uint32_t>(mask_[word].bits[l]);
        copy_word(to + 4 * word, &bits, mask_stride() - 4 * word);
      }
    }
  }

  // The recorded derivative.
  void modulate(int64_t row) {
    const A gain = A(args_.gain), below = A(args_.gain * args_.slope);
    const int64_t begin = from_ / kWord, end = ceil_div(to_, kWord);
    for (int l = 0; l < kLanes; l++) {
      const int64_t y = l < count_ ? jobs_[l].first * args_.down.factor - args_.down.pad_y0 + row : -1;
      const bool exists = y >= 0 && y < args_.high_h;
      const unsigned char* from = exists ? args_.mask_in + (jobs_[l].plane * args_.high_h + y) * mask_stride() : nullptr;
      for (int64_t word = begin; word < end; word++) {
        uint32_t bits = 0xaaaaaaaa;  // kClamped everywhere: there is nothing outside the plane.
        if (exists) copy_word(&bits, from + 4 * word, mask_stride() - 4 * word);
        mask_[word].bits[l] = static_cast<int32_t>(bits);
      }
    }
    V* high = high_ - low_;
    for (int64_t word = begin; word < end; word++) {
      const Bits bits = mask_[word].bits;
      const int64_t last = std::min(word * kWord + kWord, to_);
      for (int64_t i = std::max(word * kWord, from_); i < last; i++) {
        const Bits code = bits >> static_cast<int>(2 * (i % kWord));
        const V v = high[i] * ((code & kNegative) != 0 ? V{} + below : V{} + gain);
        high[i] = (code & kClamped) != 0 ? V{} : v;
      }
    }
  }

  // A row at the higher rate filtered and decimated along its columns.
  template <bool ADD>
  void gather(const Taps<A>& taps, V* to) {
    const Row<V> from{high_};
    switch (args_.down.factor) {
      case 1: return fir<1, ADD>(taps, from, to, 1, width_);
      case 2: return fir<2, ADD>(taps, from, to, 1, width_);
      case 4: return fir<4, ADD>(taps, from, to, 1, width_);
    }
    for (int64_t i = 0; i < width_; i++) {
      fir<1, ADD>(taps, Row<V>{high_ + i * args_.down.factor}, to + i, 1, 1);
    }
  }

  // The outputs that a row at the higher rate completes.
  void downsample(int64_t row) {
    const FilterStage& down = args_.down;
    if (down.separable) {
      gather<false>(down_rows_[0], y_rows_ + row % y_ring_ * width_);
      const int64_t top = row - (down.kh - 1);
      if (top < 0 || top % down.factor != 0) return;
      for (int k = 0; k < down.kh; k++) rows_[k] = y_rows_ + (top + k) % y_ring_ * width_;
      fir<1, false>(down_rows_[0], rows_.data(), y_row_, 1, width_);
      store(top / down.factor, y_row_);
      return;
    }
    // A 2-D filter: each row is added to all outputs that it takes part in.
    const int64_t oldest = std::max<int64_t>(ceil_div(row - (down.kh - 1), down.factor), 0);
    for (int64_t y = oldest; y <= row / down.factor; y++) {
      const int64_t k = row - y * down.factor;
      V* to = y_rows_ + y % y_ring_ * width_;
      k == 0 ? gather<false>(down_rows_[k], to) : gather<true>(down_rows_[k], to);
      if (k == down.kh - 1) store(y, to);
    }
  }

  void store(int64_t row, const V* from) {
    if (row >= height_) return;
    T* to[kLanes];
    for (int l = 0; l < kLanes; l++) {
      const bool exists = l < count_ && jobs_[l].first + row < args_.out_h;
      const int64_t y = exists ? jobs_[l].plane * args_.out_h + jobs_[l].first + row : 0;
      to[l] = exists ? static_cast<T*>(args_.y) + y * args_.out_w + begin_ : nullptr;
    }
    for (int64_t i = 0; i < width_; i += kLanes) {
      const int64_t n = std::min<int64_t>(kLanes, width_ - i);
      V square[kLanes]{};
      std::copy(from + i, from + i + n, square);
      transpose<A>(square);
      for (int l = 0; l < kLanes; l++) {
        if (to[l]) store_first(to[l] + i, square[l], n);
      }
    }
  }

  // What vectors are to std::vector.
  struct Slot {
    V v;
  };
  struct Word {
    Bits bits;
  };

  const FilteredArgs& args_;
  const int64_t height_, begin_, width_;
  std::vector<std::vector<Taps<A>>> up_rows_;  // [kh, or 1 where separable][phase]
  std::vector<Taps<A>> down_rows_;             // [kh, or 1 where separable]
  int64_t low_, own_, high_width_, from_, to_, x_low_, x_width_, x_ring_, y_ring_;
  std::vector<Slot> memory_;
  std::vector<Word> mask_;                     // A row of it.
  std::vector<const V*> rows_;  // The rows that a sum runs over.
  V *x_rows_, *x_row_, *high_, *y_rows_, *y_row_;
  const Job* jobs_ = nullptr;
  int count_ = 0;
};

template <class T>
void filtered(const FilteredArgs& args) {
  constexpr int64_t kLanes = Vector<compute_t<T>>::size;
  // Columns in tiles that the rings have room for; a tile begins with a word of the mask.
  const FilterStage &up = args.up, &down = args.down;
  const int64_t column = 64 * (ceil_div(up.kh, up.factor) * ceil_div(down.factor, up.factor) + down.factor + down.kh);
  const int64_t most = std::max(kScratch / column / kWord * kWord, 4 * kWord);
  const int64_t tiles = ceil_div(args.out_w, most);
  const int64_t width = round_up(ceil_div(args.out_w, tiles), kWord);
  // Rows in strips where there are too few planes for all lanes of all threads.
  const int64_t period = up.factor / std::gcd(up.factor, down.factor);
  const int64_t wanted = ceil_div(kLanes * ceil_div(num_threads(), tiles), args.planes);
  const int64_t allowed = std::max<int64_t>(args.out_h / kShortestStrip, 1);
  const int64_t height = round_up(ceil_div(args.out_h, std::min(wanted, allowed)), period);
  const int64_t strips = ceil_div(args.out_h, height);
  const int64_t jobs = args.planes * strips, groups = ceil_div(jobs, kLanes);
  parallel_for(tiles * groups, 1, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin / groups; tile * groups < end; tile++) {
      if (tile * width >= args.out_w) break;
      Strip<T> strip(args, height, tile * width, std::min(tile * width + width, args.out_w));
      for (int64_t i = std::max(begin, tile * groups); i < std::min(end, (tile + 1) * groups); i++) {
        const int64_t first = (i - tile * groups) * kLanes, count = std::min(kLanes, jobs - first);
        Job batch[kLanes];
        for (int64_t l = 0; l < count; l++) {
          const int64_t index = (first + l) % strips;
          batch[l] = {(first + l) / strips, index * height, index == strips - 1};
        }
        strip.run(batch, static_cast<int>(count));
      }
    }
  });
}

}  // namespace

void filtered_cpu(const FilteredArgs& args) {
  switch (args.dtype) {
    case kFloat32: return filtered<float>(args);
    case kFloat64: return filtered<double>(args);
    case kFloat16: return filtered<Half>(args);
    default: return filtered<BFloat16>(args);
  }
}

}  // namespace lia
