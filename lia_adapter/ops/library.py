"""The native ops as torch knows them: schemas, shapes, derivatives and autocast in the namespace `lia_adapter`.

Kernels register themselves for CPU or CUDA when `lia_adapter.ops.native` loads them. All derivatives are made of these same
ops and plain torch, so gradients of any order exist: a filter's adjoint is a filter, and the derivative of an activation
follows from its output. That of `filtered_lrelu` is a linear operator (upsample and filter; multiply each sample by the slope
that it met; filter and decimate), whose adjoint is the same with the two filters exchanged: one op, `filtered_masked`, is thus
its derivative of any order.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lia_adapter.ops.reference import ACTIVATIONS

__all__ = [
    "ACTS",
    "act_backward",
    "epilogue",
    "epilogue_",
    "filtered_lrelu",
    "filtered_masked",
    "upfirdn2d",
    "upfirdn2d_act",
]

ACTS = list(ACTIVATIONS)  # The kernels know an activation by its number: the order of `Act` in kernels.h.

_Pair = Sequence[int]  # of x and y

LIBRARY = torch.library.Library("lia_adapter", "FRAGMENT")
_GEOMETRY = "int up_x, int up_y, int down_x, int down_y, int px0, int px1, int py0, int py1, bool flip"
_TAIL = "Tensor? scale, Tensor? noise, Tensor? b"
_ACTIVATION = "int act, float alpha, float gain, float clamp"
for _schema in (
    f"epilogue(Tensor x, {_TAIL}, {_ACTIVATION}) -> Tensor",
    f"epilogue_(Tensor(a!) x, {_TAIL}, {_ACTIVATION}) -> ()",
    f"act_backward(Tensor dy, Tensor ref, {_ACTIVATION}) -> Tensor",
    f"upfirdn2d(Tensor x, Tensor f, {_GEOMETRY}, float gain) -> Tensor",
    f"upfirdn2d_act(Tensor x, Tensor f, {_TAIL}, {_GEOMETRY}, float filter_gain, {_ACTIVATION}) -> Tensor",
    "filtered_lrelu(Tensor x, Tensor? fu, Tensor? fd, Tensor? b, int up, int down, "
    "SymInt px0, SymInt px1, SymInt py0, SymInt py1, "
    "bool flip, float gain, float slope, float clamp, bool save_mask) -> (Tensor, Tensor)",
    "filtered_masked(Tensor x, Tensor? fu, Tensor? fd, Tensor mask, int up, int down, "
    "SymInt ux0, SymInt ux1, SymInt uy0, SymInt uy1, "
    "SymInt dx0, SymInt dx1, SymInt dy0, SymInt dy1, bool flip, float gain, float slope) -> Tensor",
):
    LIBRARY.define(_schema, tags=[torch.Tag.pt2_compliant_tag])

_LINEAR = (ACTS.index("linear"), 0.0, 1.0, -1.0)  # act, alpha, gain, clamp

# clamp(act(x * scale + noise + b) * gain, ±clamp); x [N, C, ...], scale [N, C], noise [...] or [N, 1, ...], b [C].
# A clamp below 0 is none.
epilogue: Callable[..., Tensor] = torch.ops.lia_adapter.epilogue.default
# The same in x's memory. It has no derivative.
epilogue_: Callable[..., None] = torch.ops.lia_adapter.epilogue_.default
# dy * d(activation); ref: its output, or for swish its input.
act_backward: Callable[..., Tensor] = torch.ops.lia_adapter.act_backward.default
upfirdn2d: Callable[..., Tensor] = torch.ops.lia_adapter.upfirdn2d.default
upfirdn2d_act: Callable[..., Tensor] = torch.ops.lia_adapter.upfirdn2d_act.default
# (x [N, C, H, W]; b [C]; clamp < 0: none) -> y, and the mask of the derivative: 2 bits a sample of the higher rate, 4 samples
# a byte, [N, C, high_h, ceil(high_w / 4)]; [0] without save_mask.
filtered_lrelu: Callable[..., tuple[Tensor, Tensor]] = torch.ops.lia_adapter.filtered_lrelu.default
# D (m * (U x)), m from the mask: 0 where the clamp acted, gain * slope where the sample was negative, else gain. U has the
# paddings ux0..uy1, D has dx0..dy1, all at the higher rate.
filtered_masked: Callable[..., Tensor] = torch.ops.lia_adapter.filtered_masked.default


# -- shapes


def _dense_like(x: Tensor, shape: list[Any] | None = None) -> Tensor:
    """An empty tensor of the memory format that the kernels give their output."""
    channels_last = x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(x.shape if shape is None else shape, dtype=x.dtype, device=x.device, memory_format=memory_format)


def _fake_epilogue(x: Tensor, *_rest: Any) -> Tensor:
    return _dense_like(x)


def _fake_epilogue_(x: Tensor, *_rest: Any) -> None:
    pass


def _fake_act_backward(dy: Tensor, ref: Tensor, *_rest: Any) -> Tensor:
    return _dense_like(ref)


def _taps_of(f: Tensor | None) -> tuple[int, int]:
    """Height and width of a filter."""
    return (1, 1) if f is None else (f.shape[0], f.shape[-1])


def _size(size: Sequence[int], f: Tensor | None, up: _Pair, down: _Pair, pads: Sequence[int]) -> tuple[int, int]:
    """Height and width of what upfirdn2d makes of an image of that size; up and down are (x, y)."""
    kh, kw = _taps_of(f)
    x0, x1, y0, y1 = pads
    return (size[0] * up[1] + y0 + y1 - kh) // down[1] + 1, (size[1] * up[0] + x0 + x1 - kw) // down[0] + 1


def _filtered_like(x: Tensor, f: Tensor, geometry: tuple[Any, ...]) -> Tensor:
    return _dense_like(x, [*x.shape[:2], *_size(x.shape[2:], f, geometry[:2], geometry[2:4], geometry[4:])])


def _fake_upfirdn2d(x: Tensor, f: Tensor, *rest: Any) -> Tensor:
    return _filtered_like(x, f, rest[:8])


def _fake_upfirdn2d_act(x: Tensor, f: Tensor, _scale: Tensor, _noise: Tensor, _b: Tensor, *rest: Any) -> Tensor:
    return _filtered_like(x, f, rest[:8])


def _fake_filtered_lrelu(
    x: Tensor, fu: Tensor | None, fd: Tensor | None, b: Tensor | None, up: int, down: int, *rest: Any
) -> tuple[Tensor, Tensor]:
    *pads, _flip, _gain, _slope, _clamp, save_mask = rest
    high = _size(x.shape[2:], fu, (up, up), (1, 1), pads)
    y = x.new_empty([*x.shape[:2], *_size(high, fd, (1, 1), (down, down), (0, 0, 0, 0))])
    mask_shape = [*x.shape[:2], high[0], (high[1] + 3) // 4] if save_mask else [0]
    return y, x.new_empty(mask_shape, dtype=torch.uint8)


def _fake_filtered_masked(
    x: Tensor, fu: Tensor | None, fd: Tensor | None, mask: Tensor, up: int, down: int, *rest: Any
) -> Tensor:
    high = _size(x.shape[2:], fu, (up, up), (1, 1), rest[:4])
    return x.new_empty([*x.shape[:2], *_size(high, fd, (1, 1), (down, down), rest[4:8])])


torch.library.register_fake("lia_adapter::epilogue", _fake_epilogue, lib=LIBRARY)
torch.library.register_fake("lia_adapter::epilogue_", _fake_epilogue_, lib=LIBRARY)
torch.library.register_fake("lia_adapter::act_backward", _fake_act_backward, lib=LIBRARY)
torch.library.register_fake("lia_adapter::upfirdn2d", _fake_upfirdn2d, lib=LIBRARY)
torch.library.register_fake("lia_adapter::upfirdn2d_act", _fake_upfirdn2d_act, lib=LIBRARY)
torch.library.register_fake("lia_adapter::filtered_lrelu", _fake_filtered_lrelu, lib=LIBRARY)
torch.library.register_fake("lia_adapter::filtered_masked", _fake_filtered_masked, lib=LIBRARY)


# -- derivatives


def _adjoint_pads(
    size: Sequence[int], out: Sequence[int], f: Tensor | None, up: _Pair, down: _Pair, pads: Sequence[int]
) -> tuple[int, int, int, int]:
    """The paddings with which upfirdn2d, up and down exchanged and the filter turned, leads from `out` back to `size`."""
    kh, kw = _taps_of(f)
    x0, _, y0, _ = pads
    return (
        kw - x0 - 1, size[1] * up[0] - out[1] * down[0] + x0 - up[0] + 1,
        kh - y0 - 1, size[0] * up[1] - out[0] * down[1] + y0 - up[1] + 1,
    )  # fmt: skip


def _adjoint(dy: Tensor, x_shape: torch.Size, f: Tensor, geometry: tuple[Any, ...], flip: bool, gain: float) -> Tensor:
    """The adjoint of upfirdn2d."""
    up, down, pads = geometry[:2], geometry[2:4], geometry[4:]
    return upfirdn2d(dy, f, *down, *up, *_adjoint_pads(x_shape[2:], dy.shape[2:], f, up, down, pads), not flip, gain)


def _upfirdn2d_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, f, *geometry, flip, gain = inputs
    ctx.save_for_backward(f)
    ctx.x_shape, ctx.geometry, ctx.flip, ctx.gain = x.shape, tuple(geometry), flip, gain


def _upfirdn2d_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    (f,) = ctx.saved_tensors
    return _adjoint(dy, ctx.x_shape, f, ctx.geometry, ctx.flip, ctx.gain), *[None] * 11


torch.library.register_autograd("lia_adapter::upfirdn2d", _upfirdn2d_backward, setup_context=_upfirdn2d_setup, lib=LIBRARY)


def _slope_change(ref: Tensor, act: int, gain: float, clamp: float) -> Tensor | None:
    """The derivative by `ref` of what `act_backward` multiplies dy with; None where it is zero."""
    name = ACTS[act]
    if name in ("linear", "relu", "lrelu"):
        return None
    if name == "swish":
        s = torch.sigmoid(ref)
        change = gain * s * (1 - s) * (2 + ref * (1 - 2 * s))
        return change if clamp < 0 else torch.where((gain * ref * s).abs() < clamp, change, 0)
    u = ref / gain  # The activation's own value; d/dref = 1/gain d/du, which the gain of act_backward cancels.
    if name == "tanh":
        change = -2 * u
    elif name == "sigmoid":
        change = 1 - 2 * u
    elif name == "softplus":
        change = torch.exp(-u)
    else:  # elu and selu: the derivative is u + const below zero
        change = (u <= 0).to(u.dtype)
    # A clamped output was rounded to its dtype, and so is the clamp here.
    return change if clamp < 0 else torch.where(ref.abs() < ref.new_full((), clamp), change, 0)


def _act_backward_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    dy, ref, *ctx.activation = inputs
    ctx.save_for_backward(dy, ref)


def _act_backward_backward(ctx: Any, ddx: Tensor) -> tuple[Any, ...]:
    dy, ref = ctx.saved_tensors
    act, _, gain, clamp = ctx.activation
    ddy = act_backward(ddx, ref, *ctx.activation) if ctx.needs_input_grad[0] else None
    change = _slope_change(ref, act, gain, clamp) if ctx.needs_input_grad[1] else None
    return ddy, None if change is None else ddx * dy * change, None, None, None, None


torch.library.register_autograd(
    "lia_adapter::act_backward", _act_backward_backward, setup_context=_act_backward_setup, lib=LIBRARY
)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The sum over positions of a * b, both [N, C, ...] -> [N, C]."""
    n, c = a.shape[:2]
    if a.is_contiguous() and b.is_contiguous():
        # One pass without a tensor for the products, which would cost more than the sum.
        return torch.bmm(a.reshape(n * c, 1, -1), b.reshape(n * c, -1, 1)).reshape(n, c)
    return (a * b).flatten(2).sum(2)


