"""Typicality: is the code of an image as usual as those of the images that the encoder was trained on?

Two scores. `z_size` is how far z lies from the prior's centre, |z|² / D, which is near 1 for a usual z. `Typicality` compares y
with the codes of the training images: mean and covariance give a Mahalanobis distance, and its rank among theirs is the score.
The second tells images of another kind far better: an encoder maps any picture to codes of about the right size, so that the
prior finds nothing odd, but not with the correlations that its own kind has.
"""

import torch
from torch import Tensor, nn

from lia_adapter.linalg import covariance_root

__all__ = ["Typicality", "usual_size", "z_size"]

_QUANTILES = 1001
_FLOOR = 1e-4  # of the largest eigenvalue: directions in which the training codes hardly differ must not decide alone


def z_size(z: Tensor) -> Tensor:
    """|z|² / D of z [N, D], [N], float64: its expectation under the prior N(0, I) is 1."""
    return z.double().square().mean(dim=1)


def usual_size(dim: int) -> float:
    """|z|² / D that 95 % of the prior's own z stay below: χ²'s quantile (Wilson & Hilferty 1931), off by 1 % where D is 2."""
    part = 2 / (9 * dim)
    return float((1 - part + 1.6449 * part**0.5) ** 3)


class Typicality(nn.Module):
    """Rank of a code's Mahalanobis distance among those of the training images' codes.

    Args:
        y_dim: Entries of y.

    Attributes:
        mean: Of the training images' y [y_dim].
        white: Matrix [y_dim, y_dim] that gives (y - mean) @ white the unit covariance.
        quantiles: Of the training images' distances, ascending.
    """

    mean: Tensor
    white: Tensor
    quantiles: Tensor

    def __init__(self, y_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(y_dim))
        self.register_buffer("white", torch.eye(y_dim))
        self.register_buffer("quantiles", torch.linspace(0, 1, _QUANTILES))

    @staticmethod
    def fit(y: Tensor, root: Tensor) -> "Typicality":
        """Of the codes of the training images.

        Args:
            y: [N, y_dim], N at least 4. The covariance is taken from every other one and the distances from the rest: codes
                that shaped the covariance lie closer to it than new ones do.
            root: Root of the covariance of the generator's own y [y_dim, y_dim]: where directions are compared, so that the
                scale of y's entries plays no part.
        """
        made = Typicality(y.shape[1]).to(y.device)
        into = torch.linalg.inv(root.double())
        mean, spread = covariance_root(y[::2].double() @ into, least=_FLOOR)
        made.mean.copy_(torch.linalg.solve(into.t(), mean))
        made.white.copy_(into @ torch.linalg.inv(spread))
        made.quantiles.copy_(made.distance(y[1::2]).quantile(torch.linspace(0, 1, _QUANTILES).to(made.white)))
        return made

    def distance(self, y: Tensor) -> Tensor:
        """Mean square of whitened y [N, y_dim], [N]; about 1 for training images."""
        return ((y.to(self.white) - self.mean) @ self.white).square().mean(dim=1)

    def forward(self, y: Tensor) -> Tensor:
        """y [N, y_dim] -> [N] in [0, 1]: the share of training images that are less usual. 0: none is."""
        below = torch.searchsorted(self.quantiles, self.distance(y).contiguous())
        return 1 - below.clamp(max=_QUANTILES - 1) / (_QUANTILES - 1)
