"""Inversion by optimisation: the code whose image is nearest to a given one, from any start (LIA, eq. 13)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lia_adapter.generators import Generator, MappingSampler
from lia_adapter.inversion.descend import descend, warm_and_cool
from lia_adapter.inversion.loss import ReconstructionLoss
from lia_adapter.metrics.recovery import pixel_spectrum
from lia_adapter.progress import Progress

__all__ = ["Y_RATE", "Inversion", "optimise", "paced_coordinates", "search_coordinates"]

Y_RATE = 0.8
"""Rate for `optimise` in the coordinates of `search_coordinates`."""
_SPECTRUM_CODES = 32
_PACE, _LEAST = 0.25, 1e-6  # exponent, and the least eigenvalue as a share of the largest


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

    Whitened y is turned to the eigenvectors of E[JᵀJ], so that Adam, which scales each entry by itself, can tell directions
    that move pixels from those that hardly do; and the latter are slowed down, to the fourth root of their eigenvalue: at
    full pace they would carry the code far from all usual ones for little gain.

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
    pace = (values / values[0]).clamp(min=_LEAST) ** _PACE
    # Contiguous, as it is when it was read from a file: products by another layout differ in the last bit.
    return (pace[:, None] * (vectors.t() @ root.double())).to(root).contiguous()


def optimise(
    draw: Callable[[Tensor], Tensor],
    start: Tensor,
    x: Tensor,
    loss: ReconstructionLoss,
    *,
    steps: int,
    rate: float = 0.1,
    penalty: Callable[[Tensor], Tensor] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Adam on codes of many images at once; what one image gets does not depend on the others.

    Args:
        draw: Codes of the start's shape -> images [N, C, H, W].
        start: Codes [N, …] in coordinates that should move at about the same pace: see `search_coordinates`.
        x: The images wanted [N, C, H, W].
        loss: What is minimised.
        steps: Number of steps; 0 only measures the start.
        rate: Of Adam, at its peak.
        penalty: Codes of the start's shape -> what is added to the loss [N].
        progress: Is told the steps done and to do.

    Returns:
        Of every image the best code seen [N, …] and its loss [N]: a start that is good already is never made worse.
    """

    def losses(found: Mapping[str, Tensor], step: int) -> Tensor:
        codes = found["codes"]
        total = loss(draw(codes), x)
        return total + penalty(codes) if penalty else total

    best, least = descend({"codes": start}, losses, steps=steps, rate=rate, schedule=warm_and_cool, progress=progress)
    return best["codes"], least
