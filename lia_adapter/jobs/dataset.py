"""`dataset`: images from anywhere to a data-set zip of one size, as NVlabs' programs write and read them."""

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from lia_adapter.data import ImageSet, Item, in_order, none_readable, open_images
from lia_adapter.data.labels import read_labels
from lia_adapter.data.source import image_names, open_source
from lia_adapter.data.toyfaces import ToyFaces
from lia_adapter.errors import ConfigError, argument
from lia_adapter.files import atomic_write
from lia_adapter.notes import renamed
from lia_adapter.progress import Progress

__all__ = ["Written", "make_dataset"]


@dataclass(frozen=True)
class Written:
    """What was put into a data-set zip.

    Attributes:
        images: How many.
        labelled: Whether they have labels.
        enlarged: How many were smaller than they are now.
        unreadable: Names of those that were left out, and why.
    """

    images: int
    labelled: bool
    enlarged: int
    unreadable: dict[str, str]


@renamed("fit", "resize_mode")
def make_dataset(
    source: str | Path,
    out: str | Path,
    size: tuple[int, int],
    *,
    resize_mode: str = "crop",
    split: str = "all",
    limit: int | None = None,
    bits: int | None = None,
    progress: Progress | None = None,
) -> Written:
    """Writes images of one size into an uncompressed zip, as lossless RGB, in the order of their names (LMDB: its keys).

    They are named 00000/img00000000.png and so on; dataset.json has `{"labels": [[name, label], ...]}`, or null for the
    labels. The same images make the same bytes. OUT appears when it is whole; an interrupted call leaves what was there.

    Args:
        source: Anything that `open_images` opens.
        out: The zip.
        size: (H, W) of the images.
        resize_mode: How images come to the size: crop, letterbox or stretch.
        split: Which images; see `open_images`.
        limit: Stop after so many that could be read; None for all.
        bits: Of integer images of more than 8 bits; see `open_images`.
        progress: Is told what is done.

    Raises:
        LIAError: The source can't be opened, none of its images can be read, only some have labels, one has a label that is
            none, or the zip can't be written.
    """
    if Path(out).exists() and Path(source).exists() and Path(out).samefile(source):
        raise ConfigError(f"{argument('out')} {out} is the data set that is to be read. Choose another name.")
    images = open_images(source, size, 3, resize_mode=resize_mode, split=split, bits=bits)
    labels = _labels(images, source)
    total = min(len(images), len(images) if limit is None else limit)
    pairs: list[tuple[str, Any]] = []
    enlarged = 0
    with atomic_write(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for number, item, png in in_order(lambda n: _encoded(images, n), range(len(images))):
            if item is not None:
                name = f"{len(pairs) // 1000:05d}/img{len(pairs):08d}.png"
                archive.writestr(zipfile.ZipInfo(name), png)  # ZipInfo: with the time of 1980, not of today
                pairs.append((name, labels.get(images.names[number])))
                enlarged += _is_enlarged(item)
            if progress:
                progress("dataset", len(pairs) if limit is not None else number + 1, total)
            if len(pairs) == limit:
                break
        if not pairs:
            raise none_readable(images)
        archive.writestr(zipfile.ZipInfo("dataset.json"), json.dumps({"labels": pairs if labels else None}))
    tried = set(images.names[: number + 1])
    unreadable = {name: why for name, why in images.unreadable.items() if name in tried}  # not those that were read ahead
    return Written(len(pairs), bool(labels), enlarged, unreadable)


def _labels(images: ImageSet, source: str | Path) -> dict[str, Any]:
    """The label of every image by its name, or nothing where the source has none."""
    if isinstance(images, ToyFaces):
        faces = open_images(source, images.resolution, images.channels, c_dim=2)  # all of them, as dataset.json has, too
        with_glasses = faces.labels(range(len(faces)))
        return {} if with_glasses is None else dict(zip(faces.names, with_glasses.argmax(dim=1).tolist(), strict=True))
    opened = open_source(source, max(images.resolution))
    names = image_names(opened)
    found = read_labels(opened, names)
    return {} if found is None else dict(zip(names, found, strict=True))


def _encoded(images: ImageSet, number: int) -> tuple[int, Item | None, bytes]:
    item = images.load(number)
    buffer = io.BytesIO()
    if item is not None:
        Image.fromarray(item.pixels.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return number, item, buffer.getvalue()


def _is_enlarged(item: Item) -> bool:
    (top, left, bottom, right), (y, x, y_end, x_end) = item.placement.box, item.placement.inner
    return bottom - top < y_end - y or right - left < x_end - x
