"""How well a score separates two kinds of things."""

import torch
from torch import Tensor

__all__ = ["auroc"]


def auroc(usual: Tensor, unusual: Tensor) -> float:
    """Area under the ROC curve: how often a usual thing scores higher than an unusual one, ties counted half.

    (The Mann-Whitney statistic over the number of pairs; Hanley & McNeil 1982.)

    Args:
        usual: Scores [N], higher for what is more usual, without NaN.
        unusual: Scores [M].

    Returns:
        1 where every usual one scores higher than every unusual one, 0.5 where the score tells nothing.
    """
    order = unusual.sort().values
    below, up_to = torch.searchsorted(order, usual), torch.searchsorted(order, usual, right=True)
    return float((below + up_to).double().mean()) / (2 * len(unusual))