def _scaled(x: Tensor, scale: Tensor) -> Tensor:
    """x * scale [N, C], in x's own memory where no graph needs x again."""
    if torch.is_grad_enabled():
        return epilogue(x, scale, None, None, *_LINEAR)
    return x.mul_(scale.reshape(*scale.shape, *[1] * (x.ndim - 2)))


def _tail_backward(ctx: Any, dy: Tensor, y: Tensor, v: Tensor | None, parts: tuple[Tensor | None, ...]) -> tuple[Any, ...]:
    """The gradient before the activation, and those of noise and b. v: the activation's input, needed for swish alone."""
    noise, b = parts
    g = act_backward(dy, y if v is None else v, *ctx.activation)
    dnoise = db = None
    if noise is not None and ctx.needs_noise:
        dnoise = g.sum(dim=1, keepdim=True).sum_to_size(noise.shape)
    if b is not None and ctx.needs_b:
        db = g.sum([i for i in range(g.ndim) if i != 1])
    return g, dnoise, db


def _epilogue_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, scale, noise, b, *ctx.activation = inputs
    _, _, ctx.needs_noise, ctx.needs_b, *_ = ctx.needs_input_grad
    keeps_x = scale is not None or ACTS[ctx.activation[0]] == "swish"
    ctx.save_for_backward(x if keeps_x else None, scale, noise, b, output)


