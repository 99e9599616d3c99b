"""What is known of a picture after a change: it moved, turned, grew, or in other colours."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LARGEST", "SPATIAL", "changed"]

LARGEST = {
    "zoom": 0.5, "shift-x": 0.25, "shift-y": 0.25, "rotate": 30.0, "brightness": 0.5, "red": 0.5, "green": 0.5, "blue": 0.5,
}  # fmt: skip
"""The largest change: factors of two, shares of the width and of the height, degrees, and of values in [-1, 1]."""
SPATIAL = ("zoom", "shift-x", "shift-y", "rotate")
"""Those that move what is there."""

_COLOURS = {"brightness": slice(0, 3), "red": slice(0, 1), "green": slice(1, 2), "blue": slice(2, 3)}


def changed(x: Tensor, name: str, amounts: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures after a change, and where it is known what they show: what comes from outside is not.

    Args:
        x: Pictures, or of spatial changes feature maps, [N, C, H, W].
        name: A key of `LARGEST`. To the right, down, larger, anticlockwise, brighter, or more of a colour is positive.
        amounts: In units of the largest change [N], about -1 to 1.

    Returns:
        [N, C, H, W], and 1 or 0 in [N, 1, H, W].
    """
    size = amounts.to(x) * LARGEST[name]
    if name in _COLOURS:
        target = x.clamp(-1, 1)
        target[:, _COLOURS[name]] += size[:, None, None, None]
        return target.clamp(-1, 1), torch.ones_like(x[:, :1])
    grid = F.affine_grid(_SOURCES[name](size, x.shape[2] / x.shape[3]), list(x.shape), align_corners=False)

    def moved(x: Tensor) -> Tensor:
        return F.grid_sample(x, grid, mode="bicubic", padding_mode="zeros", align_corners=False)

    # Where a picture of ones is not 1, something from outside came in.
    return moved(x), ((moved(torch.ones_like(x[:, :1])) - 1).abs() < 1e-3).to(x)


def _rows(size: Tensor, entries: tuple[Tensor | float, ...]) -> Tensor:
    """Matrices [N, 2, 3] of numbers, or of [N] each."""
    return torch.stack([torch.as_tensor(entry).to(size).expand_as(size) for entry in entries], dim=1).reshape(-1, 2, 3)


def _zoom(size: Tensor, _: float) -> Tensor:
    return _rows(size, (2**-size, 0.0, 0.0, 0.0, 2**-size, 0.0))


def _right(size: Tensor, _: float) -> Tensor:
    return _rows(size, (1.0, 0.0, -2 * size, 0.0, 1.0, 0.0))


def _down(size: Tensor, _: float) -> Tensor:
    return _rows(size, (1.0, 0.0, 0.0, 0.0, 1.0, -2 * size))


def _rotate(size: Tensor, aspect: float) -> Tensor:
    angle = size * (math.pi / 180)  # coordinates go from -1 to 1 both ways, whatever the sides
    return _rows(size, (angle.cos(), -aspect * angle.sin(), 0.0, angle.sin() / aspect, angle.cos(), 0.0))


# From where a change of a size takes what it shows: x' = m x in coordinates from -1 to 1 [N, 2, 3], for H / W.
_SOURCES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "zoom": _zoom, "shift-x": _right, "shift-y": _down, "rotate": _rotate,
}  # fmt: skip
