"""How far a figure can be trusted: intervals by the jackknife, and of a mean."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["jackknife", "mean_interval"]

_BLOCKS = 10
_STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)  # 97.5 % quantiles for 1 to 9 degrees of freedom


def jackknife(figure: Callable[[Tensor], float], n: int) -> tuple[float, float] | None:
    """The 95 % interval of a figure that is taken over n independent samples (Tukey 1958, by blocks).

    For a figure that is roughly normal: give the logarithm of a ratio, or the inverse hyperbolic tangent of a correlation.

    Args:
        figure: Numbers of samples, ascending -> the figure over them alone.
        n: Samples in all.

    Returns:
        Low and high; None where there are fewer than three samples, which say nothing of the spread.
    """
    if n < 3:
        return None
    blocks = torch.arange(n).chunk(min(_BLOCKS, n))
    k = len(blocks)
    left_out = torch.tensor([figure(torch.cat([*blocks[:i], *blocks[i + 1 :]])) for i in range(k)], dtype=torch.float64)
    error = float(((k - 1) / k * (left_out - left_out.mean()).square().sum()).sqrt())
    middle, reach = figure(torch.arange(n)), _STUDENT[k - 2] * error
    return middle - reach, middle + reach


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the mean that independent, roughly normal values have in truth (Student 1908).

    Args:
        values: Measured ones.

    Returns:
        Low and high; None of a single value, or where one is not finite.
    """
    n = len(values)
    if n < 2 or not all(map(math.isfinite, values)):
        return None
    middle = sum(values) / n
    spread = math.sqrt(sum((value - middle) ** 2 for value in values) / (n - 1))
    reach = _STUDENT[min(n - 2, len(_STUDENT) - 1)] * spread / math.sqrt(n)
    return middle - reach, middle + reach
