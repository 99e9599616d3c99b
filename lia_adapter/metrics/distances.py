"""Distances between two sets of vectors: Fréchet and sliced Wasserstein."""

import torch
from torch import Tensor

__all__ = ["frechet_distance", "sliced_wasserstein"]


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Fréchet distance between the Gaussians fitted to two sets (Dowson & Landau 1982; Heusel 2017, eq. 6), squared.

    |mean_a - mean_b|² + tr(C_a + C_b - 2 (C_a C_b)^½), in float64.

    Args:
        a: [N, D].
        b: [M, D].
    """
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.t()).reshape(a.shape[1], -1), torch.cov(b.t()).reshape(b.shape[1], -1)
    # tr (C_a C_b)^½ through the symmetric root of C_a: its eigenvalues are real, and rounding can't make them complex.
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.t()
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    shift = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    return float(shift + cov_a.trace() + cov_b.trace() - 2 * cross)


def sliced_wasserstein(a: Tensor, b: Tensor, *, projections: int = 512, seed: int = 0) -> float:
    """Sliced 2-Wasserstein distance (Bonneel et al. 2015): the root mean square over random directions.

    Args:
        a: [N, D].
        b: [N, D].
        projections: Number of random directions.
        seed: Of the directions.
    """
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(a.shape[1], projections, generator=generator, dtype=torch.float64).to(a)
    directions = directions / directions.norm(dim=0)
    gap = (a @ directions).sort(dim=0).values - (b @ directions).sort(dim=0).values
    return float(gap.square().mean().sqrt())
