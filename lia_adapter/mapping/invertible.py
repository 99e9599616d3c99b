"""The mapping as a whole: its steps in a row, to y and back."""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from lia_adapter.canonical import InvertibleConfig
from lia_adapter.errors import LIAError
from lia_adapter.keys import COUPLINGS
from lia_adapter.linalg import solve_rows
from lia_adapter.mapping.cores import CORES, AdditiveCouplings, AffineCouplings, DenseCore
from lia_adapter.mapping.steps import Colouring, Radial, Solve, Step, Whitening

__all__ = ["InvertibleMapping"]


class InvertibleMapping(nn.Module):
    """The bijection between a code's z ~ N(0, I) and y; see the package's docstring.

    Args:
        coupling: flow, affine, additive or dense; sigmoid in files of LIA's own code.
        y_dim: Entries of z and y.
        c_dim: Entries of the label, 0 for none.
        **core: Further arguments of the core's class.

    All is computed in float64 (in float32 on Apple's GPUs, which have no other). y comes in the dtype of the weights, z and
    log-determinants in float64: a mapping that keeps seeds squeezes some directions of z a thousandfold, and a z that was
    rounded to float32 on the way back would no longer give the same y.

    Example:
        >>> m = InvertibleMapping("affine", y_dim=4)
        >>> z = torch.randn(8, 4)
        >>> bool((m.to_z(m.to_y(z)) - z).abs().max() < 1e-5)
        True
    """

    core: DenseCore | AdditiveCouplings | AffineCouplings
    y_mean: Tensor
    centre: Tensor
    white: Tensor
    power: Tensor
    scale: Tensor
    colour: Tensor
    offset: Tensor
    class_shift: Tensor

    def __init__(self, coupling: str, y_dim: int, c_dim: int = 0, **core: Any) -> None:
        super().__init__()
        if coupling not in CORES:
            raise LIAError(f"coupling is {coupling!r}; expected one of {', '.join(COUPLINGS)}.")
        self.coupling, self.y_dim, self.c_dim = coupling, y_dim, c_dim
        self.solve: Solve = solve_rows
        self.core = CORES[coupling](y_dim, c_dim=c_dim, **core)
        self.register_buffer("y_mean", torch.zeros(y_dim))  # of the original mapping: a centre of truncation
        self.register_buffer("centre", torch.zeros(y_dim))
        self.register_buffer("white", torch.eye(y_dim))
        self.register_buffer("power", torch.ones([]))
        self.register_buffer("scale", torch.ones([]))
        self.register_buffer("colour", torch.eye(y_dim))
        self.register_buffer("offset", torch.zeros(y_dim))
        self.register_buffer("class_shift", torch.zeros(c_dim, y_dim))

    def config(self) -> InvertibleConfig:
        """JSON from which `from_config` builds an equal, untrained mapping."""
        core = {name: value for name, value in self.core.config().items() if name not in ("dim", "c_dim")}
        return cast(InvertibleConfig, {"coupling": self.coupling, "y_dim": self.y_dim, "c_dim": self.c_dim, **core})

    @staticmethod
    def from_config(config: InvertibleConfig) -> "InvertibleMapping":
        """The inverse of `config`.

        Raises:
            LIAError: It is of a flow in one scale, which an unreleased version made.
        """
        if config["coupling"] == "flow" and "large" not in config:
            raise LIAError("its mapping is a flow of an unreleased version, in one scale. Run lia-adapt convert again.")
        return InvertibleMapping(**config)

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """`to_y`: where a generator was trained with this mapping, it is its own."""
        return self.to_y(z, c)

    def steps(self, like: Tensor) -> tuple[Step[Any], ...]:
        """From z to y, in the dtype of another tensor: the core, which is trained, and what `measured` gives."""
        return (self.core, *self.measured(like))

    def measured(self, like: Tensor) -> tuple[Step[Any], ...]:
        """The steps behind the core, from u to y, in the dtype of another tensor."""
        return (
            Whitening(self.centre.to(like), self.white.to(like), self.solve),
            Radial(self.y_dim, self.power.to(like), self.scale.to(like)),
            Colouring(self.colour.to(like), self.offset.to(like), self.class_shift, self.solve),
        )

    def to_y(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """φ⁻¹: z [N, y_dim], c [N, c_dim] -> y [N, y_dim]."""
        x, c = self._prepare(z, c, "z")
        return _run(self.steps(x), x, c)[0].to(self.offset.dtype)

    def to_z(self, y: Tensor, c: Tensor | None = None) -> Tensor:
        """φ: y [N, y_dim], c [N, c_dim] -> z [N, y_dim], float64."""
        x, c = self._prepare(y, c, "y")
        return _undo(self.steps(x), x, c)[0]

    def to_y_with_log_det(self, z: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """y [N, y_dim] and log|det dy/dz| [N]."""
        x, c = self._prepare(z, c, "z")
        steps = self.steps(x)
        y, kept = _run(steps, x, c)
        return y.to(self.offset.dtype), _log_det(steps, kept)

    def to_z_with_log_det(self, y: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z [N, y_dim] and log|det dz/dy| [N]."""
        x, c = self._prepare(y, c, "y")
        steps = self.steps(x)
        z, kept = _undo(steps, x, c)
        return z, -_log_det(steps, kept)

    def from_core(self, u: Tensor, c: Tensor | None = None) -> Tensor:
        """The measured steps: u [N, y_dim], c [N, c_dim] -> y [N, y_dim], in the dtype of u."""
        return _run(self.measured(u), u, c)[0]

    def to_core(self, y: Tensor, c: Tensor | None = None) -> Tensor:
        """The measured steps undone: y [N, y_dim], c [N, c_dim] -> u [N, y_dim], in the dtype of y."""
        return _undo(self.measured(y), y, c)[0]

    def log_prob(self, y: Tensor, c: Tensor | None = None) -> Tensor:
        """Log-density of y [N, y_dim] in nats, [N]: log N(φ(y); 0, I) + log|det dφ/dy| (change of variables)."""
        z, log_det = self.to_z_with_log_det(y, c)
        return log_det - 0.5 * (z.square().sum(dim=1) + self.y_dim * math.log(2 * math.pi))

    def _prepare(self, x: Tensor, c: Tensor | None, name: str) -> tuple[Tensor, Tensor | None]:
        """Checks shapes and moves to the dtype to compute in."""
        if x.ndim != 2 or x.shape[1] != self.y_dim:
            raise LIAError(f"{name} has shape {list(x.shape)}; expected [N, {self.y_dim}].")
        if self.c_dim and (c is None or c.shape != (len(x), self.c_dim)):
            found = "no label" if c is None else f"c of shape {list(c.shape)}"
            raise LIAError(f"this mapping is class-conditional: found {found}, expected c [{len(x)}, {self.c_dim}].")
        precise = torch.float32 if x.device.type == "mps" else torch.float64
        return x.to(precise), c if self.c_dim else None


def _run(steps: Sequence[Step[Any]], x: Tensor, c: Tensor | None) -> tuple[Tensor, list[Any]]:
    """One step after another, and what each kept."""
    kept = []
    for step in steps:
        x, part = step.run(x, c)
        kept.append(part)
    return x, kept


def _undo(steps: Sequence[Step[Any]], y: Tensor, c: Tensor | None) -> tuple[Tensor, list[Any]]:
    """The same backwards; what was kept is in the order of the steps."""
    kept = []
    for step in reversed(steps):
        y, part = step.undo(y, c)
        kept.append(part)
    return y, kept[::-1]


def _log_det(steps: Sequence[Step[Any]], kept: Sequence[Any]) -> Tensor:
    """Of all steps together, [N]; the measured ones are summed first, as they always were, so that no bit changes."""
    core, *measured = (step.log_det(part) for step, part in zip(steps, kept, strict=True))
    return core + sum(measured)
