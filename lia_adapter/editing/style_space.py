"""The metric of styles, and what of y is which of s (Wu et al. 2021, "StyleSpace Analysis")."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lia_adapter.editing.space import LEAST, CodeSpace, Metric
from lia_adapter.generators import Affine
from lia_adapter.linalg import symmetric_root

__all__ = ["StyleSpace"]


class StyleSpace(Metric):
    """That of s: just what `CodeSpace` is of its covariance, without a matrix of that size.

    s has 9,088 entries at 1024 x 1024, but of one y for all layers it is s = A y + b: the covariance is A C Aᵀ, with no more
    than y_dim variances that are not zero. It is kept as A C^½ and the singular vectors of that [S, y_dim], which takes a
    second and 40 MB each, where a root [S, S] takes minutes and 660 MB. What a linear method learns of s is for the same reason
    what it learns of y, taken to s; so it is learnt of y.

    Args:
        codes: The space of y.
        affines: Of the style layers.

    Attributes:
        weight: A [S, y_dim], float64.
        factor: A C^½ [S, y_dim], float64: factor @ factor.T is the covariance.
    """

    def __init__(self, codes: CodeSpace, affines: Sequence[Affine]) -> None:
        self.weight = torch.cat([one.weight.detach() for one in affines]).to(codes.mean)
        self.mean = self.weight @ codes.mean + torch.cat([one.bias.detach() for one in affines]).to(codes.mean)
        self.factor = self.weight @ symmetric_root(codes.covariance, least=0.0)
        self._ways, spreads, _ = torch.linalg.svd(self.factor, full_matrices=False)
        self._least = (LEAST * spreads.square().sum() / len(self.mean)).sqrt()  # off the sheet
        self._spreads = spreads.maximum(self._least)

    def white(self, v: Tensor) -> Tensor:
        """See `Metric`."""
        return self._scaled(v, 1 / self._spreads, 1 / self._least)

    def coloured(self, u: Tensor) -> Tensor:
        """See `Metric`."""
        return self._scaled(u, self._spreads, self._least)

    def step(self, v: Tensor) -> Tensor:
        """See `Metric`."""
        v = v.double() / v.double().norm(dim=-1, keepdim=True)
        deviation = (v @ self.factor).norm(dim=-1, keepdim=True)
        long: Tensor = v * deviation.maximum(self._least)
        return long

    def reader(self, reader: Tensor) -> Tensor:
        """What reads of s [S] what a reader of y [y_dim] reads of the code: the least of all that do."""
        found: Tensor = self.weight @ (torch.linalg.pinv(self.weight.t() @ self.weight, hermitian=True) @ reader)
        return found

    def _scaled(self, v: Tensor, within: Tensor, beside: Tensor) -> Tensor:
        """Directions [..., S], of which what lies along the singular vectors is scaled one by one, and all else alike."""
        along = v.double() @ self._ways
        scaled: Tensor = beside * v.double() + (along * (within - beside)) @ self._ways.t()
        return scaled
