"""`ImageSet`: the images of a data set that were asked for, fitted to a generator's size."""

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lia_adapter.data.align import Alignment
from lia_adapter.data.decode import decode
from lia_adapter.data.depth import Depths
from lia_adapter.data.fit import Placement, fit_pixels, to_floats
from lia_adapter.data.source import Source
from lia_adapter.errors import LIAError

__all__ = ["ImageFiles", "ImageSet", "Item"]


@dataclass(frozen=True)
class Item:
    """An image that was read.

    Attributes:
        pixels: uint8 [C, H, W], a quarter of what x takes.
        placement: Where it is in its picture, for `paste_back`.
    """

    pixels: Tensor
    placement: Placement

    @property
    def x(self) -> Tensor:
        """float32 [C, H, W] in [-1, 1]."""
        return to_floats(self.pixels)


class ImageSet(Protocol):
    """Images by their number. Many threads may use it at once. Made by `open_images`.

    Attributes:
        path: Of the data set.
        names: Of the images, sorted; those that can't be read are among them, so that numbers stay.
        resolution: (H, W).
        channels: 1, 3 or 4.
    """

    path: Path
    names: tuple[str, ...]
    resolution: tuple[int, int]
    channels: int

    def __len__(self) -> int: ...  # noqa: D105

    @property
    def unreadable(self) -> dict[str, str]:
        """Names of images that could not be read, as far as they were tried, and why not."""

    def load(self, index: int) -> Item | None:
        """Reads an image; None if that can't be done, and `unreadable` then says why."""

    def original(self, index: int) -> Image.Image:
        """The whole picture, upright, in mode L or RGB or, of a set of 4 channels, RGBA, and in the colours of its own profile.

        Raises:
            LIAError: It can't be read.
        """

    def labels(self, indices: Sequence[int]) -> Tensor | None:
        """c of some images, float32 [n, c_dim]; None where the data set was opened with c_dim 0."""

    def identity(self) -> str:
        """SHA-256 over what the images are."""


class ImageFiles:
    """Images of a folder or a zip; see `ImageSet`."""

    def __init__(
        self,
        source: Source,
        names: Sequence[str],
        resolution: tuple[int, int],
        channels: int,
        resize_mode: str,
        labels: tuple[Tensor, int] | None,
        bits: int | None = None,
        every_name: Sequence[str] = (),
        alignment: Alignment | None = None,
    ) -> None:
        self.path, self.names, self.resolution, self.channels = source.path, tuple(names), resolution, channels
        self._source, self._mode, self._labels, self._bits = source, resize_mode, labels, bits
        self._alignment = alignment
        self._depths = Depths(source.read, every_name or names, source.path, bits)
        self._unreadable: dict[str, str] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def unreadable(self) -> dict[str, str]:
        """Names of images that could not be read, as far as they were tried, and why not."""
        with self._lock:
            return dict(sorted(self._unreadable.items()))

    def load(self, index: int) -> Item | None:
        """An image; None where it can't be read."""
        name = self.names[index]
        if name in self._unreadable:
            return None
        try:
            square = None if self._alignment is None else self._alignment.square(name)
            return Item(*fit_pixels(self._decoded(name), self.resolution, self.channels, self._mode, square))
        except LIAError as error:
            with self._lock:
                self._unreadable[name] = str(error)
            return None

    def original(self, index: int) -> Image.Image:
        """The whole picture, upright."""
        name = self.names[index]
        try:
            return self._decoded(name)
        except LIAError as error:
            raise LIAError(f"cannot read {name!r} of {self.path}: {error}. Leave it out, or get it again.") from error

    def _decoded(self, name: str) -> Image.Image:
        return decode(self._source.read(name), alpha=self.channels == 4, bits=self._depths)

    def labels(self, indices: Sequence[int]) -> Tensor | None:
        """c of some images; None without c_dim."""
        if self._labels is None:
            return None
        values, c_dim = self._labels
        picked = values[list(indices)]
        return picked if picked.dim() == 2 else F.one_hot(picked, c_dim).float()

    def identity(self) -> str:
        """SHA-256 over what the images are: names, sizes in bytes and labels, and how they are fitted.

        The same for the same data at another place, in a folder or in a zip. It reads no image, so one that was replaced by
        another of just the same size goes unnoticed.
        """
        digest = hashlib.sha256(f"{self.resolution} {self.channels} {self._mode}\n".encode())
        if self._bits is not None:
            digest.update(f"{self._bits} bits\n".encode())
        if self._alignment is not None:
            digest.update(self._alignment.identity(self.names))
        sizes = self._source.sizes
        for name in self.names:
            digest.update(f"{name!a} {sizes[name]}\n".encode())
        if self._labels is not None:
            digest.update(self._labels[0].numpy().tobytes())
        return digest.hexdigest()
