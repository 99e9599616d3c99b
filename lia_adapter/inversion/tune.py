"""Pivotal tuning (Roich 2022): a code, and then the generator's weights for one image, kept as differences of low rank."""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from lia_adapter.generators import Generator, MappingSampler, broadcast
from lia_adapter.inversion.descend import constant, descend
from lia_adapter.inversion.drawing import WEIGHTS, drawing_weights, tuned_weights, with_weights
from lia_adapter.inversion.optimise import Inversion
from lia_adapter.inversion.problem import Problem
from lia_adapter.inversion.search import searched

__all__ = ["tune", "tune_from"]

_RANK = 8
_RATE = 3e-3
_CODE_SHARE = 0.2  # of the steps, for the pivot
_LOCALITY_EVERY, _LOCALITY_WEIGHT, _NEAR = 4, 0.1, 30.0  # Roich 2022, sec. 3.3: alpha is a distance in y


def tune(problem: Problem) -> Inversion:
    """ys for a fifth of the steps, then W + a @ b for every convolution and dense layer of synthesis, image by image.

    Pairs of rank 8 instead of whole weights are 0.5 to 4 % of them: they lie in the file of codes, and no other code sees them.
    Every fourth step the images of codes on the way to random ones are held where the untuned weights draw them (locality).
    """
    first = int(_CODE_SHARE * problem.steps)
    pivot = searched(replace(problem, steps=first, progress=problem.part(0)))
    return tune_from(replace(problem, first=pivot.ys, steps=problem.steps - first, progress=problem.part(first)))


def tune_from(problem: Problem) -> Inversion:
    """The weights alone: the codes are those of the problem."""
    kept = [_tuned(problem, i) for i in range(len(problem.x))]
    return problem.answer(problem.first, {name: torch.stack([one[name] for one in kept]) for name in kept[0]})


def _tuned(problem: Problem, i: int) -> dict[str, Tensor]:
    """The pairs of one image."""
    generator, x, ys, random = problem.generator, problem.x[i : i + 1], problem.first[i : i + 1], problem.randoms()[i]
    steps, tell, towards = problem.steps, problem.progress, problem.loss.towards(x)
    start = _pairs(generator, random)

    def losses(found: Mapping[str, Tensor], step: int) -> Tensor:
        pairs = {name: value[0] for name, value in found.items()}
        with with_weights(generator, tuned_weights(generator, pairs)):
            loss = towards(generator.synthesis(ys))
            if step % _LOCALITY_EVERY:
                return loss
            near = _near(problem, ys, random)
            drawn = generator.synthesis(near)
        with torch.no_grad():
            held = generator.synthesis(near)
        return loss + _LOCALITY_WEIGHT * _LOCALITY_EVERY * problem.loss(drawn, held)

    def told(step: int, _: int) -> None:
        if tell is not None:
            tell((i * steps + step) // len(problem.x), steps)

    found, _ = descend(start, losses, steps=steps, rate=problem.rate or _RATE, schedule=constant, keep="last", progress=told)
    return {name: value[0] for name, value in found.items()}


def _pairs(generator: Generator, random: torch.Generator) -> dict[str, Tensor]:
    """a of normal numbers and b of zeros for each weight of synthesis that is a matrix or a kernel: nothing is changed yet."""
    found: dict[str, Tensor] = {}
    for name, weight in drawing_weights(generator).items():
        if weight.ndim not in (2, 4):
            continue
        out, fan_in = weight.shape[0], weight[0].numel()
        rank = min(_RANK, out, fan_in)
        size = float(weight.detach().std()) or 1.0
        a = torch.randn(1, out, rank, generator=random, device=weight.device) * size / math.sqrt(rank)
        found[f"{WEIGHTS}{name}.a"] = a
        found[f"{WEIGHTS}{name}.b"] = torch.zeros(1, rank, fan_in, device=weight.device)
    return found


@torch.no_grad()
def _near(problem: Problem, ys: Tensor, random: torch.Generator) -> Tensor:
    """A code at a distance of 30 from ys, or at a random one where that is nearer, towards a random one of the mapping."""
    _, y, _ = MappingSampler(problem.generator).pairs(1, random)
    towards = broadcast(y, problem.generator.num_ws) - ys
    distance = towards.flatten(1).norm(dim=1)
    return ys + towards * min(1.0, _NEAR / float(distance))