def _epilogue_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    x, scale, noise, b, y = ctx.saved_tensors
    v = None
    if ACTS[ctx.activation[0]] == "swish":
        v = epilogue(x, scale, noise, b, *_LINEAR)
    g, dnoise, db = _tail_backward(ctx, dy, y, v, (noise, b))
    dscale = _dot(g, x) if ctx.needs_input_grad[1] else None
    dx = None
    if ctx.needs_input_grad[0]:
        dx = g if scale is None else _scaled(g, scale)
    return dx, dscale, dnoise, db, None, None, None, None


torch.library.register_autograd("lia_adapter::epilogue", _epilogue_backward, setup_context=_epilogue_setup, lib=LIBRARY)


def _upfirdn2d_act_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, f, scale, noise, b, *rest = inputs
    *geometry, ctx.flip, ctx.filter_gain = rest[:10]
    ctx.geometry, ctx.activation, ctx.x_shape = tuple(geometry), rest[10:], x.shape
    _, _, _, ctx.needs_noise, ctx.needs_b, *_ = ctx.needs_input_grad
    keeps_x = scale is not None or ACTS[ctx.activation[0]] == "swish"
    ctx.save_for_backward(x if keeps_x else None, f, scale, noise, b, output)


def _upfirdn2d_act_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    x, f, scale, noise, b, y = ctx.saved_tensors
    v = None
    if ACTS[ctx.activation[0]] == "swish":
        v = upfirdn2d_act(x, f, scale, noise, b, *ctx.geometry, ctx.flip, ctx.filter_gain, *_LINEAR)
    g, dnoise, db = _tail_backward(ctx, dy, y, v, (noise, b))
    dx = dscale = None
    if ctx.needs_input_grad[0] or ctx.needs_input_grad[2]:
        dx = _adjoint(g, ctx.x_shape, f, ctx.geometry, ctx.flip, ctx.filter_gain)
        if ctx.needs_input_grad[2]:
            dscale = _dot(dx, x)  # <g, filter(x)> = <adjoint(g), x>: the filtered image is not needed again.
        if scale is not None:
            dx = _scaled(dx, scale)
    return dx, None, dscale, dnoise, db, *[None] * 14


