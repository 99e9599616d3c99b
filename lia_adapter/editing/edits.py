"""Codes moved along directions: by how much, in which layers, with what is to stay."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lia_adapter.editing.directions import Direction, Directions
from lia_adapter.editing.space import Metric
from lia_adapter.encoder import one_code
from lia_adapter.errors import ConfigError, LIAError, argument
from lia_adapter.generators import Generator, device_of, style_sizes
from lia_adapter.mapping import InvertibleMapping

__all__ = ["Edit", "check_layers", "conditional", "edited", "layer_count", "moved", "planned", "style_shift"]

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


def conditional(direction: Direction, keep: Sequence[Direction], space: Metric) -> Direction:
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
    rows = direction.step.to(space.mean.device).reshape(-1, direction.step.shape[-1])
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
    """Codes after some edits. Those of s are none of codes: see `moved`.

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
        LIAError: A layer that there is not, a direction of another size, of z without a mapping, or of s.
    """
    for edit in edits:
        ys = _moved(ys, edit, mapping, c, layers)
    return ys


def _moved(ys: Tensor, edit: Edit, mapping: InvertibleMapping | None, c: Tensor | None, layers: Sequence[int] | None) -> Tensor:
    direction, n = edit.direction, ys.shape[1]
    if direction.space == "s":
        raise LIAError(
            f"{direction.name!r} moves s, the styles, which codes do not hold: LIA.style_shift gives what it adds to them, and "
            "LIA.synthesize takes that as styles."
        )
    amount = _for_each(direction, edit.amount, len(ys), ys.device)
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
    _check_there(chosen, n)
    moves = torch.zeros(1, n, 1, dtype=torch.float64, device=ys.device)
    moves[:, list(range(n) if chosen is None else chosen)] = 1
    return (ys.double() + moves * change).to(ys)


@torch.no_grad()
def style_shift(edits: Sequence[Edit], generator: Generator, *, layers: Sequence[int] | None = None) -> Tensor:
    """What edits along directions of s add to the styles, whatever the code is.

    Args:
        edits: Of s alone, at least one.
        generator: Whose styles they are.
        layers: Which style layers move, from 0; None: as each direction says, or all.

    Returns:
        [1 or N, S], for `shifted_styles`, on the generator's device.

    Raises:
        LIAError: A direction of another space or another generator, or a layer that there is not.
    """
    sizes, device = style_sizes(generator), device_of(generator)
    whole = torch.zeros(1, sum(sizes.values()), dtype=torch.float64, device=device)
    for edit in edits:
        direction = edit.direction
        if direction.space != "s":
            raise LIAError(f"{direction.name!r} moves {direction.space}, which is a code's: LIA.edit moves that.")
        _check_styles(direction, sizes)
        chosen = direction.layers if layers is None else tuple(layers)
        _check_there(chosen, len(sizes))
        moves = [float(chosen is None or layer in chosen) for layer in range(len(sizes))]
        mask = torch.tensor(moves, device=device).repeat_interleave(torch.tensor([*sizes.values()], device=device))
        amount = _for_each(direction, edit.amount, len(whole) if len(whole) > 1 else None, device)
        whole = whole + amount * direction.step.double().to(device) * mask
    return whole.float()


def moved(
    generator: Generator,
    ys: Tensor,
    edits: Sequence[Edit],
    *,
    mapping: InvertibleMapping | None = None,
    c: Tensor | None = None,
    layers: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """What is to be drawn after edits of any space: codes, and what is added to the styles that the generator makes of them.

    See `edited` and `style_shift` for the arguments.

    Returns:
        ys [N, num_ws, y_dim], and [1 or N, S]; None where no edit is of s.
    """
    of_styles = [edit for edit in edits if edit.direction.space == "s"]
    of_codes = [edit for edit in edits if edit.direction.space != "s"]
    shift = style_shift(of_styles, generator, layers=layers) if of_styles else None
    return edited(ys, of_codes, mapping=mapping, c=c, layers=layers), shift


def layer_count(generator: Generator, space: str) -> int:
    """How many layers there are for a direction of a space to move in: style layers of s, else those that take a y.

    Raises:
        LIAError: The style layers of this generator are not known.
    """
    return len(style_sizes(generator)) if space == "s" else generator.num_ws


def check_layers(generator: Generator, directions: Sequence[Direction], layers: Sequence[int]) -> None:
    """Refuses layers that directions cannot move in, before anything is drawn.

    Raises:
        ConfigError: There is no such layer, or the number means one layer to one direction and another to the next.
    """
    of_styles = [one for one in directions if one.space == "s"]
    if other := next((one for one in directions if one.space != "s"), None) if of_styles else None:
        raise ConfigError(
            f"{argument('layers')} counts style layers for {of_styles[0].name!r}, which moves s, and codes for {other.name!r}, "
            f"which moves {other.space}. Move them without {argument('layers')}, or one at a time."
        )
    count = layer_count(generator, "s" if of_styles else "y")
    if not layers or not set(layers) <= set(range(count)):
        kind = " style layers" if of_styles else ""
        raise ConfigError(f"{argument('layers')} is {list(layers)[:9]}; this generator's{kind} are 0 to {count - 1}.")


def _check_there(layers: Sequence[int] | None, count: int) -> None:
    if wrong := [layer for layer in layers or () if not 0 <= layer < count]:
        raise ConfigError(f"there is no layer {wrong[0]}; this generator's are 0 to {count - 1}.")


def _check_styles(direction: Direction, sizes: Mapping[str, int]) -> None:
    there, known = list((direction.styles or {}).items()), list(sizes.items())
    if there != known:
        i = next((i for i, (a, b) in enumerate(zip(there, known, strict=False)) if a != b), min(len(there), len(known)))
        own, its = (f"{some[i][0]} of {some[i][1]} channels" if i < len(some) else "no more" for some in (known, there))
        raise LIAError(
            f"direction {direction.name!r} is of another generator: style layer {i} is {its:.80}, this generator's is {own}."
        )


def _size(direction: Direction, expected: int) -> LIAError:
    return LIAError(
        f"direction {direction.name!r} is of {' x '.join(map(str, direction.step.shape))} entries, this generator's codes of "
        f"{expected}: it is of another generator."
    )


def planned(
    directions: Directions,
    amounts: Mapping[str, float | Tensor],
    keep: Sequence[str],
    space_of: Callable[[str], Metric],
) -> list[Edit]:
    """Edits by name.

    Args:
        directions: Where the names are.
        amounts: How far along each, in standard deviations: numbers, or [N].
        keep: Names of what is to stay.
        space_of: Gives the space of y, ys, z or s.

    Raises:
        ConfigError: There is no such direction, one is to move and to stay, or an amount is no number.
    """
    if both := [name for name in keep if name in amounts]:
        raise ConfigError(f"{both[0]!r} is to move and to stay; leave it out of one of the two.")
    kept = [directions[name] for name in keep]
    moving = [(directions[name], _checked(name, amount)) for name, amount in amounts.items()]
    return [Edit(conditional(one, kept, space_of(one.space)) if kept else one, amount) for one, amount in moving]


def _checked(name: str, amount: float | Tensor) -> float | Tensor:
    try:
        found = torch.as_tensor(amount, dtype=torch.float64)
        if found.ndim < 2 and bool(found.isfinite().all()):
            return amount
    except (TypeError, ValueError, RuntimeError):
        pass  # no number at all
    said = f"of shape {list(amount.shape)}" if isinstance(amount, Tensor) and amount.ndim > 1 else f"{amount!r:.80}"
    raise ConfigError(f"how far to go along {name!r} is {said}; expected a finite number, or one for each code.")


def _for_each(direction: Direction, amount: float | Tensor, n: int | None, device: torch.device) -> Tensor:
    """How far each code goes [1 or n, 1]."""
    found = torch.as_tensor(amount, dtype=torch.float64, device=device).reshape(-1, 1)
    if n is not None and len(found) not in (1, n):
        raise ConfigError(f"there are {len(found)} amounts for {direction.name!r} and {n} codes; expected one for all or each.")
    return found
