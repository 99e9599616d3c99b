"""Kernel distance between features of images and of reconstructions (KID; Bińkowski et al. 2018), for which few suffice."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["kernel_distance", "kernel_of_rows"]


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """The squared maximum mean discrepancy by the kernel (a·b / D + 1)³, unbiased for any number of pairs, in float64.

    A picture and its reconstruction are no independent samples. So what a row has with its own partner is left out, as what
    it has with itself is (Gretton et al. 2012, lemma 6), and equal sets have distance 0. Below 0 it may come by chance.

    Args:
        a: Features [N, D], N of 2 or more.
        b: [N, D]; row i is of what row i of a is of.
    """
    return kernel_of_rows(a, b)(torch.arange(len(a)))


def kernel_of_rows(a: Tensor, b: Tensor) -> Callable[[Tensor], float]:
    """`kernel_distance` between the same rows of two sets, for many choices of rows; it keeps a matrix [N, N].

    Args:
        a: [N, D].
        b: [N, D].

    Returns:
        Numbers of rows [n] -> the distance between these of a and of b.
    """
    a, b = a.double(), b.double()

    def kernel(left: Tensor, right: Tensor) -> Tensor:
        return (left @ right.t()).div_(a.shape[1]).add_(1).pow_(3)

    cross = kernel(a, b)
    h = kernel(a, a).add_(kernel(b, b)).sub_(cross).sub_(cross.t())
    h.fill_diagonal_(0)

    def distance(rows: Tensor) -> float:
        n = len(rows)
        return float(h[rows][:, rows].sum()) / (n * (n - 1)) if n > 1 else float("nan")

    return distance
