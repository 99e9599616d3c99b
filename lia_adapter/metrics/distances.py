"""Distances between two sets of vectors: Fréchet and sliced Wasserstein."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lia_adapter.linalg import symmetric_root

__all__ = ["Moments", "frechet_distance", "frechet_of_rows", "sliced_wasserstein"]


class Moments:
    """Number, mean and covariance of vectors that come one batch after another and are not kept, in float64.

    Batches are joined as Chan et al. (1979) join them: no difference of large sums.

    Args:
        products: What the products within a batch are computed in: float32 takes half the time and leaves variances below a
            millionth of the largest unknown.

    Attributes:
        count: Vectors so far.
        mean: [D].
    """

    def __init__(self, products: torch.dtype = torch.float64) -> None:
        self.count, self.products = 0, products
        self.mean = torch.zeros(0, dtype=torch.float64)
        self._scatter = torch.zeros(0, 0, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """Takes vectors [n, D] in."""
        x = x.detach().double().cpu()
        if not len(x):
            return
        mean = x.mean(dim=0)
        apart = x - mean
        if not self.count:
            self.mean, self._scatter = torch.zeros_like(mean), mean.new_zeros(len(mean), len(mean))
        shift, whole = mean - self.mean, self.count + len(x)
        if self.products == torch.float64:
            self._scatter.addmm_(apart.t(), apart)
        else:
            apart = apart.to(self.products)
            self._scatter += apart.t() @ apart
        self._scatter.addr_(shift, shift, alpha=self.count * len(x) / whole)
        self.mean = self.mean + shift * (len(x) / whole)
        self.count = whole

    @property
    def covariance(self) -> Tensor:
        """[D, D], of at least two vectors."""
        return self._scatter / (self.count - 1)


def frechet_distance(a: Tensor | Moments, b: Tensor | Moments) -> float:
    """Fréchet distance between the Gaussians fitted to two sets (Dowson & Landau 1982; Heusel 2017, eq. 6), squared.

    |mean_a - mean_b|² + tr(C_a + C_b - 2 (C_a C_b)^½), in float64.

    Args:
        a: [N, D], or their moments.
        b: [M, D], or theirs.

    Returns:
        Infinity where an entry is not finite.
    """
    if isinstance(a, Tensor) and isinstance(b, Tensor) and max(len(a), len(b)) < a.shape[1]:
        return _of_few(a.double(), b.double())
    a, b = (x if isinstance(x, Moments) else _moments(x) for x in (a, b))
    cov_a, cov_b = a.covariance, b.covariance
    if not (cov_a.isfinite().all() and cov_b.isfinite().all()):
        return math.inf
    # tr (C_a C_b)^½ through the symmetric root of C_a: its eigenvalues are real, and rounding can't make them complex.
    root = symmetric_root(cov_a, least=0)
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    shift = (a.mean - b.mean).square().sum()
    return float(shift + cov_a.trace() + cov_b.trace() - 2 * cross)


def _of_few(a: Tensor, b: Tensor) -> float:
    """The same for fewer vectors than they have entries, without matrices [D, D].

    With C_a = AᵀA and C_b = BᵀB, tr (C_a C_b)^½ is the sum of the singular values of ABᵀ.
    """
    mean_a, mean_b = a.mean(dim=0), b.mean(dim=0)
    root_a, root_b = ((x - mean) / (len(x) - 1) ** 0.5 for x, mean in ((a, mean_a), (b, mean_b)))
    products = root_a @ root_b.t()
    if not products.isfinite().all():
        return math.inf
    cross = torch.linalg.svdvals(products).sum()
    return float((mean_a - mean_b).square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * cross)


def frechet_of_rows(a: Tensor, b: Tensor) -> Callable[[Tensor], float]:
    """`frechet_distance` between the same rows of two sets, for many choices of rows.

    Of fewer rows than entries it follows from inner products alone, which are worked out once.

    Args:
        a: [N, D].
        b: [N, D].

    Returns:
        Numbers of rows [n] -> the distance between these of a and of b.
    """
    if len(a) >= a.shape[1]:
        return lambda rows: frechet_distance(a[rows], b[rows])
    middle = a.mean(dim=0, dtype=torch.float64)  # near which products lose no digits
    a, b = a.double() - middle, b.double() - middle
    aa, ab, bb = a @ a.t(), a @ b.t(), b @ b.t()

    def distance(rows: Tensor) -> float:
        n = len(rows)
        a2, cross, b2 = (products[rows][:, rows] for products in (aa, ab, bb))
        shift = a2.mean() - 2 * cross.mean() + b2.mean()
        spread = (a2.trace() - n * a2.mean() + b2.trace() - n * b2.mean()) / (n - 1)
        centred = cross - cross.mean(dim=0) - cross.mean(dim=1, keepdim=True) + cross.mean()
        return float(shift + spread - 2 * torch.linalg.svdvals(centred).sum() / (n - 1))

    return distance


def _moments(x: Tensor) -> Moments:
    found = Moments()
    found.add(x)
    return found


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
