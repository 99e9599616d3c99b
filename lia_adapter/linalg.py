"""Linear algebra that several rooms need: roots of covariances, the nearest rotation, equations for the rows of a matrix."""

import torch
from torch import Tensor

__all__ = ["covariance_root", "procrustes", "solve_rows", "symmetric_root"]

_PART = 8192  # samples of which statistics are taken at once


def covariance_root(y: Tensor, *, least: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Mean [D] and symmetric root of the covariance [D, D] of samples y [N, D], in float64.

    Args:
        y: Samples.
        least: Least eigenvalue as a fraction of the largest: where z is shorter than y, the covariance may be singular.
    """
    mean = y.mean(dim=0, dtype=torch.float64)
    # In parts, because a float64 copy of all samples would be the largest thing in memory.
    covariance = sum((part.double() - mean).t() @ (part.double() - mean) for part in y.split(_PART)) / (len(y) - 1)
    return mean, symmetric_root(covariance, least=least)


def symmetric_root(covariance: Tensor, *, least: float = 1e-6) -> Tensor:
    """The symmetric R with R @ R = covariance [D, D]; eigenvalues below least times the largest are raised to that."""
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp(min=float(values[-1]) * least).sqrt()) @ vectors.t()
    return root


def procrustes(a: Tensor, b: Tensor) -> Tensor:
    """The orthogonal R [D, D] that brings a @ R closest to b, both [N, D] (Schönemann 1966)."""
    u, _, vt = torch.linalg.svd(a.double().t() @ b.double())
    rotation: Tensor = u @ vt
    return rotation


def solve_rows(matrix: Tensor, x: Tensor) -> Tensor:
    """The rows of x [N, D] times the inverse of matrix.T [D, D]: undoes `v @ matrix.t()` to rounding."""
    solution: Tensor = torch.linalg.solve(matrix, x.t())
    return solution.t()
