"""Images loaded ahead by threads: `Stream` for training, `in_order` for passing over a data set once.

Threads are enough: Pillow and zlib let go of Python's lock while they decode.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from lia_adapter.data.images import ImageSet
from lia_adapter.data.order import Order, is_mirrored
from lia_adapter.errors import LIAError

__all__ = ["Stream", "in_order"]

_MAX_WORKERS = 16  # more only wait for each other

T = TypeVar("T")
R = TypeVar("R")


class Stream:
    """Training samples by their number g = 0, 1, 2, ..., without end.

    What sample g is depends on the images, the seed and g alone: not on how numbers are put into batches, on the workers, or
    on what was asked before. The place of an image that can't be read is taken by the next one in its epoch's order that can.

    Args:
        images: To draw from.
        seed: Of the order, and of which samples are mirrored.
        mirror: Whether half of the samples are mirrored left to right.
        workers: Threads that load; None for one a processor.
    """

    def __init__(self, images: ImageSet, seed: int, *, mirror: bool = False, workers: int | None = None) -> None:
        self.images = images
        self._seed, self._mirror = seed, mirror
        self._order = Order(len(images), seed)
        self._pool = ThreadPoolExecutor(workers or _workers(), thread_name_prefix="images")
        self._loading: dict[int, Future[tuple[int, Tensor]]] = {}

    def batch(self, numbers: Sequence[int], then: Sequence[int] | None = None) -> tuple[Tensor, Tensor | None]:
        """The samples of some numbers.

        Args:
            numbers: Which.
            then: Those of the next call, which begin to load meanwhile; a next call for others is as right, only slower.

        Returns:
            Images, uint8 [n, C, H, W] (`to_floats` puts them on the scale of [-1, 1]), and c, [n, c_dim], or None where they
            were opened with c_dim 0.

        Raises:
            LIAError: None of the images can be read.
        """
        for g in [g for g in self._loading if g not in numbers]:
            self._loading.pop(g).cancel()
        for g in (*numbers, *(then or ())):
            if g not in self._loading:
                self._loading[g] = self._pool.submit(self._load, g)
        samples = [self._loading.pop(g).result() for g in numbers]
        none = torch.empty(0, self.images.channels, *self.images.resolution, dtype=torch.uint8)
        pixels = torch.stack([image for _, image in samples]) if samples else none  # [n, C, H, W]
        if self._mirror:
            flipped = torch.tensor([is_mirrored(self._seed, g) for g in numbers], dtype=torch.bool)  # [n]
            pixels = torch.where(flipped[:, None, None, None], pixels.flip(3), pixels)
        return pixels, self.images.labels([index for index, _ in samples])

    def _load(self, g: int) -> tuple[int, Tensor]:
        for index in self._order.candidates(g):
            item = self.images.load(index)
            if item is not None:
                return index, item.pixels
        unreadable = self.images.unreadable
        name, why = next(iter(unreadable.items()))
        raise LIAError(
            f"none of the {len(unreadable):,} images of {self.images.path} can be read; {name!r}: {why}. "
            "Pass a data set of images, or repair these."
        )


def in_order(function: Callable[[T], R], items: Iterable[T], *, workers: int | None = None, ahead: int = 64) -> Iterator[R]:
    """`map`, by threads that work ahead of who takes the results.

    Args:
        function: Called in the threads.
        items: Taken one by one as results are.
        workers: Threads; None for one a processor.
        ahead: At most so many results wait to be taken, at least 1.

    Yields:
        Results in the order of the items. What the function raises comes where its result would.
    """
    pool = ThreadPoolExecutor(workers or _workers(), thread_name_prefix="images")
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            if len(waiting) == ahead:
                yield waiting.popleft().result()
            waiting.append(pool.submit(function, item))
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _workers() -> int:
    return min(os.cpu_count() or 1, _MAX_WORKERS)
