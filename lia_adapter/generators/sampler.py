"""The original mapping of a generator as an endless source of pairs (z, y)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lia_adapter.generators.base import Generator

__all__ = ["MappingSampler", "in_chunks", "sampled_mean"]

_CHUNK = 4096  # codes mapped at once


@torch.no_grad()
def in_chunks(function: Callable[[Tensor, Tensor | None], Tensor], x: Tensor, c: Tensor | None) -> Tensor:
    """function(x, c) of codes x [N, D] and labels c [N, c_dim] or None, a few thousand at a time to bound the memory."""
    # Filled as it is made: parts and their concatenation at once would be the largest thing in memory.
    whole: Tensor | None = None
    for first in range(0, len(x), _CHUNK):
        part = slice(first, first + _CHUNK)
        answer = function(x[part], None if c is None else c[part])
        if whole is None:
            whole = answer.new_empty(len(x), *answer.shape[1:])
        whole[part] = answer
    return function(x, c) if whole is None else whole


@torch.no_grad()
def sampled_mean(generator: Generator, device: torch.device) -> Tensor:
    """Mean y [y_dim] of 10,000 samples, always the same, of an unconditional generator's mapping; on its device."""
    z = torch.randn(10_000, generator.z_dim, generator=torch.Generator().manual_seed(0)).to(device)
    return generator.mapping(z).mean(dim=0)


class MappingSampler:
    """Pairs of the original mapping, with z of y_dim entries.

    Where the original's z is shorter, it is the first entries of the new one and the rest is new; where it is longer, the
    new z is its first entries and the original's other entries are random.

    Args:
        generator: Whose mapping is sampled.
    """

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self.dim, self.c_dim = generator.y_dim, generator.c_dim

    def pairs(self, n: int, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
        """z [n, y_dim], y [n, y_dim] and labels c [n, c_dim] (one-hot, all classes alike) or None, on random's device."""
        z_dim = self.generator.z_dim
        drawn = torch.randn(n, max(z_dim, self.dim), generator=random, device=random.device)
        c = None
        if self.c_dim:
            c = F.one_hot(torch.randint(self.c_dim, [n], generator=random, device=random.device), self.c_dim).float()
        return drawn[:, : self.dim], in_chunks(self.generator.mapping, drawn[:, :z_dim], c), c
