"""Inversion by optimisation: the code whose image is nearest to a given one, from any start (LIA, eq. 13).

By L-BFGS (Liu & Nocedal 1989) on many images at once, each with a curvature, a step length and an end of its own. What it is
not told it would have to learn in hundreds of steps: which of the directions of y move pixels. `search_coordinates` tells it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lia_adapter.generators import Generator, MappingSampler
from lia_adapter.metrics.recovery import pixel_spectrum
from lia_adapter.progress import Progress

__all__ = ["Inversion", "optimise", "paced_coordinates", "search_coordinates"]

_SPECTRUM_CODES = 32
_DAMPING = 1e-4  # of directions that hardly move pixels: their eigenvalue, as a share of the largest, counts as so much more
_MEMORY = 20  # pairs of steps and changes of the gradient that L-BFGS looks back at
_ENOUGH = 1e-4  # share of the loss that must be lower than it was ...
_LATELY = 10  # ... so many steps ago
_DECREASE = 1e-4  # of what the gradient promises, the least that a step must keep (Armijo 1966)
_SHORTEST, _LONGEST_CUT, _SHORTEST_CUT = 1e-4, 0.5, 0.1


@dataclass(frozen=True)
class Inversion:
    """Codes that were found for images.

    Attributes:
        ys: [N, num_ws, y_dim].
        z: [N, y_dim], float64: of the mean of ys over its layers.
        images: What the generator draws from ys [N, C, H, W].
        loss: Of each image [N].
        kept: What else it takes to draw the images, [N, …] each: see `redraw`.
    """

    ys: Tensor
    z: Tensor
    images: Tensor
    loss: Tensor
    kept: dict[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def joined(parts: "Sequence[Inversion]") -> "Inversion":
        """One of several, one image after the other."""
        ys, z, images, loss = (torch.cat([getattr(part, name) for part in parts]) for name in ("ys", "z", "images", "loss"))
        kept = {name: torch.cat([part.kept[name] for part in parts]) for name in parts[0].kept}
        return Inversion(ys, z, images, loss, kept)


def search_coordinates(
    generator: Generator, root: Tensor, *, seconds: float = math.inf, progress: Progress | None = None
) -> Tensor:
    """The matrix M [y_dim, y_dim] of coordinates a for a search in y = mean + a @ M.

    Whitened y is turned to the eigenvectors of E[JᵀJ] and scaled by the inverse root of their eigenvalues, so that the mean
    curvature of the squared error is that of a ball; but for directions that hardly move pixels, which would carry the code
    far from all usual ones for little gain.

    Args:
        generator: To search in.
        root: Root of the covariance of y [y_dim, y_dim].
        seconds: About how long it may take: see `pixel_spectrum`.
        progress: Is told what is done.
    """
    _, y, _ = MappingSampler(generator).pairs(_SPECTRUM_CODES, torch.Generator(root.device).manual_seed(0))
    return paced_coordinates(*pixel_spectrum(generator, y, root, seconds=seconds, progress=progress), root)


def paced_coordinates(values: Tensor, vectors: Tensor, root: Tensor) -> Tensor:
    """The matrix of `search_coordinates`, by a spectrum that is known: `pixel_spectrum`'s values and vectors for this root."""
    pace = (values.clamp(min=0) / values[0] + _DAMPING).rsqrt()
    # Contiguous, as it is when it was read from a file: products by another layout differ in the last bit.
    return (pace[:, None] * (vectors.t() @ root.double())).to(root).contiguous()