torch.library.register_autograd(
    "lia_adapter::upfirdn2d_act", _upfirdn2d_act_backward, setup_context=_upfirdn2d_act_setup, lib=LIBRARY
)


def _filtered_adjoint(ctx: Any, dy: Tensor) -> Tensor:
    """The adjoint of filtered_masked; ctx has the filters, the mask and the numbers of the operator itself."""
    fu, fd, mask = ctx.saved_tensors
    up, down = (ctx.up, ctx.up), (ctx.down, ctx.down)
    high = _size(ctx.size, fu, up, (1, 1), ctx.up_pads)
    return filtered_masked(
        dy, fd, fu, mask, ctx.down, ctx.up, *_adjoint_pads(high, dy.shape[2:], fd, (1, 1), down, ctx.down_pads),
        *_adjoint_pads(ctx.size, high, fu, up, (1, 1), ctx.up_pads), not ctx.flip, ctx.gain, ctx.slope,
    )  # fmt: skip


def _filtered_lrelu_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, fu, fd, b, ctx.up, ctx.down, *pads, ctx.flip, ctx.gain, ctx.slope, _clamp, ctx.saved_mask = inputs
    ctx.size, ctx.up_pads, ctx.down_pads = x.shape[2:], tuple(pads), (0, 0, 0, 0)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(fu, fd, output[1])


