"""One ladder over the methods: each rung begins where the last one ended, and costs more and gains more."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from lia_adapter.encoder import one_code
from lia_adapter.inversion.drawing import SHIFT, Stage
from lia_adapter.inversion.feature_map import feature_map
from lia_adapter.inversion.optimise import Inversion
from lia_adapter.inversion.problem import Problem
from lia_adapter.inversion.search import searched
from lia_adapter.inversion.tune import tune_from
from lia_adapter.metrics.typicality import z_size

__all__ = ["LADDER", "LOSSES", "RUNG", "ladder"]

LADDER: dict[str, tuple[tuple[str, float], ...]] = {
    "draft": (("y", 1.0),),
    "good": (("y", 0.4), ("ys", 0.3), ("features", 0.3)),
    "best": (("y", 0.3), ("ys", 0.3), ("tune", 0.4)),
}
"""The rungs above the start, by quality, and their shares of the steps."""
RUNG, LOSSES = "rung", "rung_loss"
"""Names of what is kept of each image: the rung that it ended on (0: the start) [N], and the loss after each [N, rungs + 1]."""
_FAR = 2.0  # size of z from which on a code has left the domain, unless it was there before


def ladder(problem: Problem) -> Inversion:
    """Climbs as high as the quality says, and of each image no higher than its code stays one that the prior has.

    A rung counts where it lowers the loss, and where the z of its code (the mean of the layers' for ys) has at most twice the
    usual size |z|² / D, or no more than before. `faithful` takes every rung that lowers the loss.
    """
    here = problem.answer(problem.first)
    losses, rung = [here.loss], torch.zeros(len(problem.x), device=problem.x.device)
    before = 0
    for i, (name, share) in enumerate(LADDER[problem.quality], start=1):
        steps = round(share * problem.steps) if i < len(LADDER[problem.quality]) else problem.steps - before
        task = replace(problem, first=here.ys, rate=None, steps=steps, progress=problem.part(before))
        found = _RUNGS[name](task)
        size, last = z_size(found.z), z_size(here.z)
        inside = (size <= _FAR) | (size <= last) if not problem.faithful else torch.ones_like(size, dtype=torch.bool)
        taken = (found.loss < here.loss) & inside.to(found.loss.device)
        here = _chosen(problem, taken, found, here)
        losses.append(torch.where(taken, found.loss, losses[-1]))
        rung = torch.where(taken, torch.full_like(rung, i), rung)
        before += steps
    here.kept.update({RUNG: rung, LOSSES: torch.stack(losses, dim=1)})
    return here


def _chosen(problem: Problem, taken: Tensor, found: Inversion, here: Inversion) -> Inversion:
    """Of each image what was found or what was there; to keep nothing is to add nothing."""

    def pick(name: str) -> Tensor:
        a, b = found.kept.get(name), here.kept.get(name)
        like = a if a is not None else b
        assert like is not None  # noqa: S101  (it is a name of one of them)
        a, b = (torch.zeros_like(like) if value is None else value for value in (a, b))
        return torch.where(taken.reshape(-1, *[1] * (like.ndim - 1)), a, b)

    ys = torch.where(taken[:, None, None], found.ys, here.ys)
    kept = {name: pick(name) for name in found.kept | here.kept}
    return problem.answer(ys, kept, Stage(problem.generator) if SHIFT in kept else None)


def _in_y(task: Problem) -> Inversion:
    return searched(replace(task, first=one_code(task.first)))


_RUNGS: Mapping[str, Callable[[Problem], Inversion]] = {
    "y": _in_y,
    "ys": searched,
    "features": feature_map,
    "tune": tune_from,
}
