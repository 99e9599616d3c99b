"""What a mapping is made of: bijections, each with its inverse and its log-determinant; and those that are measured."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

__all__ = ["Colouring", "Radial", "Solve", "Step", "Whitening"]

Solve = Callable[[Tensor, Tensor], Tensor]
"""`lia_adapter.linalg.solve_rows`, or what does the same in another way."""

_LEAST_RADIUS = 1e-30  # keeps the logarithm of the centre itself finite

Kept = TypeVar("Kept")


class Step(Protocol[Kept]):
    """A bijection x ⇄ y.

    Both ways keep what the log-determinant takes from them, and no more: few ask for it, and that of a matrix takes long.
    """

    def run(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Kept]:
        """x [N, D], c [N, c_dim] -> y [N, D], and what `log_det` takes."""

    def undo(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Kept]:
        """y [N, D], c [N, c_dim] -> x [N, D], and what `log_det` takes."""

    def log_det(self, kept: Kept) -> Tensor:
        """log|det dy/dx|, whichever way was gone: [N], or [] where it is one for all x."""


@dataclass(frozen=True)
class Whitening(Step[None]):
    """v = (u - centre) @ matrix.T."""

    centre: Tensor
    matrix: Tensor
    solve: Solve

    def run(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, None]:
        """u [N, D] -> v [N, D]."""
        return (x - self.centre) @ self.matrix.t(), None

    def undo(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, None]:
        """v [N, D] -> u [N, D]."""
        return self.solve(self.matrix, y) + self.centre, None

    def log_det(self, kept: None) -> Tensor:
        """log|det matrix|, []."""
        return _log_det(self.matrix)


@dataclass(frozen=True)
class Radial(Step[Tensor]):
    """w = v · scale · |v|^(power - 1); |v| is kept, [N, 1]."""

    dim: int
    power: Tensor
    scale: Tensor

    def run(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """v [N, D] -> w [N, D]."""
        radius = x.norm(dim=1, keepdim=True).clamp(min=_LEAST_RADIUS)
        return x * self.scale * radius ** (self.power - 1), radius

    def undo(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """w [N, D] -> v [N, D]."""
        radius = (y.norm(dim=1, keepdim=True) / self.scale).clamp(min=_LEAST_RADIUS) ** (1 / self.power)
        return y / self.scale * radius ** (1 - self.power), radius

    def log_det(self, kept: Tensor) -> Tensor:
        """All directions are scaled alike but the radial one, by `power` more; [N]."""
        return self.dim * (self.scale.log() + (self.power - 1) * kept[:, 0].log()) + self.power.log()


@dataclass(frozen=True)
class Colouring(Step[None]):
    """y = w @ matrix.T + offset + c @ class_shift."""

    matrix: Tensor
    offset: Tensor
    class_shift: Tensor
    solve: Solve

    def run(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, None]:
        """w [N, D], c [N, c_dim] -> y [N, D]."""
        return x @ self.matrix.t() + self._shift(c), None

    def undo(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, None]:
        """y [N, D], c [N, c_dim] -> w [N, D]."""
        return self.solve(self.matrix, y - self._shift(c)), None

    def log_det(self, kept: None) -> Tensor:
        """log|det matrix|, []."""
        return _log_det(self.matrix)

    def _shift(self, c: Tensor | None) -> Tensor:
        return self.offset if c is None else self.offset + c.to(self.offset) @ self.class_shift.to(self.offset)


def _log_det(matrix: Tensor) -> Tensor:
    log_det: Tensor = torch.linalg.slogdet(matrix)[1]
    return log_det
