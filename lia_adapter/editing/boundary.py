"""InterFaceGAN (Shen 2020): the linear boundary between the extremes of an attribute."""

import torch
from torch import Tensor

from lia_adapter.editing.directions import Direction
from lia_adapter.editing.regress import examples_of, known
from lia_adapter.editing.task import Task
from lia_adapter.errors import LIAError

__all__ = ["boundary", "separate"]

_TRAINED = 0.7  # of the extremes; the rest tells how well they are told apart
_DECAYS = tuple(10.0**k for k in range(-4, 2))
_ROUNDS, _SHORTEST = 50, 1e-6
_LEAST_AN_END = 10
_LEAST_A_SIDE = 500  # of the images, where there are so many


def boundary(task: Task) -> list[Direction]:
    """A direction for each attribute: the normal of a support vector machine's plane between the `share` at either end.

    How wide its margin is, the 30 % of the extremes decide that it is not trained on.

    In white coordinates, where no direction counts more because codes spread more along it. Attributes of two values are split
    between them.

    Args:
        task: With examples of at least 50 images for each attribute.

    Returns:
        In the order of the attributes; "accuracy" is that on the 30 % of the extremes that were not trained on.

    Raises:
        LIAError: An attribute that hardly any image has or lacks, or that is the same in all.
    """
    examples, space, config = examples_of(task), task.space, task.config
    found = []
    for name, values in zip(examples.names, examples.values.t(), strict=True):
        codes, wanted = known(name, examples.codes, values)
        low, high = _extremes(wanted, config.share)
        if len(low) < _LEAST_AN_END:  # or one of the two may be wholly in what is trained on, or in the rest
            raise LIAError(
                f"{name!r} has {len(low)} images at an end; expected at least {_LEAST_AN_END} of either. Give more images."
            )
        random = torch.Generator().manual_seed(config.seed)
        rows = torch.cat([low, high])
        rows = rows[torch.randperm(len(rows), generator=random).to(rows.device)]
        white = space.white(codes[rows] - space.mean.to(codes))
        above = torch.isin(rows, high)
        n = round(len(rows) * _TRAINED)
        planes = [separate(white[:n], above[:n], decay) for decay in _DECAYS]
        signs = above[n:].double() * 2 - 1
        wrong = [float((1 - signs * (white[n:] @ w + b)).clamp(min=0).square().mean()) for w, b in planes]
        w, bias = planes[wrong.index(min(wrong))]
        size = float(w.norm())
        accuracy = float((signs * (white[n:] @ w + bias) > 0).double().mean())
        about = {"accuracy": accuracy, "images": len(rows)}
        # Read in standard deviations from the boundary.
        found.append(task.attribute(name, w / size, about, bias=bias / size))
    return found


def _extremes(values: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Numbers of the images at either end: of two values all, else a share, and no fewer than 500 while there are so many."""
    if len(values.unique()) == 2:
        low, high = ((values == end).nonzero()[:, 0] for end in (values.min(), values.max()))
        n = min(len(low), len(high))
        return low[:n], high[:n]  # as many of either: what is common is not the better answer
    n = min(max(round(len(values) * share), _LEAST_A_SIDE), len(values) // 2)
    order = values.argsort(stable=True)
    low, high = order[:n], order[-n:]
    if values[low[-1]] == (middle := values[high[0]]):  # one value fills both: it is of neither end
        low, high = low[values[low] < middle], high[values[high] > middle]
        n = min(len(low), len(high))
    return low[:n], high[len(high) - n :]


def separate(u: Tensor, above: Tensor, decay: float) -> tuple[Tensor, float]:
    """A linear support vector machine with squared hinges: min decay/2 |w|² + mean of max(0, 1 - s(u·w + b))², s = ±1.

    Args:
        u: [N, D], float64.
        above: Which are above [N], bool.
        decay: How much a small w counts, that is a wide margin.

    Returns:
        w [D] and b.
    """
    signs = above.double() * 2 - 1
    a = torch.cat([u, u.new_ones(len(u), 1)], dim=1)
    theta = a.new_zeros(a.shape[1])
    kept = decay * torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
    kept[-1, -1] = 1e-8  # the threshold is free

    def loss(theta: Tensor) -> Tensor:
        hinge = (1 - signs * (a @ theta)).clamp(min=0)
        return 0.5 * theta @ kept @ theta + hinge.square().mean()

    for _ in range(_ROUNDS):  # Newton on the images within the margin (Keerthi & DeCoste 2005)
        b, s = a[signs * (a @ theta) < 1], signs[signs * (a @ theta) < 1]
        gradient = kept @ theta + 2 / len(a) * b.t() @ (b @ theta - s)
        step = torch.linalg.solve(kept + 2 / len(a) * b.t() @ b, gradient)
        size, here, slope = 1.0, loss(theta), gradient @ step
        while size > _SHORTEST and loss(theta - size * step) > here - 0.1 * size * slope:
            size /= 2
        theta = theta - size * step
        if float(slope) < 1e-14:
            break
    return theta[:-1], float(theta[-1])
