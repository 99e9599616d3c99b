// The ops as torch sees them, on torch's stable ABI. Compiled once for the CPU and, with LIA_CUDA, once for CUDA; the schemas
// are defined in lia_adapter/ops/library.py.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <array>
#include <optional>

#ifdef LIA_CUDA
#include "cuda.h"
#else
#include "cpu.h"
#endif

namespace lia {
namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Optional = std::optional<Tensor>;

#ifdef LIA_CUDA
// Runs a launcher on the current stream of the tensor's device.
template <class Args>
void run(int (*launch)(const Args&, void*), const Args& args, const Tensor& x) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  const int error = launch(args, stream);
  STD_TORCH_CHECK(error == 0, "a kernel of lia_adapter could not be launched: CUDA error ", error);
}
#define LIA_RUN(kernel, args, x) run(kernel##_cuda, args, x)
#else
#define LIA_RUN(kernel, args, x) kernel##_cpu(args)
#endif

int dtype_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return kFloat32;
    case ScalarType::Half: return kFloat16;
    case ScalarType::BFloat16: return kBFloat16;
    case ScalarType::Double: return kFloat64;
    default: STD_TORCH_CHECK(false, "expected a tensor of float32, float16, bfloat16 or float64");
  }
}

bool is_channels_last(const Tensor& x) {
  if (x.dim() != 4 || x.is_contiguous()) return false;
  const auto size = x.sizes(), stride = x.strides();
  return stride[1] == 1 && stride[3] == size[1] && stride[2] == size[3] * size[1] && stride[0] == size[2] * size[3] * size[1];
}

// A tensor that the kernels can read: contiguous or channels_last.
Tensor dense(const Tensor& x) { return x.is_contiguous() || is_channels_last(x) ? x : torch::stable::contiguous(x); }

