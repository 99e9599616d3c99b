"""Layers and steps that generators and discriminators of all families share, and the precision that they run in."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lia_adapter.canonical import FILTER, TAPS
from lia_adapter.generators.convolution import conv2d, conv_transpose2d
from lia_adapter.ops import bias_act, setup_filter, upfirdn2d

__all__ = [
    "Dense",
    "Skip",
    "block_precision",
    "conv_up2",
    "default_filter",
    "half_above",
    "in_fast_format",
    "interpolated",
    "no_autocast",
    "normalize_2nd_moment",
    "scaled",
    "upsample2d",
]

_half_above: ContextVar[int | None] = ContextVar("half_above", default=None)


@contextmanager
def half_above(side: int) -> Iterator[None]:
    """In it, blocks with a side larger than `side` draw under autocast in bfloat16, and the smaller ones precisely.

    The large blocks take the time, and the small ones are where rounding moves what is drawn.
    """
    token = _half_above.set(side)
    try:
        yield
    finally:
        _half_above.reset(token)


def block_precision(size: tuple[int, ...], device: torch.device) -> AbstractContextManager[object]:
    """What a block of that size runs in."""
    side = _half_above.get()
    return nullcontext() if side is None or max(size) <= side else torch.autocast(device.type, torch.bfloat16)


def normalize_2nd_moment(x: Tensor) -> Tensor:
    """Scales every row of x [N, D] to a mean square of 1 (Karras 2018, "pixel norm")."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """For codes, styles and demodulation: rounding them to half precision moves the whole image."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def in_fast_format(x: Tensor, parameter: Tensor) -> Tensor:
    """x [N, C, H, W] in the memory format that the convolutions behind it are fastest in; they keep it.

    On the CPU they are a fifth faster in channels_last, but for the gradients of weights, which take a third longer.

    Args:
        x: What enters the first convolution.
        parameter: One of the network's, which tells whether weights get gradients.
    """
    if x.device.type != "cpu" or (parameter.requires_grad and torch.is_grad_enabled()):
        return x
    return x.contiguous(memory_format=torch.channels_last)


def scaled(x: Tensor, factors: Tensor) -> Tensor:
    """x [N, C, H, W] times factors [N, C]; without gradients in x's own memory, so only for who needs x no more."""
    factors = factors.to(x.dtype)[:, :, None, None]
    return x * factors if torch.is_grad_enabled() else x.mul_(factors)


class Dense(nn.Module):
    """A dense layer with equalised learning rate: stored weights are unit-normal, the gain comes at run time.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        act: Activation, one of `lia_adapter.ops.ACTIVATIONS`.
        lr_multiplier: Scale of weights and biases (Karras 2019, app. C).
        bias_init: Initial bias.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        act: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.act = act
        self.weight_gain = lr_multiplier / in_features**0.5
        self.bias_gain = lr_multiplier
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full([out_features], bias_init / lr_multiplier))

    def effective(self) -> tuple[Tensor, Tensor]:
        """Weight [out, in] and bias [out] as they act, gains included (the activation's gain is not)."""
        return self.weight * self.weight_gain, self.bias * self.bias_gain

    def forward(self, x: Tensor) -> Tensor:
        """[N, in] -> [N, out]."""
        with no_autocast(x):
            weight, bias = self.effective()
            return bias_act(x.to(weight.dtype) @ weight.t(), bias, act=self.act)


class Skip(nn.Module):
    """The 1x1 convolution with 2x upsampling that bypasses a resnet block.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        filter_shape: Shape of the low-pass filter.
    """

    resample_filter: Tensor

    def __init__(self, in_channels: int, out_channels: int, filter_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight_gain = 1 / in_channels**0.5
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.register_buffer("resample_filter", default_filter(filter_shape))

    def forward(self, x: Tensor, gain: float) -> Tensor:
        """[N, I, h, w] -> [N, O, 2h, 2w]."""
        x = conv2d(x, self.weight * self.weight_gain)
        return upsample2d(x, self.resample_filter) * gain


def conv_up2(x: Tensor, weight: Tensor, f: Tensor) -> tuple[Tensor, list[int]]:
    """The transposed half of a convolution with 2x upsampling, and the padding that its filter needs.

    A zero-stuffed image convolved with `weight` [O, I, k, k] and low-pass filtered: the zeros are never built. The weight
    acts as a true convolution, not a correlation (the orientation in which NVlabs' files keep it).

    Returns:
        x [N, O, 2 * H + k - 1, 2 * W + k - 1] and the padding (left, right, top, bottom) for `upfirdn2d`, gain 4.
    """
    k, (fh, fw) = weight.shape[-1], f.shape[-2:]
    # The last row and column are zeros that the filter would need anyway: oneDNN's kernels for even sizes are faster.
    x = conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    # k // 2 on all sides and the filter's own reach, less what the transposed convolution already added.
    side = k // 2 - (k - 1)
    return x, [side + (fw + 1) // 2, side + (fw - 2) // 2, side + (fh + 1) // 2, side + (fh - 2) // 2]


def default_filter(shape: tuple[int, ...]) -> Tensor:
    """StyleGAN2's [1, 3, 3, 1] where the shape is 4x4; otherwise a box of that shape, to be filled from a file."""
    return setup_filter(list(TAPS) if shape == FILTER else torch.ones(shape))


def interpolated(x: Tensor) -> Tensor:
    """Doubles the size of x [N, C, H, W] by bilinear interpolation, whose pixels beyond the border repeat it."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def upsample2d(x: Tensor, f: Tensor) -> Tensor:
    """Doubles the size of x [N, C, H, W] with the low-pass filter f [kh, kw]."""
    fh, fw = f.shape[0], f.shape[-1]
    padding = [(fw + 1) // 2, (fw - 2) // 2, (fh + 1) // 2, (fh - 2) // 2]
    return upfirdn2d(x, f, up=2, padding=padding, gain=4)
