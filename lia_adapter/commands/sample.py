"""`sample`: pictures of seeds, each in a file of its own or many on a sheet."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from lia_adapter.data import in_order
from lia_adapter.files import check_writable, make_folder
from lia_adapter.generators.labels import Label
from lia_adapter.lia import LIA
from lia_adapter.report import Sheet, drawn, save_png

__all__ = ["sample_seeds"]

_WAITING = 64  # images that are drawn and not yet written, at most


def sample_seeds(
    lia: LIA,
    files: Mapping[Path, Sequence[int]],
    *,
    psi: float = 1.0,
    label: Label | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Draws seeds into PNGs, each of which is there as soon as its seeds are drawn.

    Args:
        lia: Draws them.
        files: The seeds of each file, at least one. The folder of the first, which is that of all, is made where there is none.
        psi: Truncation; 1 is none.
        label: The class, or the numbers of the label, for a conditional generator.
        progress: Is told the pictures drawn and to draw.

    Raises:
        LIAError: A file cannot be written.
    """
    first, total = next(iter(files)), sum(map(len, files.values()))
    make_folder(first.parent)
    check_writable(first)
    if progress:
        progress("pictures", 0, total)
    ahead = max(1, _WAITING // max(map(len, files.values())))
    pictures = _pictures(lia, files, psi, label, progress)
    for _ in in_order(lambda found: save_png(*found), pictures, ahead=ahead):  # compresses while the next ones are drawn
        pass
    if progress:
        progress("pictures", total, total)


def _pictures(
    lia: LIA,
    files: Mapping[Path, Sequence[int]],
    psi: float,
    label: Label | None,
    progress: Callable[[str, int, int], None] | None,
) -> Iterator[tuple[Path, Image.Image]]:
    images = _images(lia, list(itertools.chain.from_iterable(files.values())), psi, label, progress)
    for path, here in files.items():
        sheet = Sheet(len(here), full=True)
        for image in itertools.islice(images, len(here)):
            sheet.add(image)
        yield path, sheet.image


def _images(
    lia: LIA, seeds: Sequence[int], psi: float, label: Label | None, progress: Callable[[str, int, int], None] | None
) -> Iterator[Tensor]:
    """Images [1, C, H, W] of seeds, one after another."""
    done = 0
    for x in drawn(lia, seeds, psi=psi, label=label):
        done += len(x)
        if progress and done < len(seeds):  # the end is told when all is written
            progress("pictures", done, len(seeds))
        yield from x.split(1)