Tensor like(const Tensor& x, int64_t height, int64_t width) {
  const std::array<int64_t, 4> size{x.size(0), x.size(1), height, width};
  return torch::stable::empty({size.data(), 4}, x.scalar_type(), std::nullopt, x.device(), std::nullopt,
                              is_channels_last(x) ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

// A tensor of the tail, dense and kept alive while the kernel is handed its address.
struct Part {
  Part(const Optional& tensor, const Tensor& x, int64_t expected, const char* name) {
    if (!tensor) return;
    tensor_ = torch::stable::contiguous(*tensor);
    STD_TORCH_CHECK(tensor_->scalar_type() == x.scalar_type() && tensor_->device() == x.device(), name,
                    " must have the dtype and the device of x");
    STD_TORCH_CHECK(tensor_->numel() == expected, name, " has ", tensor_->numel(), " elements; expected ", expected);
  }
  const void* get() const { return tensor_ ? tensor_->const_data_ptr() : nullptr; }

 private:
  Optional tensor_;
};

struct Parts {
  Part scale, noise, bias;
  int64_t noise_stride;

  Parts(const Tensor& x, int64_t positions, const Optional& s, const Optional& n, const Optional& b)
      : scale(s, x, x.size(0) * x.size(1), "scale"),
        noise(n, x, n && n->numel() != positions ? x.size(0) * positions : positions, "noise"),
        bias(b, x, x.size(1), "b"),
        noise_stride(n && n->numel() != positions ? positions : 0) {}

  Tail tail(const Activation& activation) const { return {scale.get(), noise.get(), bias.get(), noise_stride, activation}; }
};

Activation activation_of(int64_t act, double alpha, double gain, double clamp) {
  return {static_cast<int>(act), alpha, gain, clamp};
}

// From x to y, which are dense and may be the same.
void run_epilogue(const Tensor& x, const Tensor& y, const Optional& scale, const Optional& noise, const Optional& b,
                  const Activation& activation) {
  if (x.numel() == 0) return;
  const int64_t n = x.size(0), c = x.size(1), positions = x.numel() / (n * c);
  const Parts parts(x, positions, scale, noise, b);
  const EpilogueArgs args{
      x.const_data_ptr(), y.mutable_data_ptr(), n, c, positions, positions == 1 || is_channels_last(x),
      dtype_of(x), parts.tail(activation),
  };
  LIA_RUN(epilogue, args, x);
}

Tensor epilogue(Tensor x, Optional scale, Optional noise, Optional b, int64_t act, double alpha, double gain, double clamp) {
  x = dense(x);
  Tensor y = torch::stable::empty_like(x);
  run_epilogue(x, y, scale, noise, b, activation_of(act, alpha, gain, clamp));
  return y;
}

void epilogue_(Tensor x, Optional scale, Optional noise, Optional b, int64_t act, double alpha, double gain, double clamp) {
  Tensor y = dense(x);  // x itself, but for odd strides
  run_epilogue(y, y, scale, noise, b, activation_of(act, alpha, gain, clamp));
  if (y.const_data_ptr() != x.const_data_ptr()) torch::stable::copy_(x, y);
}

Tensor act_backward(Tensor dy, Tensor ref, int64_t act, double alpha, double gain, double clamp) {
  ref = dense(ref);
  STD_TORCH_CHECK(dy.numel() == ref.numel() && dy.scalar_type() == ref.scalar_type() && dy.device() == ref.device(),
                  "dy must have the shape, dtype and device of ref");
  Tensor dx = torch::stable::empty_like(ref);
  if (dx.numel() == 0) return dx;
  const bool same_order = is_channels_last(ref) ? is_channels_last(dy) : dy.is_contiguous();
  if (!same_order) {
    Tensor ordered = torch::stable::empty_like(ref);
    torch::stable::copy_(ordered, dy);
    dy = ordered;
  }
  const ActBackwardArgs args{
      dy.const_data_ptr(), ref.const_data_ptr(), dx.mutable_data_ptr(), dx.numel(), dtype_of(ref),
      activation_of(act, alpha, gain, clamp),
  };
  LIA_RUN(act_backward, args, ref);
  return dx;
}

struct Geometry {
  int64_t up_x, up_y, down_x, down_y, px0, px1, py0, py1;
  bool flip;
  double gain;
};

Tensor filter(Tensor x, Tensor f, const Geometry& g, const Optional& scale, const Optional& noise, const Optional& b,
              const Activation* activation) {
  STD_TORCH_CHECK(x.dim() == 4, "x must be [N, C, H, W]");
  STD_TORCH_CHECK(f.scalar_type() == ScalarType::Float && f.device() == x.device() && (f.dim() == 1 || f.dim() == 2),
                  "f must be float32, [k] or [kh, kw], on the device of x");
  STD_TORCH_CHECK(g.up_x > 0 && g.up_y > 0 && g.down_x > 0 && g.down_y > 0, "up and down must be 1 or more");
  x = dense(x);
  f = torch::stable::contiguous(f);
  const int64_t kh = f.size(0), kw = f.size(f.dim() - 1);
  const int64_t height = x.size(2) * g.up_y + g.py0 + g.py1 - kh, width = x.size(3) * g.up_x + g.px0 + g.px1 - kw;
  STD_TORCH_CHECK(height >= 0 && width >= 0, "the padded image is smaller than the filter");
  Tensor y = like(x, height / g.down_y + 1, width / g.down_x + 1);
  if (y.numel() == 0) return y;
  const int64_t positions = y.size(2) * y.size(3);
  const Parts parts(x, positions, scale, noise, b);
  const UpfirdnArgs args{
      x.const_data_ptr(), y.mutable_data_ptr(), static_cast<const float*>(f.const_data_ptr()),
      x.size(0), x.size(1), x.size(2), x.size(3), y.size(2), y.size(3),
      static_cast<int>(kh), static_cast<int>(kw),
      static_cast<int>(g.up_x), static_cast<int>(g.up_y), static_cast<int>(g.down_x), static_cast<int>(g.down_y),
      static_cast<int>(g.px0), static_cast<int>(g.py0),
      f.dim() == 1, g.flip, is_channels_last(x), dtype_of(x), g.gain,
      activation != nullptr, parts.tail(activation ? *activation : Activation{kLinear, 0, 1, -1}),
  };
  LIA_RUN(upfirdn2d, args, x);
  return y;
}

Tensor upfirdn2d(Tensor x, Tensor f, int64_t up_x, int64_t up_y, int64_t down_x, int64_t down_y, int64_t px0, int64_t px1,
                 int64_t py0, int64_t py1, bool flip, double gain) {
  const Geometry geometry{up_x, up_y, down_x, down_y, px0, px1, py0, py1, flip, gain};
  return filter(x, f, geometry, std::nullopt, std::nullopt, std::nullopt, nullptr);
}

Tensor upfirdn2d_act(Tensor x, Tensor f, Optional scale, Optional noise, Optional b, int64_t up_x, int64_t up_y, int64_t down_x,
                     int64_t down_y, int64_t px0, int64_t px1, int64_t py0, int64_t py1, bool flip, double filter_gain,
                     int64_t act, double alpha, double gain, double clamp) {
  const Geometry geometry{up_x, up_y, down_x, down_y, px0, px1, py0, py1, flip, filter_gain};
  const Activation activation = activation_of(act, alpha, gain, clamp);
  return filter(x, f, geometry, scale, noise, b, &activation);
}

}  // namespace
}  // namespace lia

#include "filtered_binding.h"

#ifdef LIA_CUDA
STABLE_TORCH_LIBRARY_IMPL(lia_adapter, CUDA, m) {
#else
STABLE_TORCH_LIBRARY_IMPL(lia_adapter, CPU, m) {
#endif
  m.impl("epilogue", TORCH_BOX(&lia::epilogue));
  m.impl("epilogue_", TORCH_BOX(&lia::epilogue_));
  m.impl("act_backward", TORCH_BOX(&lia::act_backward));
  m.impl("upfirdn2d", TORCH_BOX(&lia::upfirdn2d));
  m.impl("upfirdn2d_act", TORCH_BOX(&lia::upfirdn2d_act));
  m.impl("filtered_lrelu", TORCH_BOX(&lia::filtered_lrelu));
  m.impl("filtered_masked", TORCH_BOX(&lia::filtered_masked));
}
