"""Bootstrap intervals of means over the same images, and of their differences (Efron 1979; Hesterberg 2015)."""

import math
from statistics import NormalDist

import torch
from torch import Tensor

__all__ = ["LEAST", "bootstrap_means", "share_outside"]

LEAST = 5
"""Images below which the bootstrap says nothing of the spread."""

_RESAMPLES = 10_000
_PART = 2**22  # counts at once


def bootstrap_means(values: Tensor, *, resamples: int = _RESAMPLES, seed: int = 0) -> Tensor | None:
    """95 % intervals of the means of several columns, all by the same draws, so that differences may stand among the columns.

    Percentiles of resampled means, further out where images are few, as Student's t is (Hesterberg 2015, sec. 5.3): the bare
    percentiles of 10 images cover 90 %.

    Args:
        values: [N, K], K figures of each of N images.
        resamples: How often N images are drawn with replacement.
        seed: Of the draws.

    Returns:
        Low and high [2, K], float64; NaN for columns with values that are not finite; None of fewer than `LEAST` images.
    """
    n = len(values)
    if n < LEAST:
        return None
    values = values.double().cpu()
    middle = values.mean(dim=0)  # apart from which equal values give an interval without width
    values = values - middle
    random, means = torch.Generator().manual_seed(seed), []
    for first in range(0, resamples, part := max(1, _PART // n)):
        drawn = torch.randint(n, [min(part, resamples - first), n], generator=random)
        one = torch.ones(1, dtype=torch.float64).expand_as(drawn)
        counts = torch.zeros(drawn.shape, dtype=torch.float64).scatter_add_(1, drawn, one)
        means.append(counts @ values / n)
    tail = share_outside(n)
    return middle + torch.cat(means).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64), dim=0)


def share_outside(n: int) -> float:
    """How much of the resampled means of n values lies outside the 95 % interval on either side; 0.025 of many.

    >>> round(share_outside(10), 4), round(share_outside(10_000), 4)
    (0.0086, 0.025)
    """
    normal, v = NormalDist(), n - 1
    z = normal.inv_cdf(0.975)
    # Student's quantile by that of the normal distribution (Cornish & Fisher; Abramowitz & Stegun 26.7.5).
    t = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    return normal.cdf(-math.sqrt(n / v) * t)
