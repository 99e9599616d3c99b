"""Codes moved along directions: by how much, in which layers, with what is to stay."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lia_adapter.editing.directions import Direction, Directions
from lia_adapter.editing.space import CodeSpace
from lia_adapter.encoder import one_code
from lia_adapter.errors import ConfigError, LIAError, argument
from lia_adapter.mapping import InvertibleMapping

__all__ = ["Edit", "conditional", "edited", "planned"]

_LEAST, _GONE = 0.05, 1e-4  # of the length in white coordinates, below which nothing is left: of a direction, and of a layer


@dataclass(frozen=True)
class Edit:
    """One direction and how far to go.

    Attributes:
        direction: Where to.
        amount: In standard deviations of the prior, one number or [N].
    """

    direction: Direction
    amount: float | Tensor


def conditional(direction: Direction, keep: Sequence[Direction], space: CodeSpace) -> Direction:
    """The direction less what it has of those that are to stay (Shen 2020, sec. 3.3), in the metric of the prior.

    Of ys, each layer by itself.

    Args:
        direction: In any space.
        keep: In the same space; none: it stays as it is.
        space: Of its codes.

    Returns:
        A direction as many standard deviations long as before, one in general; of ys, each layer.

    Raises:
        ConfigError: Spaces differ, or nothing is left: what is to stay says the same.
    """
    if not keep:
        return direction
    if other := next((one for one in keep if one.space != direction.space), None):
        raise ConfigError(
            f"{direction.name!r} moves {direction.space} and {other.name!r} moves {other.space}; what is to stay must be "
            f"of the same space. Find both in one space, or leave {argument('keep')} {other.name} out."
        )
    if other := next((one for one in keep if one.step.shape != direction.step.shape), None):
        raise _size(other, direction.step.shape[-1])
    rows = direction.step.to(space.root.device).reshape(-1, direction.step.shape[-1])
    others = torch.stack([one.step.to(rows) for one in keep])
    others = others.reshape(len(keep), -1, rows.shape[-1])
    left = torch.stack([space.without(row, others[:, i]) for i, row in enumerate(rows)])
    whole, there = (space.white(v).norm(dim=-1) for v in (rows, left))
    if float(there.norm()) < _LEAST * float(whole.norm()):
        raise ConfigError(
            f"nothing of {direction.name!r} is left without {' and '.join(one.name for one in keep)}: they change the same. "
            f"Leave {argument('keep')} out, or find another direction."
        )
    deviations = (rows.norm(dim=-1) / space.step(rows).norm(dim=-1))[:, None]
    # Of a layer that does not move, or of which nothing is left, the direction would be that of rounding.
    step = torch.where((there > _GONE * whole)[:, None], space.step(left) * deviations, 0.0)
    return replace(direction, step=step.reshape(direction.step.shape).to(direction.step), reader=None)


@torch.no_grad()
def edited(
    ys: Tensor,
    edits: Sequence[Edit],
    *,
    mapping: InvertibleMapping | None = None,
    c: Tensor | None = None,
    layers: Sequence[int] | None = None,
) -> Tensor:
    """Codes after some edits.

    A direction of z moves z of the one y that stands for the code (its mean over layers); what the code has beside that y,
    layer by layer, it keeps.

    Args:
        ys: [N, num_ws, y_dim].
        edits: One after another; their order matters only between z and the others.
        mapping: Needed for directions of z.
        c: Labels [N, c_dim] of a conditional generator, for those.
        layers: Which ys move, from 0; None: as each direction says, or all.

    Returns:
        ys [N, num_ws, y_dim].

    Raises:
        LIAError: A layer that there is not, a direction of another size, or of z without a mapping.
    """
    for edit in edits:
        ys = _moved(ys, edit, mapping, c, layers)
    return ys


def _moved(ys: Tensor, edit: Edit, mapping: InvertibleMapping | None, c: Tensor | None, layers: Sequence[int] | None) -> Tensor:
    direction, n = edit.direction, ys.shape[1]
    amount = torch.as_tensor(edit.amount, dtype=torch.float64, device=ys.device).reshape(-1, 1)  # [1 or N, 1]
    step = direction.step.double().to(ys.device)
    if direction.space == "z":
        if mapping is None:
            raise LIAError(f"{direction.name!r} moves z, which only a converted file has. Run lia-adapt convert on it first.")
        y = one_code(ys)
        z = mapping.to_z(y, c)
        if z.shape[1] != step.shape[0]:
            raise _size(direction, z.shape[1])
        change = (mapping.to_y(z + amount * step, c) - mapping.to_y(z, c))[:, None].double()  # [N, 1, y_dim]
    else:
        if step.shape[-1] != ys.shape[2] or (step.ndim == 2 and len(step) != n):
            raise _size(direction, ys.shape[2])
        change = amount[:, :, None] * step.reshape(1, -1, step.shape[-1])  # [1 or N, 1 or num_ws, y_dim]
    chosen = direction.layers if layers is None else tuple(layers)
    if chosen is not None and (wrong := [layer for layer in chosen if not 0 <= layer < n]):
        raise ConfigError(f"there is no layer {wrong[0]}; this generator's are 0 to {n - 1}.")
    moves = torch.zeros(1, n, 1, dtype=torch.float64, device=ys.device)
    moves[:, list(range(n) if chosen is None else chosen)] = 1
    return (ys.double() + moves * change).to(ys)


def _size(direction: Direction, expected: int) -> LIAError:
    return LIAError(
        f"direction {direction.name!r} is of {' x '.join(map(str, direction.step.shape))} entries, this generator's codes of "
        f"{expected}: it is of another generator."
    )


def planned(
    directions: Directions,
    amounts: Mapping[str, float | Tensor],
    keep: Sequence[str],
    space_of: Callable[[str], CodeSpace],
) -> list[Edit]:
    """Edits by name.

    Args:
        directions: Where the names are.
        amounts: How far along each, in standard deviations: numbers, or [N].
        keep: Names of what is to stay.
        space_of: Gives the space of y, ys or z.

    Raises:
        ConfigError: There is no such direction, or one is to move and to stay.
    """
    if both := [name for name in keep if name in amounts]:
        raise ConfigError(f"{both[0]!r} is to move and to stay; leave it out of one of the two.")
    kept = [directions[name] for name in keep]
    moving = [(directions[name], amount) for name, amount in amounts.items()]
    return [Edit(conditional(one, kept, space_of(one.space)) if kept else one, amount) for one, amount in moving]
