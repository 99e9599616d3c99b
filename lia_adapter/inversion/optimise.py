"""Inversion by optimisation: the code whose image is nearest to a given one, from any start (LIA, eq. 13)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lia_adapter.inversion.loss import ReconstructionLoss

__all__ = ["Inversion", "optimise"]

_RATE = 0.1  # of Adam, in standard deviations of the code
_WARM_UP, _COOL_DOWN = 0.05, 0.25  # shares of the steps (Karras 2020, app. D)


@dataclass(frozen=True)
class Inversion:
    """Codes that were found for images.

    Attributes:
        ys: [N, num_ws, y_dim].
        z: [N, y_dim], float64: of the mean of ys over its layers.
        images: What the generator draws from ys [N, C, H, W].
        loss: Of each image [N].
    """

    ys: Tensor
    z: Tensor
    images: Tensor
    loss: Tensor


def optimise(
    draw: Callable[[Tensor], Tensor],
    start: Tensor,
    x: Tensor,
    loss: ReconstructionLoss,
    *,
    steps: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Adam on codes of many images at once; what one image gets does not depend on the others.

    Args:
        draw: Codes of the start's shape -> images [N, C, H, W].
        start: Codes in a space whose entries have a spread of about 1 (whitened y, or z), [N, …].
        x: The images wanted [N, C, H, W].
        loss: What is minimised.
        steps: Number of steps; 0 only measures the start.
        progress: Is told the steps done and to do.

    Returns:
        Of every image the best code seen [N, …] and its loss [N]: a start that is good already is never made worse.
    """
    codes = start.detach().clone().requires_grad_(True)
    best, least = codes.detach().clone(), torch.full((len(x),), torch.inf, device=x.device)
    adam = torch.optim.Adam([codes], lr=_RATE, betas=(0.9, 0.99))
    for step in range(steps + 1):
        with torch.enable_grad():
            losses = loss(draw(codes), x)
            total = losses.sum()
        found = losses.detach().to(least)
        better = found < least
        least = torch.where(better, found, least)
        best[better] = codes.detach()[better]
        if progress:
            progress(step, steps)
        if step == steps:
            break
        done = step / steps
        adam.param_groups[0]["lr"] = _RATE * min(1.0, (done + 1 / steps) / _WARM_UP, (1 - done) / _COOL_DOWN)
        adam.zero_grad()
        total.backward()
        adam.step()
    return best, least
