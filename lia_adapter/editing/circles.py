"""Walks on the sphere of z, where sizes stay usual: great and small circles (Spingarn-Eliezer 2021, sec. 4)."""

import torch
from torch import Tensor

from lia_adapter.errors import LIAError

__all__ = ["great_circle", "small_circle"]

_LEAST = 1e-5  # a share of a vector: what is shorter is rounding


def great_circle(z: Tensor, direction: Tensor, angle: float | Tensor) -> Tensor:
    """From codes along the largest circle through them and a direction; sizes stay.

    Where the angle is that between code and direction, the walk is at the direction, as far from the centre as it began.

    Args:
        z: Where it begins [N, D].
        direction: Where to [D], of any length.
        angle: How far, in radians, one number or [N].

    Returns:
        [N, D].

    Raises:
        LIAError: The direction is zero, or along a code: through the two goes any circle.
    """
    return _turned(z, direction.to(z).expand_as(z), angle)


def small_circle(z: Tensor, direction: Tensor, angle: float | Tensor, kept: Tensor) -> Tensor:
    """The same in a plane across an axis: what codes have of that axis stays as it is.

    Args:
        z: Where it begins [N, D].
        direction: Where to [D], less what it has of the axis.
        angle: How far, in radians, one number or [N].
        kept: The axis [D], of any length.

    Returns:
        [N, D].

    Raises:
        LIAError: The axis is zero, or the direction is, along the axis, or in the plane of the axis and a code.
    """
    if float(kept.norm()) == 0:
        raise LIAError("the axis of a small circle is zero; give one that has a length.")
    axis = torch.nn.functional.normalize(kept.to(z), dim=0)
    along = (z @ axis)[:, None] * axis  # [N, D]
    across = direction.to(z) - (direction.to(z) @ axis) * axis
    if float(across.norm()) <= _LEAST * float(direction.norm()):
        raise LIAError("the direction of a small circle is that of its axis, along which nothing is to move.")
    return along + _turned(z - along, across.expand_as(z), angle)


def _turned(z: Tensor, direction: Tensor, angle: float | Tensor) -> Tensor:
    """Codes [N, D] turned by an angle towards directions [N, D]."""
    sizes = z.norm(dim=1, keepdim=True)
    unit = z / sizes.clamp(min=torch.finfo(z.dtype).tiny)
    across = direction - (direction * unit).sum(dim=1, keepdim=True) * unit
    lengths = across.norm(dim=1, keepdim=True)
    if bool((lengths <= _LEAST * direction.norm(dim=1, keepdim=True)).any()):
        raise LIAError("a direction that is zero, or along the code itself, says no circle; give another direction.")
    turn = torch.as_tensor(angle, dtype=z.dtype, device=z.device).reshape(-1, 1)  # [1 or N, 1]
    moved: Tensor = turn.cos() * z + turn.sin() * sizes * (across / lengths)
    return moved
