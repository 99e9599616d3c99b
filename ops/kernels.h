// What the binding hands to the kernels: plain structs without a torch type, so that g++, nvcc and NVRTC read the same file.
#pragma once

#ifdef __CUDACC_RTC__
using int64_t = long long;
#else
#include <cstdint>
#endif

namespace lia {

enum Dtype : int { kFloat32, kFloat16, kBFloat16, kFloat64 };

// In the order of ACTIVATIONS in lia_adapter/ops/reference.py.
enum Act : int { kLinear, kRelu, kLrelu, kTanh, kSigmoid, kElu, kSelu, kSoftplus, kSwish };

// clamp(act(v) * gain, ±clamp); clamp < 0 means none.
struct Activation {
  int act;
  double alpha;
  double gain;
  double clamp;
};

// v = x * scale + noise + bias, then the activation. The tensors have the dtype of x; null where absent.
struct Tail {
  const void* scale;     // [N, C]
  const void* noise;     // [1 or N, H * W]
  const void* bias;      // [C]
  int64_t noise_stride;  // Elements from the noise of one image to the next: 0 or H * W.
  Activation activation;
};

// y = tail(x). Positions are the pixels of a plane, whatever its shape.
struct EpilogueArgs {
  const void* x;
  void* y;
  int64_t n, c, positions;
  bool channels_last;  // [N, positions, C] instead of [N, C, positions]
  int dtype;
  Tail tail;
};

// dx = dy * d(activation)/dv. `ref` is the activation's output, from which all derivatives follow but that of swish,
// whose ref is v itself.
struct ActBackwardArgs {
  const void* dy;
  const void* ref;
  void* dx;
  int64_t size;
  int dtype;
  Activation activation;
};

// y = tail(upfirdn2d(x)). See upfirdn2d in lia_adapter/ops/reference.py for the definition.
struct UpfirdnArgs {
  const void* x;
  void* y;
  const float* f;  // [kh, kw]; where separable, [kw] for both axes, and kh = kw
  int64_t n, c;
  int64_t in_h, in_w, out_h, out_w;
  int kh, kw;
  int up_x, up_y, down_x, down_y;
  int pad_x0, pad_y0;  // The other two paddings act through out_h and out_w alone.
  bool separable;
  bool flip;           // true: correlate; false: convolve
  bool channels_last;  // [N, H, W, C] instead of [N, C, H, W]
  int dtype;
  double gain;         // Of the filter.
  bool has_tail;
  Tail tail;
};

}  // namespace lia
