"""The endless order of training samples: sample number g = 0, 1, 2, ... is a function of the seed alone.

A run that is resumed goes on at the number where it stopped; processes that share a run share the numbers out.
"""

import functools
import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Order", "is_mirrored"]


class Order:
    """Which image each sample is: the images in a new random order every epoch.

    Args:
        n: Number of images, at least 1.
        seed: Of the order.
    """

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.seed = n, seed
        self._epoch = functools.lru_cache(maxsize=2)(self._permutation)  # what is loaded ahead may be of the next epoch

    def candidates(self, g: int) -> Iterator[int]:
        """The image of sample g, and after it, should it be unreadable, the others as they follow in its epoch's order."""
        epoch, position = divmod(g, self.n)
        permutation = self._epoch(epoch)
        return (int(permutation[(position + i) % self.n]) for i in range(self.n))

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        # torch's generator on the CPU looks at the lowest 32 bits of its seed only, so both numbers must be mixed into them.
        random = torch.Generator().manual_seed(_mix(f"order {self.seed} {epoch}"))
        permutation: NDArray[np.int64] = torch.randperm(self.n, generator=random).numpy()
        return permutation


def is_mirrored(seed: int, g: int) -> bool:
    """Whether sample g is mirrored, which half of them are."""
    return _mix(f"mirror {seed} {g}") % 2 == 1


def _mix(key: str) -> int:
    """32 bits that look random."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little")
