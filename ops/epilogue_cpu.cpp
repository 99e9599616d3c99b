// CPU kernels without a filter: epilogue (bias_act, modconv_epilogue) and act_backward.

#include "cpu.h"
#include "parallel.h"
#include "tail_cpu.h"

namespace lia {
namespace {

template <class T>
void epilogue_planes(const EpilogueArgs& args) {
  constexpr int64_t size = Vector<compute_t<T>>::size;
  // Parts of a plane, so that one large plane keeps all threads busy.
  const int64_t part = std::min<int64_t>(args.positions, kGrain), parts = (args.positions + part - 1) / part;
  parallel_for(args.n * args.c * parts, std::max<int64_t>(kGrain / part, 1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t plane = i / parts, first = i % parts * part, last = std::min(first + part, args.positions);
      const T* x = static_cast<const T*>(args.x) + plane * args.positions;
      T* y = static_cast<T*>(args.y) + plane * args.positions;
      const PlaneTail<T> tail(args.tail, plane, args.c);
      for (int64_t p = first; p < last; p += size) {
        const int64_t n = std::min(size, last - p);
        store_first(y + p, tail(load_first(x + p, n), p, n), n);
      }
    }
  });
}

template <class T>
void epilogue_channels_last(const EpilogueArgs& args) {
  constexpr int64_t size = Vector<compute_t<T>>::size;
  parallel_for(args.n * args.positions, std::max<int64_t>(kGrain / args.c, 1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end;) {
      const int64_t image = i / args.positions, next = std::min(end, (image + 1) * args.positions);
      const PixelTail<T> tail(args.tail, image, args.c);
      for (; i < next; i++) {
        const T* x = static_cast<const T*>(args.x) + i * args.c;
        T* y = static_cast<T*>(args.y) + i * args.c;
        for (int64_t c = 0; c < args.c; c += size) {
          const int64_t n = std::min(size, args.c - c);
          store_first(y + c, tail(load_first(x + c, n), i - image * args.positions, c, n), n);
        }
      }
    }
  });
}

template <class T>
void act_backward(const ActBackwardArgs& args) {
  using A = compute_t<T>;
  constexpr int64_t size = Vector<A>::size;
  Activation activation = args.activation;
  if (activation.act != kSwish && activation.clamp >= 0) {
    T limit;  // An output that was clamped has been rounded, too.
    assign(limit, static_cast<A>(activation.clamp));
    activation.clamp = number(limit);
  }
  const Activate<A> activate(activation);
  parallel_for(args.size, kGrain, [&](int64_t begin, int64_t end) {
    const Activate<A> a = activate;
    const T* dy = static_cast<const T*>(args.dy);
    const T* ref = static_cast<const T*>(args.ref);
    T* dx = static_cast<T*>(args.dx);
    for (int64_t i = begin; i < end; i += size) {
      const int64_t n = std::min(size, end - i);
      store_first(dx + i, a.backward(load_first(dy + i, n), load_first(ref + i, n)), n);
    }
  });
}

}  // namespace

void epilogue_cpu(const EpilogueArgs& args) {
  with_type(args.dtype, [&](auto t) {
    args.channels_last ? epilogue_channels_last<decltype(t)>(args) : epilogue_planes<decltype(t)>(args);
  });
}

void act_backward_cpu(const ActBackwardArgs& args) {
  with_type(args.dtype, [&](auto t) { act_backward<decltype(t)>(args); });
}

}  // namespace lia
