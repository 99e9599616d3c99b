"""Steerability in closed form (Spingarn-Eliezer 2021): from how small pictures change around some codes, without training."""

import torch
from torch import Tensor

from lia_adapter.budget import in_parts
from lia_adapter.direction_keys import CHANGES
from lia_adapter.editing.changes import SPATIAL, changed
from lia_adapter.editing.directions import Direction
from lia_adapter.editing.moves import Moves
from lia_adapter.editing.steer import PRICE, check_wanted, direction_of_change
from lia_adapter.editing.task import Task
from lia_adapter.errors import ConfigError

__all__ = ["steer_closed"]

_CODES = 8  # that the equations are added up over
_SIDE = 32  # pixels a side of what they are of, at most
_STEP = 0.25  # of differences, in standard deviations
_AMOUNT = 0.5  # of the largest change: an eighth of the picture, a pixel of an 8x8 map


@torch.no_grad()
def steer_closed(task: Task) -> list[Direction]:
    """Solves q = (WᵀDᵀDW + r)⁻¹ WᵀDᵀ(P - D)b (eq. 6): the step that changes a map most as a change of its places would.

    In the paper the map is the first layer's, W its weights and b its bias. A StyleGAN's first map is a constant, and y comes
    in by the styles of all layers behind it: no map is an affine function of y, and each is near one around a code. Here the
    map is the picture, drawn small, b that of a code and W its derivative there, by differences; the equations of some codes
    are added up. P moves places, there and back, D leaves out what comes from outside, and r is the price of `steer`. Of a
    StyleGAN2 of 32² faces this explains 0.22 of zoom and 0.14 of rotate; with an early feature map in place of the picture it
    was 0.10 and 0.01, whatever the ridge.

    Args:
        task: `changes`, those that move places; where the config names all that there are, those of them.

    Returns:
        As `steer`; "explained_if_linear": the same share, if the pictures were what the equations take them for.

    Raises:
        ConfigError: Another change is wanted.
        LIAError: No layer that moves is seen.
    """
    names = [name for name in task.config.wanted if name in SPATIAL] if task.config.wanted == [*CHANGES] else check_wanted(task)
    if other := next((name for name in names if name not in SPATIAL), None):
        raise ConfigError(f"changes has {other}, which moves no places; steer-closed can do {', '.join(SPATIAL)}. Use steer.")
    with Moves.of(task, _SIDE) as moves:
        dim = task.generator.y_dim
        codes = moves.codes(_CODES, moves.random(0))
        square = torch.zeros(len(names), dim, dim, dtype=torch.float64, device=moves.device)
        slope, whole = square.new_zeros(len(names), dim), square.new_zeros(len(names))
        for i, y in enumerate(codes.split(1)):
            here, derivative = moves.pictures(y), _derivative(moves, y)  # [1, C, h, w], [D, C, h, w]
            for k, name in enumerate(names):
                there, known = changed(here, name, here.new_tensor([_AMOUNT]))
                back, known_back = changed(here, name, here.new_tensor([-_AMOUNT]))
                both = known * known_back
                wanted, rows = ((there - back) / 2 * both).flatten(), (derivative * both).flatten(1)
                square[k] += (rows @ rows.t()).double()
                slope[k] += (rows @ wanted).double()
                whole[k] += wanted.double().square().sum()
            if task.progress:
                task.progress("derivatives", i + 1, _CODES)
    found = []
    with Moves.of(task) as moves:
        for name, a, b, c in zip(names, square, slope, whole, strict=True):
            q = torch.linalg.solve(a + PRICE / _AMOUNT**2 * c * torch.eye(dim).to(a), b)
            about = {"explained_if_linear": float(1 - (c - 2 * q @ b + q @ a @ q) / c)}
            found.append(direction_of_change(moves, name, q / _AMOUNT, about))
    return found


def _derivative(moves: Moves, y: Tensor) -> Tensor:
    """Of the picture of one code [1, D] by white coordinates: [D, C, h, w]."""
    axes = _STEP * torch.eye(y.shape[1], device=y.device)

    def part(u: Tensor) -> Tensor:
        codes = y.expand(len(u), -1)
        return (moves.pictures(codes, u) - moves.pictures(codes, -u)) / (2 * _STEP)

    return torch.cat(list(in_parts(part, axes, moves.at_once)))
