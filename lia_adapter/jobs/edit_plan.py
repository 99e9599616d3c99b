"""How far each picture's code is moved along each direction, and what becomes of it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lia_adapter.codes import draw_code
from lia_adapter.editing import Direction, Directions, Edit, moved, planned
from lia_adapter.encoder import one_code
from lia_adapter.errors import ConfigError, argument
from lia_adapter.generators import broadcast, styles_of
from lia_adapter.inversion import STYLES
from lia_adapter.jobs.drawing import Coded
from lia_adapter.lia import LIA
from lia_adapter.metrics.scorers import Scorer

__all__ = ["EditPlan", "Edited"]

_FARTHEST = 8.0
_TRIED = (2.0, 0.5)  # steps of strengths, in standard deviations, between which a wanted score is looked for
_HALVINGS = 7
_MISSED = 0.02  # of the way to a wanted value
_ROUNDS = 8  # of Newton's method, where several values are wanted at once
_STEP = 0.25  # standard deviations over which the slope of a score is taken


@dataclass(frozen=True)
class Edited:
    """One picture before and after.

    Attributes:
        before: What the generator draws of its code [C, H, W]; None where nobody looks.
        after: The same after the edit.
        strengths: How far along each direction, in standard deviations.
        reached: Whether all wanted values were.
        p: How probable the code was, and is (`LIA.prior_p`); None where that is not known, as it is not of moved styles.
    """

    before: Tensor | None
    after: Tensor
    strengths: dict[str, float]
    reached: bool
    p: tuple[float | None, float | None]


class EditPlan:
    """What is done to each code: called with `Coded`, gives an `Edited` for each.

    Args:
        lia: Whose codes they are.
        directions: Where names are looked up.
        amounts: How far along which, in standard deviations.
        targets: What attributes shall become, all at once, behind those.
        keep: Names of directions whose attributes are to stay.
        layers: Which ys move, of directions of s which style layers; None: as each direction says.
        judge: Reads attributes of pictures; None: targets are read from codes by the directions' own readers.
        psi: Truncation, of pictures before and after alike.

    Attributes:
        look: Whether pictures before the edit are wanted, too.

    Raises:
        ConfigError: There is no such direction, or nothing reads a wanted attribute.
    """

    def __init__(
        self,
        lia: LIA,
        directions: Directions,
        amounts: Mapping[str, float],
        targets: Mapping[str, float],
        *,
        keep: Sequence[str] = (),
        layers: Sequence[int] | None = None,
        judge: Scorer | None = None,
        psi: float = 1.0,
    ) -> None:
        self.lia, self.layers, self.judge, self.psi = lia, layers, judge, psi
        self.look = True
        self.edits = planned(directions, amounts, keep, lia.code_space)
        steps = planned(directions, targets, keep, lia.code_space)
        self.targets = [
            (directions[name], step.direction, value) for (name, value), step in zip(targets.items(), steps, strict=True)
        ]
        for direction, _, _ in self.targets:
            if judge is None and direction.reader is None:
                raise ConfigError(
                    f"nothing reads {direction.name!r} of a picture: give {argument('scorer')}, or a strength, "
                    f"{argument('move')}."
                )

    @torch.no_grad()
    def __call__(self, part: Coded) -> list[Edited]:
        """An answer for each code."""
        n = len(part.code)
        before = self._drawn(part).cpu() if self.look else None
        there = self._moved(part, self.edits)
        strengths = {edit.direction.name: torch.full([n], float(edit.amount)) for edit in self.edits}
        found, reached = self._wanted(there)
        there = self._towards(there, found)
        strengths |= {
            direction.name: amounts.float().cpu() for (direction, _, _), amounts in zip(self.targets, found.t(), strict=True)
        }
        after = self._drawn(there).cpu()
        p = [self._probable(codes) for codes in (part, there)]
        return [
            Edited(
                None if before is None else before[i], after[i],
                {name: float(values[i]) for name, values in strengths.items()}, bool(reached[i]), (p[0][i], p[1][i]),
            )
            for i in range(n)
        ]  # fmt: skip

    def _drawn(self, part: Coded) -> Tensor:
        return draw_code(self.lia, part.code, part.kept, self.psi)

    def _moved(self, part: Coded, edits: Sequence[Edit]) -> Coded:
        """What edits of codes move lies in the codes, what edits of styles move beside them."""
        g = self.lia.generator
        ys, shift = moved(g, broadcast(part.code, g.num_ws), edits, mapping=self.lia.mapping, c=part.c, layers=self.layers)
        if shift is None:
            return replace(part, code=ys)
        whole = shift.expand(len(ys), -1) + part.kept.get(STYLES, 0)
        return replace(part, code=ys, kept={**part.kept, STYLES: whole})

    def _towards(self, part: Coded, amounts: Tensor) -> Coded:
        """Codes moved along the directions of the targets by [n, targets]."""
        steps = zip(self.targets, amounts.t(), strict=True)
        return self._moved(part, [Edit(step, amount) for (_, step, _), amount in steps])

    def _wanted(self, part: Coded) -> tuple[Tensor, Tensor]:
        """How far each code must go until all attributes have their values [n, targets], and whether it gets there [n]."""
        n, device = len(part.code), part.code.device
        amounts = torch.zeros(n, len(self.targets), dtype=torch.float64, device=device)
        if not self.targets:
            return amounts, torch.ones(n, dtype=torch.bool)
        wanted = amounts.new_tensor([value for _, _, value in self.targets])
        if self.judge is None:

            def readings(amounts: Tensor) -> Tensor:
                there = self._towards(part, amounts)
                return torch.stack([self._read(direction, there) for direction, _, _ in self.targets], dim=1)

            slopes = _slopes(readings, amounts, readings(amounts), 1.0).diagonal(dim1=1, dim2=2)
            if len(idle := (slopes.abs().amin(dim=0) < 1e-9).nonzero()):
                raise ConfigError(
                    f"{self.targets[int(idle[0])][0].name!r} does not change what it reads, in these layers or without what is "
                    "to stay."
                )
            return _all_at_once(readings, wanted, amounts, 1.0, math.inf)
        judge, names = self.judge, [direction.name for direction, _, _ in self.targets]

        def scores(amounts: Tensor) -> Tensor:
            return _attributes(judge, self._drawn(self._towards(part, amounts)), names)

        reached = torch.ones(n, dtype=torch.bool)
        for k in range(len(names)):  # each as if it were alone with those before it

            def score(amount: Tensor, k: int = k, amounts: Tensor = amounts) -> Tensor:
                return scores(amounts.index_copy(1, torch.tensor([k], device=device), amount[:, None]))[:, k]

            amounts[:, k], reached = _reach(score, float(wanted[k]), n, device)
        return (amounts, reached) if len(names) == 1 else _all_at_once(scores, wanted, amounts, _STEP, _FARTHEST)

    def _read(self, direction: Direction, part: Coded) -> Tensor:
        """What the reader of a direction says of codes, [n]."""
        assert direction.reader is not None  # noqa: S101  (seen to when the plan was made)
        if direction.space == "s":
            g = self.lia.generator
            codes = styles_of(g, broadcast(part.code, g.num_ws)) + part.kept.get(STYLES, 0)
        else:
            y = one_code(part.code)
            codes = self.lia.to_z(y, part.c) if direction.space == "z" else y
        found: Tensor = codes.double() @ direction.reader.double().to(codes.device) + direction.bias
        return found

    def _probable(self, part: Coded) -> list[float | None]:
        if self.lia.mapping is None or STYLES in part.kept or (self.lia.generator.c_dim and part.c is None):
            return [None] * len(part.code)
        found: list[float | None] = self.lia.prior_p(one_code(part.code), part.c).tolist()
        return found


def _attributes(judge: Scorer, x: Tensor, names: Sequence[str]) -> Tensor:
    """The scores [n, names] of attributes."""
    values = judge(x)
    if len(judge.names) == 1 == len(names):
        return values
    if len(judge.names) == 1:
        raise ConfigError(f"{judge.name} scores one attribute, which cannot be {' and '.join(names)}. Give one value to reach.")
    if wrong := [name for name in names if name not in judge.names]:
        raise ConfigError(f"{judge.name} scores {', '.join(judge.names[:20])}, and not {wrong[0]!r}. Rename the direction.")
    return values[:, [judge.names.index(name) for name in names]]


def _slopes(read: Callable[[Tensor], Tensor], amounts: Tensor, here: Tensor, step: float) -> Tensor:
    """Of what is read, `here` at these strengths [n, K], by each of them: [n, K, K], by differences."""
    axes = step * torch.eye(amounts.shape[1], dtype=amounts.dtype, device=amounts.device)
    return torch.stack([(read(amounts + axis) - here) / step for axis in axes], dim=2)


def _all_at_once(
    read: Callable[[Tensor], Tensor], wanted: Tensor, start: Tensor, step: float, farthest: float
) -> tuple[Tensor, Tensor]:
    """Strengths by which all values are as wanted: what one direction changes of the others' attributes counts (Newton).

    Args:
        read: Strengths [n, K] -> values [n, K].
        wanted: [K].
        start: Where to begin [n, K].
        step: Over which slopes are taken.
        farthest: Strengths are no larger.

    Returns:
        [n, K], those by which the worst is least wrong, and where all are right [n].
    """
    near = _MISSED * (wanted - read(torch.zeros_like(start))).abs() + 1e-4
    best, amounts, least = start, start, start.new_full([len(start)], math.inf)
    for i in range(_ROUNDS + 1):
        here = read(amounts)
        missed = ((here - wanted).abs() / near).amax(dim=1)
        better = missed < least  # not of NaN
        best, least = torch.where(better[:, None], amounts, best), torch.where(better, missed, least)
        if i == _ROUNDS or bool((least <= 1).all()):
            break
        gap, slopes = (
            of.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) for of in (wanted - here, _slopes(read, amounts, here, step))
        )
        way = (torch.linalg.pinv(slopes) @ gap[:, :, None])[:, :, 0]
        moved = (amounts + way.clamp(-farthest / 4, farthest / 4)).clamp(-farthest, farthest)
        amounts = torch.where((least <= 1)[:, None], best, moved)
    return best, (least <= 1).cpu()


def _reach(score: Callable[[Tensor], Tensor], value: float, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Strengths [n] of least size at which the score has the value, by halving; where there is none, the nearest tried.

    Where a score rises and falls between two strengths that were tried, both may be on one side of the value: so those that
    are not found are looked for once more, by smaller steps.
    """
    found, reached = _between(score, value, n, _TRIED[0], device)
    if not bool(reached.all()):
        finer, also = _between(score, value, n, _TRIED[1], device)
        found, reached = torch.where(reached, found, finer), reached | also
    return found, reached.cpu()


def _between(
    score: Callable[[Tensor], Tensor], value: float, n: int, step: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """See `_reach`: by one grid."""
    tried = torch.arange(-_FARTHEST, _FARTHEST + step, step, dtype=torch.float64, device=device)
    apart = torch.stack([score(strength.expand(n)) for strength in tried]) - value  # [tried, n]
    between = apart[:-1] * apart[1:] <= 0
    size = tried[:-1].abs().minimum(tried[1:].abs())[:, None].expand_as(between)
    first = size.masked_fill(~between, math.inf).argmin(dim=0)
    reached = between.any(dim=0)
    low, high = tried[first], tried[first + 1]
    below = apart.gather(0, first[None])[0]
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        here = score(middle) - value
        same = (here > 0) == (below > 0)
        low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    nearest = tried[apart.abs().nan_to_num(nan=math.inf).argmin(dim=0)]
    return torch.where(reached, (low + high) / 2, nearest), reached