def _filtered_lrelu_backward(ctx: Any, dy: Tensor, _dmask: Tensor) -> tuple[Any, ...]:
    if not ctx.saved_mask:
        raise RuntimeError("filtered_lrelu was called with save_mask=False and has no gradient; call it with True.")
    dx = _filtered_adjoint(ctx, dy)
    db = dx.sum([0, 2, 3]) if ctx.needs_input_grad[3] else None
    return dx, None, None, db, *[None] * 11


torch.library.register_autograd(
    "lia_adapter::filtered_lrelu", _filtered_lrelu_backward, setup_context=_filtered_lrelu_setup, lib=LIBRARY
)


def _filtered_masked_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, fu, fd, mask, ctx.up, ctx.down, *pads, ctx.flip, ctx.gain, ctx.slope = inputs
    ctx.size, ctx.up_pads, ctx.down_pads = x.shape[2:], tuple(pads[:4]), tuple(pads[4:])
    ctx.save_for_backward(fu, fd, mask)


def _filtered_masked_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    return _filtered_adjoint(ctx, dy), *[None] * 16


torch.library.register_autograd(
    "lia_adapter::filtered_masked", _filtered_masked_backward, setup_context=_filtered_masked_setup, lib=LIBRARY
)


# -- autocast: filters run in the low precision, as convolutions do; the taps stay float32


def _low_precision(value: Any, dtype: torch.dtype) -> Any:
    castable = isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64
    return value.to(dtype) if castable else value


def _register_autocast(name: str, op: Callable[..., Any], filters: int, device: str) -> None:
    """For an op whose arguments are x, its filters, and the rest."""

    def cast(x: Tensor, *others: Any) -> Any:
        dtype, taps, rest = torch.get_autocast_dtype(device), others[:filters], others[filters:]
        with torch.autocast(device, enabled=False):
            return op(_low_precision(x, dtype), *taps, *[_low_precision(value, dtype) for value in rest])

    LIBRARY.impl(name, cast, {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}[device])


for _device in ("cpu", "cuda"):
    _register_autocast("upfirdn2d", upfirdn2d, 1, _device)
    _register_autocast("upfirdn2d_act", upfirdn2d_act, 1, _device)
    _register_autocast("filtered_lrelu", filtered_lrelu, 2, _device)
