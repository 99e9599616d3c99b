"""The search for the codes of images, in each of the spaces that there are."""

from collections.abc import Callable

import torch
from torch import Tensor

from lia_adapter.encoder import one_code
from lia_adapter.generators import Generator, broadcast
from lia_adapter.inversion.loss import ReconstructionLoss, prior_loss, size_loss
from lia_adapter.inversion.optimise import Inversion, optimise
from lia_adapter.inversion.problem import Problem
from lia_adapter.mapping import InvertibleMapping

__all__ = ["search", "searched"]


def search(
    generator: Generator,
    mapping: InvertibleMapping,
    first: Tensor,
    x: Tensor,
    c: Tensor | None,
    loss: ReconstructionLoss,
    *,
    coordinates: Tensor | None,
    steps: int,
    prior_weight: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> Inversion:
    """Optimises codes, as many as there is memory for.

    Args:
        generator: Draws them.
        mapping: Gives them a z.
        first: What to begin with: y [N, y_dim], ys [N, num_ws, y_dim], or z [N, y_dim] where there are no coordinates.
        x: The images wanted [N, C, H, W] in [-1, 1].
        c: Labels [N, c_dim] of a conditional generator.
        loss: What is minimised.
        coordinates: The matrix [y_dim, y_dim] of those to search y or ys in; None: the search is in z.
        steps: See `optimise`.
        prior_weight: Of `prior_loss`, or in z of `size_loss`, which is added to the loss; 0: none.
        progress: See `optimise`.
    """

    def to_y(codes: Tensor) -> Tensor:
        """Coordinates, which are 0 at the start, or z -> y or ys."""
        return mapping.to_y(codes, c) if coordinates is None else first + codes @ coordinates

    with torch.no_grad():
        towards = loss.towards(x)

    def losses(codes: Tensor) -> Tensor:
        total = towards(generator.synthesis(broadcast(to_y(codes), generator.num_ws)))
        if not prior_weight:
            return total
        return total + prior_weight * (size_loss(codes) if coordinates is None else prior_loss(mapping, to_y(codes), c))

    found, least = optimise(losses, first if coordinates is None else torch.zeros_like(first), steps=steps, progress=progress)
    ys = broadcast(to_y(found), generator.num_ws).contiguous()
    return Inversion(ys, mapping.to_z(one_code(ys), c), generator.synthesis(ys), least.to(x))


def searched(problem: Problem) -> Inversion:
    """The search of a problem, in y or ys as its first codes are. Its loss is that of the images, without the prior's part."""
    own = torch.eye(problem.generator.y_dim).to(problem.x) if problem.coordinates is None else problem.coordinates
    found = search(
        problem.generator, problem.mapping, problem.first, problem.x, problem.c, problem.loss,
        coordinates=own, steps=problem.steps, prior_weight=problem.prior_weight, progress=problem.progress,
    )  # fmt: skip
    return problem.answer(found.ys)
