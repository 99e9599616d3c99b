"""Images of a set in batches, in order, without those that cannot be read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lia_adapter.data.fit import Placement, to_floats
from lia_adapter.data.images import ImageSet
from lia_adapter.data.stream import in_order
from lia_adapter.errors import LIAError

__all__ = ["Batch", "in_batches", "none_readable"]


@dataclass(frozen=True)
class Batch:
    """Some images of a set.

    Attributes:
        numbers: Of the images, within the set.
        x: [n, C, H, W] in [-1, 1].
        c: Labels [n, c_dim], or None where the set has none.
        placements: Where each image lies in its picture.
    """

    numbers: tuple[int, ...]
    x: Tensor
    c: Tensor | None
    placements: tuple[Placement, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, part: slice) -> "Batch":
        """Some of them, as a batch."""
        c = None if self.c is None else self.c[part]
        return Batch(self.numbers[part], self.x[part], c, self.placements[part])


def in_batches(images: ImageSet, numbers: Sequence[int], size: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
    """Reads images while those before them are worked on; `images.unreadable` tells of those that are left out.

    Args:
        images: The set.
        numbers: Which of them, in this order.
        size: Images a batch; the last may have fewer.
        device: Where to put x and c.
    """
    waiting = []
    for number, item in in_order(lambda n: (n, images.load(n)), numbers, ahead=size):
        if item is not None:
            waiting.append((number, item))
        if len(waiting) == size or (waiting and number == numbers[-1]):
            found = tuple(n for n, _ in waiting)
            c = images.labels(found)
            x = to_floats(torch.stack([item.pixels for _, item in waiting]).to(device))
            yield Batch(found, x, None if c is None else c.to(device), tuple(item.placement for _, item in waiting))
            waiting.clear()


def none_readable(images: ImageSet) -> LIAError:
    """What to raise when all images of a set were tried and none could be read."""
    name, why = next(iter(images.unreadable.items()))
    return LIAError(f"none of the {len(images):,} images of {images.path} can be read; {name!r}: {why}. Get them again.")
