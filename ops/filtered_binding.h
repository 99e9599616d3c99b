// filtered_lrelu as torch sees it. A part of binding.cpp, which has the headers of torch's stable ABI, dtype_of and LIA_RUN.
#pragma once

#include <tuple>

#ifdef LIA_CUDA
#include "filtered_cuda.h"
#else
#include "filtered_cpu.h"
#endif

namespace lia {
namespace {

// A filter, dense and kept alive while the kernel is handed its address.
struct FilterPart {
  FilterPart(const Optional& f, const Tensor& x, const char* name) {
    if (!f) return;
    tensor = torch::stable::contiguous(*f);
    STD_TORCH_CHECK(tensor->scalar_type() == ScalarType::Float && tensor->device() == x.device() &&
                        (tensor->dim() == 1 || tensor->dim() == 2) && tensor->numel() > 0,
                    name, " must be float32, [k] or [kh, kw], on the device of x");
  }

  FilterStage stage(int64_t factor, int64_t pad_x0, int64_t pad_y0) const {
    FilterStage stage{nullptr, 1, 1, true, static_cast<int>(factor), static_cast<int>(pad_x0), static_cast<int>(pad_y0)};
    if (tensor) {
      stage.f = static_cast<const float*>(tensor->const_data_ptr());
      stage.kh = static_cast<int>(tensor->size(0));
      stage.kw = static_cast<int>(tensor->size(tensor->dim() - 1));
      stage.separable = tensor->dim() == 1;
    }
    return stage;
  }

  Optional tensor;
};

struct Pads {
  int64_t x0, x1, y0, y1;
};

// Both operators: mask_in says which.
Tensor filtered(Tensor x, const Optional& fu, const Optional& fd, const Optional& b, const Optional& mask_in, Tensor* mask_out,
                int64_t up, int64_t down, const Pads& up_pads, const Pads& down_pads, bool flip, double gain, double slope,
                double clamp) {
  STD_TORCH_CHECK(x.dim() == 4, "x must be [N, C, H, W]");
  STD_TORCH_CHECK(up > 0 && down > 0, "up and down must be 1 or more");
  x = torch::stable::contiguous(x);
  const FilterPart up_filter(fu, x, "fu"), down_filter(fd, x, "fd");
  const FilterStage u = up_filter.stage(up, up_pads.x0, up_pads.y0);
  const FilterStage d = down_filter.stage(down, down_pads.x0, down_pads.y0);
  const int64_t n = x.size(0), c = x.size(1), in_h = x.size(2), in_w = x.size(3);
  const int64_t high_h = in_h * up + up_pads.y0 + up_pads.y1 - u.kh + 1;
  const int64_t high_w = in_w * up + up_pads.x0 + up_pads.x1 - u.kw + 1;
  const int64_t rest_h = high_h + down_pads.y0 + down_pads.y1 - d.kh, rest_w = high_w + down_pads.x0 + down_pads.x1 - d.kw;
  STD_TORCH_CHECK(high_h > 0 && high_w > 0 && rest_h >= 0 && rest_w >= 0, "the padded image is smaller than the filters");
  const int64_t out_h = rest_h / down + 1, out_w = rest_w / down + 1;
  Tensor y = torch::stable::new_empty(x, {n, c, out_h, out_w});
  const int64_t mask_w = (high_w + 3) / 4;
  if (mask_out) *mask_out = torch::stable::new_empty(x, {n, c, high_h, mask_w}, ScalarType::Byte);
  const Part bias(b, x, c, "b");
  Optional mask;
  if (mask_in) {
    mask = torch::stable::contiguous(*mask_in);
    STD_TORCH_CHECK(mask->scalar_type() == ScalarType::Byte && mask->device() == x.device() &&
                        mask->numel() == n * c * high_h * mask_w,
                    "mask must be the uint8 [N, C, ", high_h, ", ", mask_w, "] that filtered_lrelu gave");
  }
  if (y.numel() == 0) return y;
  const FilteredArgs args{
      x.const_data_ptr(), y.mutable_data_ptr(), bias.get(),
      mask ? static_cast<const unsigned char*>(mask->const_data_ptr()) : nullptr,
      mask_out ? static_cast<unsigned char*>(mask_out->mutable_data_ptr()) : nullptr,
      n * c, c, in_h, in_w, high_h, high_w, out_h, out_w, u, d, flip, dtype_of(x), gain, slope, clamp,
  };
  LIA_RUN(filtered, args, x);
  return y;
}

std::tuple<Tensor, Tensor> filtered_lrelu(Tensor x, Optional fu, Optional fd, Optional b, int64_t up, int64_t down, int64_t px0,
                                          int64_t px1, int64_t py0, int64_t py1, bool flip, double gain, double slope,
                                          double clamp, bool save_mask) {
  Tensor mask = torch::stable::new_empty(x, {0}, ScalarType::Byte);
  Tensor y = filtered(x, fu, fd, b, std::nullopt, save_mask ? &mask : nullptr, up, down, {px0, px1, py0, py1}, {0, 0, 0, 0},
                      flip, gain, slope, clamp);
  return {y, mask};
}

Tensor filtered_masked(Tensor x, Optional fu, Optional fd, Tensor mask, int64_t up, int64_t down, int64_t ux0, int64_t ux1,
                       int64_t uy0, int64_t uy1, int64_t dx0, int64_t dx1, int64_t dy0, int64_t dy1, bool flip, double gain,
                       double slope) {
  return filtered(x, fu, fd, std::nullopt, mask, nullptr, up, down, {ux0, ux1, uy0, uy1}, {dx0, dx1, dy0, dy1}, flip, gain,
                  slope, -1);
}

}  // namespace
}  // namespace lia
