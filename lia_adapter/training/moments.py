"""Moving moments of what a network answers: whether its answers, taken together, are those of N(0, I)."""

import torch
from torch import Tensor, nn

from lia_adapter import ranks

__all__ = ["MovingMoments"]

_LEAST = 1e-3  # added to variances whose logarithm is taken; where these are large, as a share of their mean


class MovingMoments(nn.Module):
    """Moving mean and second moments S of u [n, D], of which those of N(0, I) are 0 and I.

    A batch of some hundreds tells each entry of a covariance to a tenth, and a loss of its own deviations would mostly follow
    its noise. So the deviations come from the last some thousands, over all processes, and their gradient from the batch.

    Both losses have the value of the moving moments and the gradient of the batch.

    Args:
        dim: D.
        samples: How many they remember, over all processes. S has an inverse to speak of where these are several D.
    """

    mean: Tensor
    second: Tensor

    def __init__(self, dim: int, samples: float) -> None:
        super().__init__()
        self.samples = samples
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("second", torch.eye(dim))

    def apart(self, u: Tensor) -> Tensor:
        """|mean|² + |S - I|² a dimension, []."""
        mean, second = self._seen(u)
        far = self.second - torch.eye(len(mean)).to(u)
        towards = 2 * ((self.mean * mean).sum() + (far * second).sum()) / len(mean)
        return _with_gradient((self.mean.square().sum() + far.square().sum()) / len(mean), towards)

    def unlike(self, u: Tensor) -> Tensor:
        """log((1 + tr S² / D) / 2) - log det S / D, []: 0 for I, else more.

        The first part forbids a few directions that have more than all others, the second such as have nothing; both by shares,
        so that what is far out does not drown what else is to be learnt.
        """
        mean, second = self._seen(u)
        dim = len(mean)
        least = _LEAST * self.second.diagonal().double().mean().clamp(min=1)
        wide = self.second.double() + least * torch.eye(dim).to(self.second.device)
        root, _ = torch.linalg.cholesky_ex(wide)  # of what is not finite it is not finite: the loop tells that
        spread = 0.5 + 0.5 * wide.square().sum() / dim
        value = spread.log() - 2 * root.diagonal().log().mean()
        far = wide / spread - torch.cholesky_inverse(root)
        return _with_gradient(value.to(u), (far.to(u) * second).sum() / dim)

    def _seen(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and second moments of a batch, which those of this module follow.

        Processes may have unlike numbers of samples, or none: each is divided by their mean number.
        """
        mean, second = u.sum(dim=0), u.t() @ u
        with torch.no_grad():
            count, means, seconds = torch.full([1], float(len(u))).to(u), mean.clone(), second.clone()
            ranks.average([count, means, seconds])
            new = min(float(count) * ranks.count() / self.samples, 1.0)
            count.clamp_(min=1 / ranks.count())
            self.mean.lerp_((means / count).to(self.mean), new)
            self.second.lerp_((seconds / count).to(self.second), new)
        return mean / count, second / count


def _with_gradient(value: Tensor, towards: Tensor) -> Tensor:
    return value.detach() + (towards - towards.detach())
