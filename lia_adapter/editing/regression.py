"""Codes and known factors, each as a linear function of the other."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Regression", "fit_regression"]


@dataclass(frozen=True)
class Regression:
    """What `fit_regression` found for F factors.

    Attributes:
        y: How much y changes with one unit of each factor, [F, y_dim].
        weights: Factor = y @ weights.T + bias, [F, y_dim].
        bias: [F].
        r2: Share of each factor's variance that this tells on codes it was not fitted to, [F]; 1 is all.
    """

    y: Tensor
    weights: Tensor
    bias: Tensor
    r2: Tensor

    def move(self, y: Tensor, factor: int, amount: Tensor | float) -> Tensor:
        """Codes [N, y_dim] with one factor changed by an amount, a number or [N]."""
        return y + torch.as_tensor(amount).to(y).reshape(-1, 1) * self.y[factor].to(y)


def fit_regression(y: Tensor, factors: Tensor, *, held_out: float = 0.2) -> Regression:
    """Regresses factors on codes, and codes on factors (Haufe et al. 2014: weights read, patterns draw).

    The weights that read a factor from y are no way to change it: they also point along what merely disturbs the reading. The
    slope of y over the factor does change it, and where factors are independent it changes nothing else.

    Args:
        y: Codes of images [N, y_dim].
        factors: Of the same images [N, F].
        held_out: Share of the images, the last ones, that tell how well it works.

    Returns:
        In float32.
    """
    y, factors = y.double(), factors.double()
    n = len(y) - max(1, round(len(y) * held_out))
    mean, means = y[:n].mean(dim=0), factors[:n].mean(dim=0)
    a, b = y[:n] - mean, factors[:n] - means
    # y may lie near a surface of fewer dimensions: a little ridge keeps what it does not reach out of the answer.
    covariance = a.T @ a / n
    ridge = 1e-4 * covariance.diagonal().mean() * torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
    weights = torch.linalg.solve(covariance + ridge, a.T @ b / n).T
    slopes = torch.linalg.lstsq(b, a).solution
    bias = means - weights @ mean
    missed = (factors[n:] - y[n:] @ weights.T - bias).square().mean(dim=0)
    r2 = 1 - missed / factors[n:].var(dim=0, correction=0).clamp(min=1e-12)
    return Regression(slopes.float(), weights.float(), bias.float(), r2.float())
