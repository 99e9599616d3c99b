"""The CUDA ops where there is a GPU but no nvcc: the same sources through NVRTC, and here what binding.cpp does in C++."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lia_adapter.errors import LIAError
from lia_adapter.ops.nvrtc_driver import launch, load
from lia_adapter.ops.nvrtc_plans import (
    MAX_BLOCKS,
    PATHS,
    TILES,
    ActBackwardArgs,
    Activation,
    EpilogueArgs,
    FilteredArgs,
    FilterStage,
    Tail,
    UpfirdnArgs,
    is_fusible,
    plan_act_backward,
    plan_epilogue,
    plan_filtered,
    plan_upfirdn2d,
)

__all__ = ["DTYPES", "register"]

DTYPES = {torch.float32: "float", torch.float16: "half", torch.bfloat16: "bfloat16"}  # The order of `Dtype` in kernels.h.

_libraries: list[torch.library.Library] = []  # A registration lives as long as its Library.


def register() -> None:
    """Compiles the kernels for the current GPU and gives them to torch for CUDA tensors.

    Those of filtered_lrelu are compiled by themselves, at their first launch or `load`: few need them.

    Raises:
        LIAError: There is no GPU, NVRTC or driver, or the kernels cannot be compiled or loaded.
    """
    load("cuda")  # What fails must fail now, not in the middle of a network.
    library = torch.library.Library("lia_adapter", "IMPL")
    library.impl("epilogue", _epilogue, "CUDA")
    library.impl("epilogue_", _epilogue_, "CUDA")
    library.impl("act_backward", _act_backward, "CUDA")
    library.impl("upfirdn2d", _upfirdn2d, "CUDA")
    library.impl("upfirdn2d_act", _upfirdn2d_act, "CUDA")
    library.impl("filtered_lrelu", _filtered_lrelu, "CUDA")
    library.impl("filtered_masked", _filtered_masked, "CUDA")
    _libraries.append(library)


# -- as in binding.cpp


def _is_channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _dense(x: Tensor) -> Tensor:
    return x if _is_channels_last(x) else x.contiguous()


def _empty(x: Tensor, shape: Sequence[int]) -> Tensor:
    layout = torch.channels_last if _is_channels_last(x) else torch.contiguous_format
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


def _dtype(x: Tensor) -> int:
    if x.dtype not in DTYPES:
        raise LIAError(f"the CUDA ops take float32, float16 and bfloat16, not {x.dtype}")
    return list(DTYPES).index(x.dtype)


def _part(name: str, part: Tensor | None, x: Tensor, expected: int) -> Tensor | None:
    """A tensor that belongs to x, as the kernels read it."""
    if part is None:
        return None
    if part.dtype != x.dtype or part.device != x.device:
        raise LIAError(f"{name} must have the dtype and the device of x")
    if part.numel() != expected:
        raise LIAError(f"{name} has {part.numel()} elements; expected {expected}")
    return part.contiguous()


def _pointer(part: Tensor | None) -> int | None:
    return None if part is None else part.data_ptr()


class _Parts:
    """Scale, noise and bias as the kernels read them, kept alive until these are launched."""

    def __init__(self, x: Tensor, positions: int, scale: Tensor | None, noise: Tensor | None, b: Tensor | None) -> None:
        n, c = x.shape[:2]
        per_image = noise is not None and noise.numel() != positions
        self._scale = _part("scale", scale, x, n * c)
        self._noise = _part("noise", noise, x, n * positions if per_image else positions)
        self._bias = _part("b", b, x, c)
        self._noise_stride = positions if per_image else 0

    def tail(self, activation: Activation) -> Tail:
        return Tail(_pointer(self._scale), _pointer(self._noise), _pointer(self._bias), self._noise_stride, activation)


def _launch_epilogue(x: Tensor, args: EpilogueArgs) -> None:
    plan = plan_epilogue(args)
    layout, width = "last" if args.channels_last else "planes", "chunked" if plan.chunked else "single"
    launch(x, "cuda", f"lia_epilogue_{DTYPES[x.dtype]}_{layout}_{width}", plan.blocks, args, plan)


def _run_epilogue(x: Tensor, y: Tensor, parts: Sequence[Tensor | None], activation: Activation) -> None:
    """From x to y, which are dense and may be the same. parts: scale, noise and bias."""
    if x.numel() == 0:
        return
    n, c = x.shape[:2]
    positions = x.numel() // (n * c)
    kept = _Parts(x, positions, *parts)
    channels_last, tail = positions == 1 or _is_channels_last(x), kept.tail(activation)
    _launch_epilogue(x, EpilogueArgs(x.data_ptr(), y.data_ptr(), n, c, positions, channels_last, _dtype(x), tail))


def _epilogue(x: Tensor, scale: Tensor | None, noise: Tensor | None, b: Tensor | None, *activation: Any) -> Tensor:
    x = _dense(x)
    y = _empty(x, x.shape)
    _run_epilogue(x, y, (scale, noise, b), Activation(*activation))
    return y


def _epilogue_(x: Tensor, scale: Tensor | None, noise: Tensor | None, b: Tensor | None, *activation: Any) -> None:
    y = _dense(x)  # x itself, but for odd strides
    _run_epilogue(y, y, (scale, noise, b), Activation(*activation))
    if y is not x:
        x.copy_(y)


def _act_backward(dy: Tensor, ref: Tensor, act: int, alpha: float, gain: float, clamp: float) -> Tensor:
    ref = _dense(ref)
    if dy.numel() != ref.numel() or dy.dtype != ref.dtype or dy.device != ref.device:
        raise LIAError("dy must have the shape, dtype and device of ref")
    dx = _empty(ref, ref.shape)
    if dx.numel() == 0:
        return dx
    if not dy.stride() == ref.stride():
        dy = _empty(ref, ref.shape).copy_(dy)
    activation = Activation(act, alpha, gain, clamp)
    args = ActBackwardArgs(dy.data_ptr(), ref.data_ptr(), dx.data_ptr(), dx.numel(), _dtype(ref), activation)
    plan = plan_act_backward(args)
    launch(ref, "cuda", f"lia_act_backward_{DTYPES[ref.dtype]}_{'chunked' if plan.chunked else 'single'}", plan.blocks, args)
    return dx


def _filter(
    x: Tensor,
    f: Tensor,
    parts: Sequence[Tensor | None],
    geometry: Sequence[int],
    flip: bool,
    filter_gain: float,
    activation: Activation | None,
) -> Tensor:
    up_x, up_y, down_x, down_y, px0, px1, py0, py1 = geometry
    if x.ndim != 4:
        raise LIAError("x must be [N, C, H, W]")
    if f.dtype != torch.float32 or f.device != x.device or f.ndim not in (1, 2):
        raise LIAError("f must be float32, [k] or [kh, kw], on the device of x")
    if min(up_x, up_y, down_x, down_y) < 1:
        raise LIAError("up and down must be 1 or more")
    x, f = _dense(x), f.contiguous()
    (n, c, h, w), kh, kw = x.shape, f.shape[0], f.shape[-1]
    height, width = h * up_y + py0 + py1 - kh, w * up_x + px0 + px1 - kw
    if height < 0 or width < 0:
        raise LIAError("the padded image is smaller than the filter")
    y = _empty(x, (n, c, height // down_y + 1, width // down_x + 1))
    if y.numel() == 0:
        return y
    out_h, out_w = y.shape[2:]
    kept = _Parts(x, out_h * out_w, *parts)
    tail = kept.tail(activation or Activation(0, 0, 1, -1))
    is_fused = activation is not None and is_fusible(activation)
    args = UpfirdnArgs(
        x.data_ptr(), y.data_ptr(), f.data_ptr(), n, c, h, w, out_h, out_w, kh, kw, up_x, up_y, down_x, down_y, px0, py0,
        f.ndim == 1, flip, _is_channels_last(x), _dtype(x), filter_gain, is_fused, tail,
    )  # fmt: skip
    plan = plan_upfirdn2d(args)
    layout = "last" if args.channels_last else "planes"
    launch(x, "cuda", f"lia_upfirdn2d_{DTYPES[x.dtype]}_{layout}_{PATHS[plan.path]}", plan.blocks, args, plan)
    if activation is not None and not is_fused:
        # The rarer activations come in a pass of their own, in place.
        pointer, positions = y.data_ptr(), out_h * out_w
        _launch_epilogue(x, EpilogueArgs(pointer, pointer, n, c, positions, args.channels_last, args.dtype, tail))
    return y


def _upfirdn2d(x: Tensor, f: Tensor, *rest: Any) -> Tensor:
    *geometry, flip, gain = rest
    return _filter(x, f, (None, None, None), geometry, flip, gain, None)


def _upfirdn2d_act(x: Tensor, f: Tensor, scale: Tensor | None, noise: Tensor | None, b: Tensor | None, *rest: Any) -> Tensor:
    *geometry, flip, filter_gain, act, alpha, gain, clamp = rest
    return _filter(x, f, (scale, noise, b), geometry, flip, filter_gain, Activation(act, alpha, gain, clamp))


# -- as in filtered_binding.h


def _stage(f: Tensor | None, factor: int, pad_x0: int, pad_y0: int) -> FilterStage:
    if f is None:
        return FilterStage(None, 1, 1, True, factor, pad_x0, pad_y0)
    return FilterStage(f.data_ptr(), f.shape[0], f.shape[-1], f.ndim == 1, factor, pad_x0, pad_y0)


def _filtered(
    x: Tensor,
    filters: tuple[Tensor | None, Tensor | None],
    b: Tensor | None,
    mask: Tensor | None,
    save_mask: bool,
    factors: tuple[int, int],
    pads: tuple[Sequence[int], Sequence[int]],
    flip: bool,
    activation: tuple[float, float, float],
) -> tuple[Tensor, Tensor]:
    """y, and the mask where it is to be saved; of two, the first is of the upsampling. activation: gain, slope, clamp."""
    if x.ndim != 4:
        raise LIAError("x must be [N, C, H, W]")
    if min(factors) < 1:
        raise LIAError("up and down must be 1 or more")
    for name, f in zip(("fu", "fd"), filters, strict=True):
        if f is not None and (f.dtype != torch.float32 or f.device != x.device or f.ndim not in (1, 2) or not f.numel()):
            raise LIAError(f"{name} must be float32, [k] or [kh, kw], on the device of x")
    x = x.contiguous()
    fu, fd = (None if f is None else f.contiguous() for f in filters)
    (x0, x1, y0, y1), (dx0, dx1, dy0, dy1) = pads
    up, down = _stage(fu, factors[0], x0, y0), _stage(fd, factors[1], dx0, dy0)
    (n, c, h, w), dtype = x.shape, _dtype(x)
    high_h, high_w = h * up.factor + y0 + y1 - up.kh + 1, w * up.factor + x0 + x1 - up.kw + 1
    rest_h, rest_w = high_h + dy0 + dy1 - down.kh, high_w + dx0 + dx1 - down.kw
    if min(high_h, high_w) < 1 or min(rest_h, rest_w) < 0:
        raise LIAError("the padded image is smaller than the filters")
    out_h, out_w = rest_h // down.factor + 1, rest_w // down.factor + 1
    y = x.new_empty(n, c, out_h, out_w)
    mask_shape = (n, c, high_h, (high_w + 3) // 4)
    made = x.new_empty(mask_shape if save_mask else 0, dtype=torch.uint8)
    if mask is not None:
        mask = mask.contiguous()
        if mask.dtype != torch.uint8 or mask.device != x.device or mask.numel() != torch.Size(mask_shape).numel():
            raise LIAError(f"mask must be the uint8 {list(mask_shape)} that filtered_lrelu gave")
    if y.numel() == 0:
        return y, made
    bias = _part("b", b, x, c)
    args = FilteredArgs(
        x.data_ptr(), y.data_ptr(), _pointer(bias), _pointer(mask), made.data_ptr() if save_mask else None,
        n * c, c, h, w, high_h, high_w, out_h, out_w, up, down, flip, dtype, *activation,
    )  # fmt: skip
    planned = plan_filtered(args)
    if planned is None:
        raise LIAError("the filters are too long for the CUDA kernels. Set LIA_OPS=reference to use plain torch.")
    plan, tile = planned
    # A block makes as many tiles as it takes.
    launch(x, "filtered", f"lia_filtered_{TILES[tile]}", min(plan.blocks, MAX_BLOCKS), plan)
    return y, made


def _filtered_lrelu(
    x: Tensor, fu: Tensor | None, fd: Tensor | None, b: Tensor | None, up: int, down: int, *rest: Any
) -> tuple[Tensor, Tensor]:
    *pads, flip, gain, slope, clamp, save_mask = rest
    return _filtered(x, (fu, fd), b, None, save_mask, (up, down), (pads, (0, 0, 0, 0)), flip, (gain, slope, clamp))


def _filtered_masked(x: Tensor, fu: Tensor | None, fd: Tensor | None, mask: Tensor, up: int, down: int, *rest: Any) -> Tensor:
    *pads, flip, gain, slope = rest
    y, _ = _filtered(x, (fu, fd), None, mask, False, (up, down), (pads[:4], pads[4:]), flip, (gain, slope, -1.0))
    return y
