"""Reference path of the ops: plain torch, any device, differentiable any number of times.

It is the definition that every faster kernel is tested against, so it is written for reading. All gains and clamps are
Python numbers, all tensors of one call share a device; the result has the dtype of `x`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "bias_act",
    "filtered_lrelu",
    "modconv_epilogue",
    "pair",
    "quad",
    "setup_filter",
    "upfirdn2d",
    "upfirdn2d_act",
]


@dataclass(frozen=True)
class Activation:
    """An activation and the output gain that keeps its variance near 1 for a unit-normal input (Karras 2020, app. B).

    Attributes:
        function: (x, alpha) -> act(x).
        alpha: Slope of the negative side where the activation has one, else 0.
        gain: Default gain of `bias_act`.
    """

    function: Callable[[Tensor, float], Tensor]
    alpha: float = 0.0
    gain: float = 1.0


ACTIVATIONS: dict[str, Activation] = {
    "linear": Activation(lambda x, _: x),
    "relu": Activation(lambda x, _: F.relu(x), gain=math.sqrt(2)),
    "lrelu": Activation(lambda x, alpha: F.leaky_relu(x, alpha), alpha=0.2, gain=math.sqrt(2)),
    "tanh": Activation(lambda x, _: torch.tanh(x)),
    "sigmoid": Activation(lambda x, _: torch.sigmoid(x)),
    "elu": Activation(lambda x, _: F.elu(x)),
    "selu": Activation(lambda x, _: F.selu(x)),
    "softplus": Activation(lambda x, _: F.softplus(x)),
    "swish": Activation(lambda x, _: torch.sigmoid(x) * x, gain=math.sqrt(2)),
}


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
    """Computes clamp(act(x + b) * gain, ±clamp).

    Args:
        x: Any shape.
        b: Bias [x.shape[dim]], or None.
        dim: The dimension of x that the bias belongs to.
        act: One of `ACTIVATIONS`.
        alpha: Slope of the negative side (lrelu); None takes the activation's own.
        gain: Factor after the activation; None takes the activation's own (sqrt(2) for lrelu).
        clamp: Largest absolute value of the result, or None. The gradient is zero where the clamp acts.
        overwrite_x: Whether x is not needed again: the result may take its memory where no gradients are recorded.

    Returns:
        A tensor like x.
    """
    spec = ACTIVATIONS[act]
    alpha = spec.alpha if alpha is None else float(alpha)
    gain = spec.gain if gain is None else float(gain)
    into = _into(x, overwrite_x)
    if b is not None:
        x = torch.add(x, b.to(x.dtype).reshape([-1 if i == dim % x.ndim else 1 for i in range(x.ndim)]), out=into)
    x = spec.function(x, alpha)
    if gain != 1:
        x = torch.mul(x, gain, out=into)
    if clamp is not None:
        x = torch.clamp(x, -clamp, clamp, out=into)
    return x


def _into(x: Tensor, overwrite_x: bool) -> Tensor | None:
    return x if overwrite_x and not torch.is_grad_enabled() else None


def setup_filter(taps: Sequence[float] | Tensor, *, device: torch.device | str = "cpu") -> Tensor:
    """Makes the 2-D low-pass filter of StyleGAN2 from 1-D taps: their outer product, normalised to a sum of 1.

    Args:
        taps: Filter taps, [k] or [kh, kw].
        device: Where the filter is put.

    Returns:
        float32 [kh, kw].
    """
    f = torch.as_tensor(taps, dtype=torch.float32, device=device)
    if f.ndim == 1:
        f = torch.outer(f, f)
    return f / f.sum()


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """A factor for both axes, or one each, as (x, y)."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def quad(padding: int | Sequence[int]) -> tuple[int, int, int, int]:
    """Padding p, (x, y) or (left, right, top, bottom), as the last of these."""
    if isinstance(padding, int):
        return padding, padding, padding, padding
    if len(padding) == 2:
        return padding[0], padding[0], padding[1], padding[1]
    return padding[0], padding[1], padding[2], padding[3]


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
    """Upsamples by zero-stuffing, pads or crops, filters, and decimates (Karras 2019, sec. 2; Karras 2021, app. C).

    Args:
        x: [N, C, H, W].
        f: Filter [kh, kw]; [k] for a separable one (applied along both axes); None for the identity.
        up: Upsampling factor, or (x, y). Every pixel is followed by up - 1 zeros.
        down: Decimation factor, or (x, y): every down-th pixel of the result is kept, from the first on.
        padding: Zeros around the upsampled image: p, (x, y) or (left, right, top, bottom); negative values crop.
        flip_filter: False convolves (the filter is mirrored, as in signal processing), True correlates.
        gain: Factor of the result.

    Returns:
        [N, C, (H * up + top + bottom - kh) // down + 1, (W * up + left + right - kw) // down + 1].
    """
    (up_x, up_y), (down_x, down_y) = pair(up), pair(down)
    left, right, top, bottom = quad(padding)
    n, c, h, w = x.shape
    if up_x > 1 or up_y > 1:
        x = x.reshape(n, c, h, 1, w, 1)
        x = F.pad(x, (0, up_x - 1, 0, 0, 0, up_y - 1)).reshape(n, c, h * up_y, w * up_x)
    if left or right or top or bottom:
        x = F.pad(x, (left, right, top, bottom))
    if f is None:
        return x[:, :, ::down_y, ::down_x] * gain
    # The gain goes into the taps, spread over the axes of a separable filter.
    f = (f * gain ** (f.ndim / 2)).to(x.dtype)
    if not flip_filter:
        f = f.flip(list(range(f.ndim)))
    if f.ndim == 2:
        kernel = f[None, None].expand(c, 1, -1, -1)  # [C, 1, kh, kw]
        return F.conv2d(x, kernel, stride=(down_y, down_x), groups=c)
    x = F.conv2d(x, f[None, None, :, None].expand(c, 1, -1, -1), stride=(down_y, 1), groups=c)
    return F.conv2d(x, f[None, None, None, :].expand(c, 1, -1, -1), stride=(1, down_x), groups=c)


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
    """The tail of a modulated convolution: clamp(act(x * scale + noise + b) * gain, ±clamp) (Karras 2020, sec. 2.2).

    Args:
        x: [N, C, H, W], the output of a convolution of the modulated input with the shared weights.
        scale: Demodulation, [N, C], or None.
        noise: Already multiplied by its strength; [H, W] (one image for all) or [N, 1, H, W]; or None.
        b: Bias [C], or None.
        act: One of `ACTIVATIONS`.
        alpha: See `bias_act`.
        gain: See `bias_act`.
        clamp: See `bias_act`.
        overwrite_x: See `bias_act`.

    Returns:
        A tensor like x.
    """
    into = _into(x, overwrite_x)
    if scale is not None:
        x = torch.mul(x, scale.to(x.dtype)[:, :, None, None], out=into)
    if noise is not None:
        x = torch.add(x, noise.to(x.dtype), out=into)
    return bias_act(x, b, act=act, alpha=alpha, gain=gain, clamp=clamp, overwrite_x=overwrite_x)


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
    """`modconv_epilogue` of `upfirdn2d`: all that follows the transposed convolution of a StyleGAN2 up-layer.

    The demodulation comes after the filter because both are linear and the filter acts on each channel alone.

    Args:
        x: [N, C, H, W].
        f: See `upfirdn2d`.
        scale: Demodulation, [N, C], or None.
        noise: [H', W'] or [N, 1, H', W'] of the filtered size, or None.
        b: Bias [C], or None.
        up: See `upfirdn2d`.
        down: See `upfirdn2d`.
        padding: See `upfirdn2d`.
        flip_filter: See `upfirdn2d`.
        filter_gain: The gain of `upfirdn2d`.
        act: One of `ACTIVATIONS`.
        alpha: See `bias_act`.
        gain: Factor after the activation; see `bias_act`.
        clamp: See `bias_act`.

    Returns:
        [N, C, H', W'], sizes as of `upfirdn2d`.
    """
    x = upfirdn2d(x, f, up=up, down=down, padding=padding, flip_filter=flip_filter, gain=filter_gain)
    return modconv_epilogue(x, scale, noise, b, act=act, alpha=alpha, gain=gain, clamp=clamp, overwrite_x=True)


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
    """Upsamples, applies clamp(lrelu(v) * gain, ±clamp) at the higher rate, and decimates (Karras 2021, sec. 3.2 and app. D).

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
    v = F.leaky_relu(v, slope) * gain
    if clamp is not None:
        v = v.clamp(-clamp, clamp)
    return upfirdn2d(v, fd, down=down, flip_filter=flip_filter).to(x.dtype)
