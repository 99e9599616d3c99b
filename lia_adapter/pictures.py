"""Pictures of images: sheets of many, PNG files, and what the seeds of a LIA look like."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from lia_adapter.files import atomic_write
from lia_adapter.generators.base import one_class
from lia_adapter.generators.labels import Label
from lia_adapter.keys import SEED_MAPPINGS
from lia_adapter.lia import LIA
from lia_adapter.progress import Progress
from lia_adapter.resize import resize

__all__ = [
    "COLUMNS",
    "Sheet",
    "comparison_count",
    "comparison_grid",
    "drawn",
    "image_grid",
    "one_hot",
    "paired_grid",
    "png_bytes",
    "samples_sheet",
    "save_png",
]

COLUMNS = 8
"""Images in a row where sets of images are compared."""

_TILE, _SHEET = 256, 2048  # pixels a side in reports, at most
_FULL_SHEET = 8192  # 64 images of 1024²
_FAST = 1  # of zlib's levels: a 1024² image takes 0.09 s instead of 0.33 s and is an eighth larger


def to_uint8(x: Tensor) -> Tensor:
    """Images [N, C, H, W] in [-1, 1] -> uint8 [N, H, W, C], rounded and clamped as StyleGAN's own programs do.

    One channel is gray and becomes RGB, which is what sheets and pages show; three are RGB, and four RGBA.
    """
    x = (x * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x[:, : 4 if x.shape[1] == 4 else 3]
    if x.shape[1] == 2:
        x = torch.cat([x, x[:, :1]], dim=1)
    return x.permute(0, 2, 3, 1).cpu()


class Sheet:
    """One picture of many images in rows, which need not be there at once: of each only its pixels on the sheet are kept.

    Args:
        count: Images of each set; a place that gets none stays white.
        columns: Images in a row; None makes the sheet about square.
        sets: Rows in turn: of the first set, below each the same of the second, and so on.
        full: Images keep their size, up to a sheet of 8,192 pixels a side, rather than shrink to at most 256 pixels a side
            and a sheet of 2,048.
    """

    def __init__(self, count: int, columns: int | None = None, *, sets: int = 1, full: bool = False) -> None:
        self.columns = min(count, columns or math.ceil(math.sqrt(count)))
        self.rows = -(-count // self.columns) * sets
        most = (_FULL_SHEET if full else _SHEET) // max(self.rows, self.columns)
        self._most = max(1, most if full else min(most, _TILE))
        self._filled = [0] * sets
        self._image: Image.Image | None = None

    def add(self, x: Tensor, of: int = 0) -> None:
        """The next images x [n, C, H, W] in [-1, 1] of a set; all images are of one size."""
        for one in x.split(1):  # as what becomes of an image on the way takes as much memory again as it does
            tile = Image.fromarray(to_uint8(resize(one.float(), most=self._most))[0].numpy())
            if self._image is None:
                self._image = Image.new(tile.mode, (self.columns * tile.width, self.rows * tile.height), "white")
            row, column = divmod(self._filled[of], self.columns)
            self._image.paste(tile, (column * tile.width, (row * len(self._filled) + of) * tile.height))
            self._filled[of] += 1

    @property
    def image(self) -> Image.Image:
        """The picture, as far as it is filled.

        Raises:
            ValueError: It is empty.
        """
        if self._image is None:
            raise ValueError("a sheet has no size before its first image.")
        return self._image


def image_grid(x: Tensor, columns: int | None = None) -> Image.Image:
    """One picture of many: images [N, C, H, W] in [-1, 1] in rows.

    Args:
        x: The images.
        columns: Images in a row; None makes the grid about square.
    """
    sheet = Sheet(len(x), columns, full=True)
    sheet.add(x)
    return sheet.image


def png_bytes(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def save_png(path: str | Path, image: Image.Image, text: Mapping[str, str] | None = None) -> None:
    """Writes a PNG, whole or not at all, with the colour profile (icc_profile) and the EXIF data (exif) that its `info` holds.

    Args:
        path: The file.
        image: The picture.
        text: Texts that it carries, by keyword.

    Raises:
        LIAError: The file cannot be written.
    """
    chunks = PngInfo()
    for key, value in (text or {}).items():
        chunks.add_itxt(key, value)
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG", compress_level=_FAST, exif=image.info.get("exif", b""), pnginfo=chunks)


def one_hot(classes: Sequence[int], c_dim: int) -> Tensor | None:
    """Labels c [N, c_dim] of class numbers; None for an unconditional generator."""
    return F.one_hot(torch.tensor(classes), c_dim).float() if c_dim else None


def drawn(
    lia: LIA, seeds: Sequence[int], *, psi: float = 1.0, label: Label | None = None, mapping: str = "original"
) -> Iterator[Tensor]:
    """Images of seeds, as many at a time as memory and speed allow.

    Args:
        lia: Draws them.
        seeds: N numbers in 0 .. 2³² - 1.
        psi: Truncation; 1 is none.
        label: The class of all images of a conditional generator, or the numbers of their label; None: classes take turns
            with the seeds.
        mapping: original or invertible; see `LIA.sample`.

    Returns:
        Iterates over x [n, C, H, W], about in [-1, 1] (not clamped), of the next n seeds.

    Raises:
        LIAError: There is no such mapping.
    """
    g = lia.generator
    turns = [seed % max(g.c_dim, 1) for seed in seeds]
    c = one_hot(turns, g.c_dim) if label is None else one_class(label, g.c_dim, len(seeds), torch.zeros(()))
    return lia.pictures(seeds, psi=psi, c=c, mapping=mapping)


def comparison_count(lia: LIA) -> int:
    """How many seeds `comparison_grid` shows."""
    return 32 if max(lia.generator.resolution) <= _TILE else 16  # large ones take seconds each


def comparison_grid(lia: LIA, progress: Progress | None = None) -> Image.Image:
    """The z of the same seeds through both mappings: rows of the original's pictures, each above the invertible one's.

    Args:
        lia: Converted.
        progress: Is told the pictures drawn and to draw.
    """
    count = comparison_count(lia)
    sheet, done = Sheet(count, COLUMNS, sets=2), 0
    if progress:
        progress("pictures", 0, 2 * count)
    for of, mapping in enumerate(SEED_MAPPINGS):
        for x in drawn(lia, range(count), mapping=mapping):
            sheet.add(x, of)
            done += len(x)
            if progress:
                progress("pictures", done, 2 * count)
    return sheet.image


def paired_grid(*sets: Tensor) -> Image.Image:
    """Rows of images in turn: of the first set, below each the same of the second, and so on; each [N, C, H, W]."""
    sheet = Sheet(len(sets[0]), COLUMNS, sets=len(sets))
    for of, x in enumerate(sets):
        sheet.add(x, of)
    return sheet.image


def samples_sheet(lia: LIA, count: int, progress: Progress | None = None) -> Image.Image:
    """The first seeds on one sheet.

    Args:
        lia: Draws them by the generator's own mapping.
        count: How many.
        progress: Is told the pictures drawn and to draw.
    """
    sheet, done = Sheet(count), 0
    if progress:
        progress("pictures", 0, count)
    for x in drawn(lia, range(count)):
        sheet.add(x)
        done += len(x)
        if progress:
            progress("pictures", done, count)
    return sheet.image
