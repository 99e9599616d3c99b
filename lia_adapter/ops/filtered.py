"""`filtered_lrelu`, the activation of StyleGAN3: a leaky ReLU between two low-pass filters (Karras 2021, sec. 3.2 and app. D).

Its derivative is a linear operator (upsample and filter; multiply each sample by the slope that it met; filter and decimate),
and the adjoint of that is the same operator with the two filters exchanged. One native op, `filtered_masked`, is thus the
derivative of any order.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lia_adapter.ops.reference import quad, upfirdn2d

__all__ = ["filtered_lrelu_native", "filtered_lrelu_reference"]


def filtered_lrelu_reference(
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
    """Upsamples, applies clamp(lrelu(v) * gain, ±clamp) at the higher rate, and decimates (Karras 2021, app. D).

    Args:
        x: [N, C, H, W].
        fu: Filter after upsampling, [k] (separable) or [kh, kw]; None for the identity. Its gain is made up ** 2.
        fd: Filter before decimation, likewise, with a gain of 1.
        b: Bias [C] of x, or None.
        up: Upsampling factor.
        down: Decimation factor.
        padding: Zeros around the upsampled image: p, (x, y) or (left, right, top, bottom); negative values crop.
        gain: Factor after the leaky ReLU.
        slope: Slope of its negative side.
        clamp: Largest absolute value after the gain, or None. The gradient is zero where the clamp acts.
        flip_filter: False convolves, True correlates; for both filters.

    Returns:
        [N, C, (H * up + top + bottom - kh_u - kh_d + 1) // down + 1, likewise W], of the dtype of x.
    """
    if b is not None:
        x = x + b.to(x.dtype)[:, None, None]
    v = upfirdn2d(x, fu, up=up, padding=padding, flip_filter=flip_filter, gain=up**2)
    v = torch.nn.functional.leaky_relu(v, slope) * gain
    if clamp is not None:
        v = v.clamp(-clamp, clamp)
    return upfirdn2d(v, fd, down=down, flip_filter=flip_filter).to(x.dtype)


def filtered_lrelu_native(
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
    """`filtered_lrelu_reference` by one kernel, which must be there for x's device and dtype. The filters get no gradient."""
    save_mask = torch.is_grad_enabled() and (x.requires_grad or (b is not None and b.requires_grad))
    y, _ = filtered_lrelu(
        x, _taps(fu), _taps(fd), None if b is None else b.to(x.dtype), up, down, *quad(padding), flip_filter,
        # Both stages are homogeneous, so that the gain of the filter can wait.
        gain * up**2, slope, -1.0 if clamp is None else clamp, save_mask,
    )  # fmt: skip
    result: Tensor = y
    return result


def _taps(f: Tensor | None) -> Tensor | None:
    return None if f is None else f.to(torch.float32)


# -- the ops as torch knows them

LIBRARY = torch.library.Library("lia_adapter", "FRAGMENT")

# (x [N, C, H, W]; b [C]; clamp < 0: none) -> y, and the mask of the derivative: 2 bits a sample of the higher rate, 4 samples
# a byte, [N, C, high_h, ceil(high_w / 4)]; [0] without save_mask.
LIBRARY.define(
    "filtered_lrelu(Tensor x, Tensor? fu, Tensor? fd, Tensor? b, int up, int down, "
    "SymInt px0, SymInt px1, SymInt py0, SymInt py1, "
    "bool flip, float gain, float slope, float clamp, bool save_mask) -> (Tensor, Tensor)",
    tags=[torch.Tag.pt2_compliant_tag],
)
# D (m * (U x)), m from the mask: 0 where the clamp acted, gain * slope where the sample was negative, else gain. U has the
# paddings ux0..uy1, D has dx0..dy1, all at the higher rate.
LIBRARY.define(
    "filtered_masked(Tensor x, Tensor? fu, Tensor? fd, Tensor mask, int up, int down, "
    "SymInt ux0, SymInt ux1, SymInt uy0, SymInt uy1, "
    "SymInt dx0, SymInt dx1, SymInt dy0, SymInt dy1, bool flip, float gain, float slope) -> Tensor",
    tags=[torch.Tag.pt2_compliant_tag],
)

filtered_lrelu = torch.ops.lia_adapter.filtered_lrelu.default
filtered_masked = torch.ops.lia_adapter.filtered_masked.default

_Pads = tuple[int, int, int, int]


def _taps_of(f: Tensor | None) -> tuple[int, int]:
    """Height and width of a filter."""
    return (1, 1) if f is None else (f.shape[0], f.shape[-1])


def _size(size: Sequence[int], f: Tensor | None, up: int, down: int, pads: _Pads) -> tuple[int, int]:
    """Height and width of what upfirdn2d makes of an image of that size."""
    kh, kw = _taps_of(f)
    x0, x1, y0, y1 = pads
    return (size[0] * up + y0 + y1 - kh) // down + 1, (size[1] * up + x0 + x1 - kw) // down + 1


def _adjoint_pads(size: Sequence[int], out: Sequence[int], f: Tensor | None, up: int, down: int, pads: _Pads) -> _Pads:
    """The paddings with which upfirdn2d, up and down exchanged and the filter turned, leads from `out` back to `size`."""
    kh, kw = _taps_of(f)
    x0, _, y0, _ = pads
    return (
        kw - x0 - 1, size[1] * up - out[1] * down + x0 - up + 1,
        kh - y0 - 1, size[0] * up - out[0] * down + y0 - up + 1,
    )  # fmt: skip


def _fake_lrelu(
    x: Tensor, fu: Tensor | None, fd: Tensor | None, b: Tensor | None, up: int, down: int, *rest: Any
) -> tuple[Tensor, Tensor]:
    *pads, _flip, _gain, _slope, _clamp, save_mask = rest
    high = _size(x.shape[2:], fu, up, 1, tuple(pads))
    y = x.new_empty([*x.shape[:2], *_size(high, fd, 1, down, (0, 0, 0, 0))])
    mask_shape = [*x.shape[:2], high[0], (high[1] + 3) // 4] if save_mask else [0]
    return y, x.new_empty(mask_shape, dtype=torch.uint8)


def _fake_masked(x: Tensor, fu: Tensor | None, fd: Tensor | None, mask: Tensor, up: int, down: int, *rest: Any) -> Tensor:
    high = _size(x.shape[2:], fu, up, 1, rest[:4])
    return x.new_empty([*x.shape[:2], *_size(high, fd, 1, down, rest[4:8])])


torch.library.register_fake("lia_adapter::filtered_lrelu", _fake_lrelu, lib=LIBRARY)
torch.library.register_fake("lia_adapter::filtered_masked", _fake_masked, lib=LIBRARY)


def _adjoint(ctx: Any, dy: Tensor) -> Tensor:
    """The adjoint of filtered_masked; ctx has the filters, the mask and the numbers of the operator itself."""
    fu, fd, mask = ctx.saved_tensors
    high = _size(ctx.size, fu, ctx.up, 1, ctx.up_pads)
    result: Tensor = filtered_masked(
        dy, fd, fu, mask, ctx.down, ctx.up, *_adjoint_pads(high, dy.shape[2:], fd, 1, ctx.down, ctx.down_pads),
        *_adjoint_pads(ctx.size, high, fu, ctx.up, 1, ctx.up_pads), not ctx.flip, ctx.gain, ctx.slope,
    )  # fmt: skip
    return result


def _lrelu_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, fu, fd, b, ctx.up, ctx.down, *pads, ctx.flip, ctx.gain, ctx.slope, _clamp, ctx.saved_mask = inputs
    ctx.size, ctx.up_pads, ctx.down_pads = x.shape[2:], tuple(pads), (0, 0, 0, 0)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(fu, fd, output[1])


def _lrelu_backward(ctx: Any, dy: Tensor, _dmask: Tensor) -> tuple[Any, ...]:
    if not ctx.saved_mask:
        raise RuntimeError("filtered_lrelu was called with save_mask=False and has no gradient; call it with True.")
    dx = _adjoint(ctx, dy)
    db = dx.sum([0, 2, 3]) if ctx.needs_input_grad[3] else None
    return dx, None, None, db, *[None] * 11


def _masked_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, fu, fd, mask, ctx.up, ctx.down, *pads, ctx.flip, ctx.gain, ctx.slope = inputs
    ctx.size, ctx.up_pads, ctx.down_pads = x.shape[2:], tuple(pads[:4]), tuple(pads[4:])
    ctx.save_for_backward(fu, fd, mask)


def _masked_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    return _adjoint(ctx, dy), *[None] * 16


torch.library.register_autograd("lia_adapter::filtered_lrelu", _lrelu_backward, setup_context=_lrelu_setup, lib=LIBRARY)
torch.library.register_autograd("lia_adapter::filtered_masked", _masked_backward, setup_context=_masked_setup, lib=LIBRARY)


def _register_autocast(device: str, key: str) -> None:
    def cast(x: Tensor, fu: Tensor | None, fd: Tensor | None, b: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor]:
        # As for a convolution; the taps stay float32.
        dtype = x.dtype if x.dtype == torch.float64 else torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            y, mask = filtered_lrelu(x.to(dtype), fu, fd, None if b is None else b.to(dtype), *rest)
        return y, mask

    LIBRARY.impl("filtered_lrelu", cast, key)


_register_autocast("cpu", "AutocastCPU")
_register_autocast("cuda", "AutocastCUDA")
