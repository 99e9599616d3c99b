"""How likely a code is under the prior, as a p-value: a likelihood alone has no scale that two mappings share.

p is the share of the original mapping's own codes, thickened as in `lia_adapter.metrics.prior`, that are less likely. Of such
codes it is uniform, whether the mapping is good or bad: it is a rank, and no claim that the prior is right. Near 0, the code is
one that the generator's mapping hardly makes. Near 1, it is likelier than most, and not better: codes near the mean are.
"""

import math

import torch
from torch import Tensor

from lia_adapter.generators import MappingSampler
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.metrics.prior import thicken

__all__ = ["PriorRank"]

_CODES = 1000  # a p of 0.01 is off by 0.003 (one standard deviation)
_SEED = 1_704_259_683  # any that no fit draws by: the codes are held out


class PriorRank:
    """Gives codes their p. The codes that they are compared with are drawn here, always the same, in the time of one batch.

    Args:
        original: Gives 1,000 codes; of a conditional generator of all classes alike, each told its class.
        mapping: Gives log-densities.
        root: Symmetric root of the covariance of y [D, D], on the device to compute on.

    Attributes:
        mapping: The same.
        reference: Log-densities of the 1,000 in nats, ascending, float64.
    """

    @torch.no_grad()
    def __init__(self, original: MappingSampler, mapping: InvertibleMapping, root: Tensor) -> None:
        self.mapping = mapping
        random = torch.Generator(root.device).manual_seed(_SEED)
        _, y, c = original.pairs(_CODES, random)
        self.reference = self._log_prob(thicken(y, root.double(), random), c).sort().values

    def fits(self, mapping: InvertibleMapping, device: torch.device) -> bool:
        """Whether it is of this mapping and there."""
        return mapping is self.mapping and device == self.reference.device

    @torch.no_grad()
    def __call__(self, y: Tensor, c: Tensor | None = None) -> Tensor:
        """y [N, D], c [N, c_dim] -> p [N] in 0 to 1, in the dtype of y."""
        return (torch.searchsorted(self.reference, self._log_prob(y, c)) / _CODES).to(y.dtype)

    def _log_prob(self, y: Tensor, c: Tensor | None) -> Tensor:
        """What is so far out that its density is no number any more is the least likely."""
        return self.mapping.log_prob(y, c).nan_to_num(nan=-math.inf)
