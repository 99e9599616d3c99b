"""Convolutions whose graph keeps their input for the gradients of weights alone: where these are frozen, it keeps none.

torch's own keep it always. A picture of 1024² has 400 MB of such inputs.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["conv2d", "conv_transpose2d"]


def conv2d(x: Tensor, weight: Tensor, *, padding: int = 0) -> Tensor:
    """x [N, I, H, W], weight [O, I, k, k] -> [N, O, H + 2 * padding - k + 1, W + ...]."""
    return _convolve(x, weight, False, 1, padding)


def conv_transpose2d(x: Tensor, weight: Tensor, *, stride: int = 1) -> Tensor:
    """x [N, I, H, W], weight [I, O, k, k] -> [N, O, stride * H + k - 1, stride * W + k - 1]; the last stride - 1 are zeros."""
    return _convolve(x, weight, True, stride, 0)


def _convolve(x: Tensor, weight: Tensor, transposed: bool, stride: int, padding: int) -> Tensor:
    if torch.is_grad_enabled() and x.requires_grad and not weight.requires_grad:
        result: Tensor = _Frozen.apply(x, weight, transposed, stride, padding)
        return result
    return _plain(x, weight, transposed, stride, padding)


def _plain(x: Tensor, weight: Tensor, transposed: bool, stride: int, padding: int) -> Tensor:
    if transposed:
        return F.conv_transpose2d(x, weight, stride=stride, padding=padding, output_padding=stride - 1)
    return F.conv2d(x, weight, stride=stride, padding=padding)


class _Frozen(torch.autograd.Function):
    """The gradient is the adjoint of a linear operator: the other convolution, which needs the weight alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, transposed: bool, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.transposed, ctx.stride, ctx.padding, ctx.dtype = transposed, stride, padding, x.dtype
        return _plain(x, weight, transposed, stride, padding)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        (weight,) = ctx.saved_tensors
        # In half precision where autocast made dy so.
        dx = _convolve(dy, weight.to(dy.dtype), not ctx.transposed, ctx.stride, ctx.padding)
        return dx.to(ctx.dtype), None, None, None, None
