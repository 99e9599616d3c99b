"""`ImageSet`: the images of a data set that were asked for, fitted to a generator's size."""

import hashlib
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lia_adapter.data.decode import decode
from lia_adapter.data.fit import Placement, check_fit, fit_image
from lia_adapter.data.labels import read_labels
from lia_adapter.data.source import Source, image_names, open_source
from lia_adapter.errors import ConfigError, LIAError

__all__ = ["ImageSet", "Item", "open_images"]


@dataclass(frozen=True)
class Item:
    """An image that was read.

    Attributes:
        x: float32 [C, H, W] in [-1, 1].
        placement: Where it is in its picture, for `paste_back`.
    """

    x: Tensor
    placement: Placement


def open_images(
    path: str | Path,
    resolution: tuple[int, int],
    channels: int,
    *,
    fit: str = "crop",
    split: str = "all",
    c_dim: int = 0,
) -> "ImageSet":
    """Opens a data set; its images are read later, one by one.

    Args:
        path: A folder (searched recursively), a dataset zip of NVlabs' form, or one image file.
        resolution: (H, W) to fit the images to.
        channels: 1 for gray, 3 for RGB.
        fit: One of `FITS`.
        split: "all"; "first N" or "last N", in order of the names (the paper trains on the first 65,000 of FFHQ and tests on
            the last 5,000); "list FILE" of one name a line; or one of these after "not", for all the others.
        c_dim: Entries of a label. With 0, labels are not looked at; else every image must have one.

    Raises:
        LIAError: There is no such data set, it holds no images, its labels do not match, or an argument does not fit.
    """
    check_fit(channels, fit)
    source = open_source(path)
    names = image_names(source)
    labels = read_labels(source, names, c_dim) if c_dim else None
    chosen = _split(split, names, source.path)
    return ImageSet(
        source,
        [names[i] for i in chosen],
        resolution,
        channels,
        fit,
        None if labels is None else (labels[chosen], c_dim),
    )


class ImageSet:
    """Images by their number. Many threads may use it at once. Made by `open_images`.

    Attributes:
        path: Of the data set.
        names: Of the images, sorted; those that can't be read are among them, so that numbers stay.
        resolution: (H, W).
        channels: 1 or 3.
    """

    def __init__(
        self,
        source: Source,
        names: Sequence[str],
        resolution: tuple[int, int],
        channels: int,
        fit: str,
        labels: tuple[Tensor, int] | None,
    ) -> None:
        self.path, self.names, self.resolution, self.channels = source.path, tuple(names), resolution, channels
        self._source, self._fit, self._labels = source, fit, labels
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
        """Reads an image; None if that can't be done, and `unreadable` then says why."""
        name = self.names[index]
        if name in self._unreadable:
            return None
        try:
            return Item(*fit_image(decode(self._source.read(name)), self.resolution, self.channels, self._fit))
        except LIAError as error:
            with self._lock:
                self._unreadable[name] = str(error)
            return None

    def original(self, index: int) -> Image.Image:
        """The whole picture, upright, in mode L or RGB.

        Raises:
            LIAError: It can't be read.
        """
        name = self.names[index]
        try:
            return decode(self._source.read(name))
        except LIAError as error:
            raise LIAError(f"cannot read {name!r} of {self.path}: {error}. Leave it out, or get it again.") from error

    def labels(self, indices: Sequence[int]) -> Tensor | None:
        """c of some images, float32 [n, c_dim]; None where the data set was opened with c_dim 0."""
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
        digest = hashlib.sha256(f"{self.resolution} {self.channels} {self._fit}\n".encode())
        sizes = self._source.sizes
        for name in self.names:
            digest.update(f"{name!a} {sizes[name]}\n".encode())
        if self._labels is not None:
            digest.update(self._labels[0].numpy().tobytes())
        return digest.hexdigest()


def _split(split: str, names: Sequence[str], path: Path) -> list[int]:
    """Numbers of the images that are asked for, ascending."""
    match = re.fullmatch(r"(not )?(?:(first|last) ([0-9]{1,18})|list (.+))|all", split.strip())
    if not match:
        raise ConfigError(
            f"cannot read the split {split!r}; expected all, first N, last N, list FILE, or not before one of them."
        )
    inverted, end, number, file = match.groups()
    if file:
        chosen = _listed(file, names, path)
    elif end:
        n = int(number)
        if n > len(names):
            raise ConfigError(f"the split {split!r} asks for more images than {path} holds ({len(names):,}).")
        chosen = set(range(n) if end == "first" else range(len(names) - n, len(names)))
    else:
        chosen = set(range(len(names)))
    found = [i for i in range(len(names)) if (i in chosen) != bool(inverted)]
    if not found:
        raise ConfigError(f"the split {split!r} leaves none of the {len(names):,} images in {path}.")
    return found


def _listed(file: str, names: Sequence[str], path: Path) -> set[int]:
    try:
        lines = [line.strip() for line in Path(file).read_text("utf-8-sig").splitlines()]
    except (OSError, ValueError) as error:
        why = (error.strerror or str(error)).lower() if isinstance(error, OSError) else "it is not text in UTF-8"
        raise ConfigError(f"cannot read the list {file}: {why}. Check the split.") from error
    number = {name: i for i, name in enumerate(names)}
    wanted = [line for line in lines if line]
    if unknown := [name for name in wanted if name not in number]:
        others = f" and {len(unknown) - 1:,} more" if len(unknown) > 1 else ""
        raise ConfigError(
            f"the list {file} names {unknown[0]!r}{others}, which {path} does not hold; its first is {names[0]!r}."
        )
    return {number[name] for name in wanted}