def optimise(
    losses: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    steps: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """L-BFGS on codes of many images at once; what one image gets does not depend on the others.

    Args:
        losses: Codes of the start's shape -> the loss of each image [N].
        start: Codes [N, …] in coordinates in which the loss is about as steep everywhere: see `search_coordinates`.
        steps: Number of steps, each one loss and one gradient; 0 only measures the start. The search ends before where no image
            has gained a ten-thousandth of its loss in ten steps.
        progress: Is told the steps done and to do.

    Returns:
        Of every image the best code seen [N, …] and its loss [N]: a start that is good already is never made worse.
    """
    here = start.detach().flatten(1)

    def measure(codes: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = codes.reshape(start.shape).requires_grad_(True)
            each = losses(leaf)
            (gradient,) = torch.autograd.grad(each.sum(), leaf)
        return each.detach(), gradient.flatten(1)

    if not steps:
        with torch.no_grad():
            return start.detach().clone(), losses(start.detach())
    loss, gradient = measure(here)
    curvature = _Curvature(gradient)
    direction, length = curvature.descent(gradient), torch.ones_like(loss)
    going, before = torch.ones_like(loss, dtype=torch.bool), [loss]
    for step in range(1, steps + 1):
        if progress:
            progress(step - 1, steps)
        there = here + (length * going)[:, None] * direction
        loss_there, gradient_there = measure(there)
        promised = length * (gradient * direction).sum(dim=1)
        taken = going & (loss_there <= loss + _DECREASE * promised)
        curvature.learn(taken, there - here, gradient_there - gradient)
        # Where the loss rose, to where the parabola through what is known is least; back from where it is no number, too.
        cut = torch.nan_to_num(-promised / (2 * (loss_there - loss - promised)), nan=_SHORTEST_CUT)
        length = torch.where(taken, torch.ones_like(length), length * cut.clamp(_SHORTEST_CUT, _LONGEST_CUT))
        here, gradient = (torch.where(taken[:, None], new, old) for new, old in ((there, here), (gradient_there, gradient)))
        loss = torch.where(taken, loss_there, loss)
        direction = torch.where(taken[:, None], curvature.descent(gradient), direction)
        before.append(loss)
        gained = before[max(0, len(before) - 1 - _LATELY)] - loss
        going &= (length >= _SHORTEST) & ((gained > _ENOUGH * loss) | (len(before) <= _LATELY))
        if not going.any():
            break
    if progress:
        progress(steps, steps)
    return here.reshape(start.shape), loss


class _Curvature:
    """What L-BFGS remembers of each image: its last steps and how they changed the gradient, [memory, N, D] each.

    Before the first step the curvature is such that this step is as long as one unit of the coordinates.
    """

    def __init__(self, gradient: Tensor) -> None:
        self.moved = gradient.new_zeros(_MEMORY, *gradient.shape)
        self.bent = torch.zeros_like(self.moved)
        self.weight = gradient.new_zeros(_MEMORY, len(gradient))  # 1 / (moved · bent); 0: nothing is remembered
        self.scale = 1 / gradient.norm(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)

    def learn(self, which: Tensor, moved: Tensor, bent: Tensor) -> None:
        """Remembers a step [N, D] of those images [N] whose loss curves upwards along it; the oldest is forgotten."""
        product = (moved * bent).sum(dim=1)
        which = which & (product > 1e-10 * moved.norm(dim=1) * bent.norm(dim=1))
        for name, newest in (("moved", moved), ("bent", bent), ("weight", 1 / product)):
            old = getattr(self, name)
            chosen = which.reshape(-1, *[1] * (newest.ndim - 1))
            setattr(self, name, torch.where(chosen, torch.cat([newest[None], old[:-1]]), old))
        self.scale = torch.where(which, product / bent.square().sum(dim=1), self.scale)

    def descent(self, gradient: Tensor) -> Tensor:
        """The direction of the next step [N, D]: minus the inverse curvature times the gradient (the two loops)."""
        rest, shares = gradient, []
        for moved, bent, weight in zip(self.moved, self.bent, self.weight, strict=True):
            shares.append(weight * (moved * rest).sum(dim=1))
            rest = rest - shares[-1][:, None] * bent
        answer: Tensor = self.scale[:, None] * rest
        for moved, bent, weight, share in reversed(list(zip(self.moved, self.bent, self.weight, shares, strict=True))):
            answer = answer + (share - weight * (bent * answer).sum(dim=1))[:, None] * moved
        return -answer
