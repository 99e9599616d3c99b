"""Steerability (Jahanian 2020): directions that make a given change of the picture, as well as one direction can."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lia_adapter.budget import in_parts
from lia_adapter.editing.changes import LARGEST, SPATIAL, changed
from lia_adapter.editing.directions import Direction
from lia_adapter.editing.moves import Moves
from lia_adapter.editing.task import Task
from lia_adapter.errors import ConfigError
from lia_adapter.loop import Microbatch

__all__ = ["PRICE", "check_wanted", "direction_of_change", "share_explained", "steer"]

_SMALLEST = 0.1  # of the largest change: nothing is learnt from less
PRICE = 1e-3  # share of the error that a step of one standard deviation must be worth
_GAIN = 20.0  # of what is trained, which is of the size of a network's weights: codes go some standard deviations
_CODES = 64  # fresh ones that tell how well it works


class _Walk(nn.Module):
    """How far codes go for the largest of each change [changes, D], in white coordinates."""

    def __init__(self, changes: int, dim: int) -> None:
        super().__init__()
        self.scaled = nn.Parameter(torch.zeros(changes, dim))

    def forward(self) -> Tensor:
        """[changes, D]."""
        return _GAIN * self.scaled


def steer(task: Task) -> list[Direction]:
    """Minimises |G(y + αw) - edit(G(y), α)|² over w, where the edit is known (eq. 1), for all changes at once.

    Errors are shares of what is to be changed, so that all changes count alike. In white coordinates, with a small price on
    steps: among directions that draw the same, it is the shortest.

    The paper's walk in small non-linear steps is left out: a direction is one vector, and of those this one is the best there
    is by the same error.

    Args:
        task: `changes`.

    Returns:
        "explained": share of the squared error between picture and edit that goes when the code moves, on fresh codes;
        "steps": how many steps make the largest change, "largest": what that is.

    Raises:
        ConfigError: No change is wanted, or the pictures have no colours.
        LIAError: No layer that moves is seen.
    """
    config, names = task.config, check_wanted(task)
    with Moves.of(task) as moves:
        walk = _Walk(len(names), task.generator.y_dim).to(moves.device)

        def step(part: Microbatch) -> dict[str, Tensor]:
            random, rows = moves.random(part.step), [n % config.batch for n in part.numbers]
            y, amounts = moves.codes(config.batch, random)[rows], _amounts(moves, config.batch, random)[rows]
            which = torch.tensor([n % len(names) for n in part.numbers], device=moves.device)  # they take turns
            u = walk()
            left, whole = _errors(moves, y, amounts, [names[k] for k in which.tolist()], u[which])
            shares = torch.stack([left[which == k].sum() / whole[which == k].sum().clamp(min=1e-8) for k in which.unique()])
            return {"loss": shares.mean() + PRICE * u.square().sum() / len(names), "left": shares.mean()}

        moves.train(walk, step)
        return [direction_of_change(moves, name, u, {}) for name, u in zip(names, walk(), strict=True)]


def check_wanted(task: Task) -> list[str]:
    """The changes that are wanted.

    Raises:
        ConfigError: There is none, one twice, or one that these pictures cannot have.
    """
    names, channels = task.config.wanted, task.generator.channels
    if not names:
        raise ConfigError(f"changes is empty; expected some of {', '.join(LARGEST)}.")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"changes has {twice} twice; once will do.")
    if channels < 3 and (colours := [name for name in names if name in ("red", "green", "blue")]):
        able = ", ".join([*SPATIAL, "brightness"])
        raise ConfigError(f"changes has {colours[0]}, and these pictures are grey. Use changes={able.replace(' ', '')}.")
    return names


def _amounts(moves: Moves, n: int, random: torch.Generator) -> Tensor:
    drawn = 2 * torch.rand(n, generator=random, device=moves.device) - 1
    return torch.where(drawn < 0, -1.0, 1.0) * (_SMALLEST + (1 - _SMALLEST) * drawn.abs())


def _errors(moves: Moves, y: Tensor, amounts: Tensor, names: list[str], u: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared errors to the edited pictures where they are known, [N] each: of moved codes, and of the codes as they are.

    Args:
        moves: Draws them.
        y: Codes [N, D].
        amounts: Of their changes [N].
        names: Of their changes, N.
        u: Where the largest ones take them [N, D].
    """
    with torch.no_grad():
        x = moves.pictures(y)
        edits = [changed(x[i : i + 1], name, amounts[i : i + 1]) for i, name in enumerate(names)]
        target, known = (torch.cat(parts) for parts in zip(*edits, strict=True))
        weight = known / (known.flatten(1).sum(dim=1)[:, None, None, None] * x.shape[1]).clamp(min=1)
        whole = ((x - target).square() * weight).flatten(1).sum(dim=1)
    left = ((moves.pictures(y, amounts.to(u)[:, None] * u) - target).square() * weight).flatten(1).sum(dim=1)
    return left, whole


@torch.no_grad()
def share_explained(moves: Moves, name: str, u: Tensor) -> float:
    """Share of the squared error between pictures and edits that goes when codes move, on fresh codes; 1 is all.

    Args:
        moves: Draws them.
        name: Of the change.
        u: Where its largest takes codes, in white coordinates [D].
    """
    random = moves.fresh()
    y, amounts = moves.codes(_CODES, random), _amounts(moves, _CODES, random)

    def part(rows: range) -> Tensor:
        chosen = slice(rows.start, rows.stop)
        n = len(rows)
        return torch.stack(_errors(moves, y[chosen], amounts[chosen], [name] * n, u.expand(n, -1)))

    left, whole = torch.cat(list(in_parts(part, range(_CODES), moves.at_once)), dim=1).double().sum(dim=1).tolist()
    return float(1 - left / max(whole, 1e-12))


def direction_of_change(moves: Moves, name: str, u: Tensor, about: Mapping[str, float]) -> Direction:
    """A direction, towards more of a change.

    Args:
        moves: Of the task.
        name: Of the change.
        u: Where its largest takes codes, in white coordinates [D].
        about: What is known of it beside how well it works.
    """
    space, config = moves.task.space, moves.task.config
    v = space.coloured(u)
    step = space.step(v)
    steps = float(v.norm() / step.norm())
    told = {"explained": share_explained(moves, name, u), "steps": steps, "largest": LARGEST[name], **about}
    return Direction(name, "y", step, config.method, config.layers, about=told)
