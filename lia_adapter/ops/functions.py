"""The public ops: each goes to the native kernel where there is one for its tensor, else to the reference path.

Signatures, shapes and results are those of `lia_adapter.ops.reference`, which documents them.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lia_adapter.ops import library, native, reference
from lia_adapter.ops.reference import ACTIVATIONS, pair, quad

__all__ = ["bias_act", "filtered_lrelu", "modconv_epilogue", "upfirdn2d", "upfirdn2d_act"]

_HALF = (torch.float32, torch.float16, torch.bfloat16)
_DTYPES = {"cpu": (*_HALF, torch.float64), "cuda": _HALF}


def _is_native(x: Tensor, op: str = "bias_act") -> bool:
    return x.dtype in _DTYPES.get(x.device.type, ()) and native.implementation(x.device.type, op) != "reference"


def _fits(*filters: Tensor | None) -> bool:
    """Whether the kernels can take these filters: taps of float32, and without a gradient."""
    return not any(f is not None and (f.requires_grad or f.dtype == torch.float64) for f in filters)


def _like(value: Tensor | None, x: Tensor) -> Tensor | None:
    return None if value is None else value.to(x.dtype)


def _tail(
    x: Tensor, scale: Tensor | None, noise: Tensor | None, b: Tensor | None, numbers: tuple[Any, ...], overwrite_x: bool
) -> Tensor:
    parts = (_like(scale, x), _like(noise, x), _like(b, x))
    if not overwrite_x or torch.is_grad_enabled():
        return library.epilogue(x, *parts, *numbers)
    library.epilogue_(x, *parts, *numbers)
    return x


def _numbers(act: str, alpha: float | None, gain: float | None, clamp: float | None) -> tuple[int, float, float, float] | None:
    """The activation as the kernels take it; None where its derivative does not follow from its output."""
    spec = ACTIVATIONS[act]
    alpha = spec.alpha if alpha is None else float(alpha)
    gain = spec.gain if gain is None else float(gain)
    if gain == 0 or alpha < 0:
        return None
    return library.ACTS.index(act), alpha, gain, -1.0 if clamp is None else float(clamp)


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    *,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    overwrite_x: bool = False,
) -> Tensor:
    """Computes clamp(act(x + b) * gain, ±clamp); see `lia_adapter.ops.reference.bias_act`."""
    numbers = _numbers(act, alpha, gain, clamp)
    if numbers is None or not _is_native(x) or x.ndim == 0:
        return reference.bias_act(x, b, dim=dim, act=act, alpha=alpha, gain=gain, clamp=clamp, overwrite_x=overwrite_x)
    dim %= x.ndim
    if x.ndim > 1 and (dim == 1 or b is None):
        return _tail(x, None, None, b, numbers, overwrite_x)
    # The kernels keep channels in dimension 1.
    folded = x.reshape(x.shape[:dim].numel(), x.shape[dim], x.shape[dim + 1 :].numel())
    return _tail(folded, None, None, b, numbers, overwrite_x).reshape(x.shape)


def modconv_epilogue(
    x: Tensor,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
    b: Tensor | None = None,
    *,
    act: str = "lrelu",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    overwrite_x: bool = False,
) -> Tensor:
    """Computes clamp(act(x * scale + noise + b) * gain, ±clamp); see `lia_adapter.ops.reference.modconv_epilogue`."""
    numbers = _numbers(act, alpha, gain, clamp)
    if numbers is None or not _is_native(x):
        return reference.modconv_epilogue(
            x, scale, noise, b, act=act, alpha=alpha, gain=gain, clamp=clamp, overwrite_x=overwrite_x
        )  # fmt: skip
    return _tail(x, scale, noise, b, numbers, overwrite_x)


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    *,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Upsamples, pads or crops, filters, and decimates; see `lia_adapter.ops.reference.upfirdn2d`."""
    if f is None or not _fits(f) or not _is_native(x):
        return reference.upfirdn2d(x, f, up=up, down=down, padding=padding, flip_filter=flip_filter, gain=gain)
    geometry = (*pair(up), *pair(down), *quad(padding), flip_filter)
    return library.upfirdn2d(x, f.to(torch.float32), *geometry, float(gain))


def upfirdn2d_act(
    x: Tensor,
    f: Tensor | None,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
    b: Tensor | None = None,
    *,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    filter_gain: float = 1.0,
    act: str = "lrelu",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """`modconv_epilogue` of `upfirdn2d` in one pass; see `lia_adapter.ops.reference.upfirdn2d_act`."""
    numbers = _numbers(act, alpha, gain, clamp)
    if f is None or not _fits(f) or numbers is None or not _is_native(x):
        return reference.upfirdn2d_act(
            x, f, scale, noise, b, up=up, down=down, padding=padding, flip_filter=flip_filter, filter_gain=filter_gain,
            act=act, alpha=alpha, gain=gain, clamp=clamp,
        )  # fmt: skip
    geometry = (*pair(up), *pair(down), *quad(padding), flip_filter)
    tail = (_like(scale, x), _like(noise, x), _like(b, x))
    return library.upfirdn2d_act(x, f.to(torch.float32), *tail, *geometry, float(filter_gain), *numbers)


def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    b: Tensor | None = None,
    *,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
) -> Tensor:
    """StyleGAN3's activation between two low-pass filters; see `lia_adapter.ops.reference.filtered_lrelu`."""
    # A block's shared memory is sure to hold filters of 32 taps and factors of 8, in both directions.
    fits = x.device.type != "cuda" or (max(up, down) <= 8 and all(max(f.shape) <= 32 for f in (fu, fd) if f is not None))
    if not fits or not _fits(fu, fd) or not _is_native(x, "filtered_lrelu"):
        return reference.filtered_lrelu(
            x, fu, fd, b, up=up, down=down, padding=padding, gain=gain, slope=slope, clamp=clamp, flip_filter=flip_filter
        )  # fmt: skip
    save_mask = torch.is_grad_enabled() and (x.requires_grad or (b is not None and b.requires_grad))
    fu, fd = (None if f is None else f.to(torch.float32) for f in (fu, fd))
    y, _ = library.filtered_lrelu(
        x, fu, fd, _like(b, x), up, down, *quad(padding), flip_filter,
        # Both stages are homogeneous, so that the gain of the filter can wait.
        gain * up**2, slope, -1.0 if clamp is None else clamp, save_mask,
    )  # fmt: skip
    return y
