"""Adam on whatever draws images: codes, noise images, feature maps; what one image gets does not depend on the others."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

__all__ = ["constant", "descend", "projector_ramps", "warm_and_cool"]

_WARM_UP, _COOL_DOWN = 0.05, 0.25  # shares of the steps (Karras 2020, app. D)


def constant(step: int, steps: int) -> float:
    """The whole rate, always."""
    return 1.0


def warm_and_cool(step: int, steps: int) -> float:
    """Up in the first twentieth of the steps and down in the last quarter, straight."""
    done = step / steps
    return min(1.0, (done + 1 / steps) / _WARM_UP, (1 - done) / _COOL_DOWN)


def projector_ramps(step: int, steps: int) -> float:
    """The same with half a cosine on the way down (Karras 2020, app. D)."""
    done = step / steps
    down = min(1.0, (1 - done) / _COOL_DOWN)
    return (0.5 - 0.5 * math.cos(down * math.pi)) * min(1.0, done / _WARM_UP)


def descend(
    start: Mapping[str, Tensor],
    losses: Callable[[Mapping[str, Tensor], int], Tensor],
    *,
    steps: int,
    rate: float | Mapping[str, float],
    schedule: Callable[[int, int], float],
    betas: tuple[float, float] = (0.9, 0.99),
    after: Callable[[Mapping[str, Tensor]], None] | None = None,
    keep: str = "best",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Minimises the loss of each image by variables of its own.

    Args:
        start: The variables by name, each [N, …].
        losses: The variables and the number of the step -> the loss of each image [N].
        steps: Number of steps; 0 only measures the start.
        rate: Of Adam, at its peak; of all variables, or of each.
        schedule: Number of the step, and of all -> what the rate is multiplied with.
        betas: Of Adam.
        after: Is called with the variables after each step, to bring them back to where they may be; in place.
        keep: best: of each image what had the smallest loss, so that a good start is never made worse; last: where the steps
            end, for losses with noise in them.
        progress: Is told the steps done and to do.

    Returns:
        The variables, and the loss of each image [N].
    """
    found = {name: value.detach().clone().requires_grad_(True) for name, value in start.items()}
    count = len(next(iter(found.values())))
    best = {name: value.detach().clone() for name, value in found.items()}
    least = torch.full((count,), torch.inf, device=next(iter(found.values())).device)
    rates = {name: rate if isinstance(rate, float) else rate[name] for name in found}
    adam = torch.optim.Adam([{"params": [value], "lr": rates[name]} for name, value in found.items()], betas=betas)
    for step in range(steps + 1):
        with torch.enable_grad():
            each = losses(found, step)
            total = each.sum()
        now = each.detach().to(least)
        better = now < least if keep == "best" else torch.ones_like(now, dtype=torch.bool)
        least = torch.where(better, now, least)
        for name, value in best.items():
            value[better] = found[name].detach()[better]
        if progress:
            progress(step, steps)
        if step == steps:
            break
        factor = schedule(step, steps)
        for group, name in zip(adam.param_groups, found, strict=True):
            group["lr"] = rates[name] * factor
        gradients = torch.autograd.grad(total, list(found.values()))  # of nothing else, whatever weights would take one
        for value, gradient in zip(found.values(), gradients, strict=True):
            value.grad = gradient
        adam.step()
        if after:
            with torch.no_grad():
                after(found)
    return best, least
