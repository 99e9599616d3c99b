"""What lengths and angles mean among codes: those of the prior, whose standard deviations and correlations count."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lia_adapter.linalg import symmetric_root

__all__ = ["LEAST", "CodeSpace", "Metric", "oriented"]

LEAST = 1e-4
"""A variance, as a fraction of the mean one: codes lie near a sheet, off which nothing was measured."""


class Metric(ABC):
    """The codes of a space as a Gaussian: what a step of one standard deviation is, and which directions are unrelated.

    White coordinates u have N(0, I): v = root @ u for a direction v. Directions whose u are orthogonal are independent under
    the prior; those whose v are orthogonal need not be.

    Attributes:
        mean: Of codes [D], float64.
    """

    mean: Tensor

    @abstractmethod
    def white(self, v: Tensor) -> Tensor:
        """Directions [..., D] in white coordinates, float64."""

    @abstractmethod
    def coloured(self, u: Tensor) -> Tensor:
        """Directions of white coordinates [..., D] as those of codes, float64."""

    @abstractmethod
    def step(self, v: Tensor) -> Tensor:
        """Directions [..., D] as long as one standard deviation of the codes' extent along them, float64."""

    def alike(self, a: Tensor, b: Tensor) -> Tensor:
        """Cosine of the white angles between directions a [N, D] and b [M, D]: [N, M] in [-1, 1]."""
        ua, ub = (torch.nn.functional.normalize(self.white(v), dim=-1) for v in (a, b))
        return ua @ ub.t()

    def without(self, v: Tensor, others: Tensor) -> Tensor:
        """A direction [D] less what it has of others [M, D]: the projection onto what is independent of them all.

        For one other it is n₁ - (n₁ᵀn₂)n₂ (Shen 2020, sec. 3.3) of unit n, in white coordinates.
        """
        u, basis = self.white(v), self.white(others).t()
        return self.coloured(u - basis @ torch.linalg.lstsq(basis, u[:, None]).solution[:, 0])


class CodeSpace(Metric):
    """That of y or z, by mean and covariance.

    Args:
        mean: Of codes [D].
        covariance: Of codes [D, D].

    Attributes:
        covariance: [D, D], float64.
        root: Symmetric root of the covariance [D, D], float64; small variances are raised to 1e-4 of the mean one.
    """

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        self.mean, self.covariance = mean.double(), covariance.double()
        values = torch.linalg.eigvalsh(self.covariance)
        self.root = symmetric_root(self.covariance, least=LEAST * float(values.mean() / values[-1]))
        self._inverse = torch.linalg.inv(self.root)

    @staticmethod
    def standard(dim: int, device: torch.device | str = "cpu") -> "CodeSpace":
        """That of z: N(0, I)."""
        return CodeSpace(torch.zeros(dim, device=device), torch.eye(dim, device=device))

    def white(self, v: Tensor) -> Tensor:
        """See `Metric`."""
        u: Tensor = v.double() @ self._inverse
        return u

    def coloured(self, u: Tensor) -> Tensor:
        """See `Metric`."""
        v: Tensor = u.double() @ self.root
        return v

    def step(self, v: Tensor) -> Tensor:
        """See `Metric`."""
        v = v.double() / v.double().norm(dim=-1, keepdim=True)
        deviation = ((v @ self.covariance) * v).sum(dim=-1, keepdim=True).clamp(min=0).sqrt()
        return v * deviation


def oriented(v: Tensor) -> Tensor:
    """Directions [N, D] with a sign that is no accident of an algorithm: the largest entry in size is positive."""
    largest = v.gather(1, v.abs().argmax(dim=1, keepdim=True))
    return v * largest.sign()
