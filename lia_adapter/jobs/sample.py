"""`sample`: pictures of seeds, each in a file of its own or many on a sheet."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from lia_adapter.data import in_order
from lia_adapter.errors import ConfigError, LIAError, argument
from lia_adapter.files import check_writable, make_folder
from lia_adapter.generators.labels import Label, check_given_label, label_words
from lia_adapter.lia import LIA
from lia_adapter.pictures import Sheet, drawn, save_png
from lia_adapter.progress import Progress

__all__ = ["check_samples", "sample_files", "sample_seeds"]

_SHEET = 64  # pictures on one sheet, at most: of 1024², they make a PNG of 8,192 pixels a side
_WAITING = 64  # images that are drawn and not yet written, at most


def sample_seeds(
    lia: LIA,
    files: Mapping[Path, Sequence[int]],
    *,
    psi: float = 1.0,
    label: Label | None = None,
    mapping: str = "original",
    progress: Progress | None = None,
) -> None:
    """Draws seeds into PNGs, each of which is there as soon as its seeds are drawn.

    Args:
        lia: Draws them.
        files: The seeds of each file, at least one. The folder of the first, which is that of all, is made where there is none.
        psi: Truncation; 1 is none.
        label: The class, or the numbers of the label, for a conditional generator.
        mapping: What makes codes of seeds: original, the checkpoint's own, or invertible; see `LIA.sample`.
        progress: Is told the pictures drawn and to draw.

    Raises:
        LIAError: There is no such mapping, or a file cannot be written.
    """
    first, total = next(iter(files)), sum(map(len, files.values()))
    seeds = list(itertools.chain.from_iterable(files.values()))
    images = drawn(lia, seeds, psi=psi, label=label, mapping=mapping)  # refuses a mapping before it makes a folder
    make_folder(first.parent)
    check_writable(first)
    if progress:
        progress("pictures", 0, total)
    ahead = max(1, _WAITING // max(map(len, files.values())))
    pictures = _pictures(files, _one_by_one(images, total, progress))
    for _ in in_order(lambda found: save_png(*found), pictures, ahead=ahead):  # compresses while the next ones are drawn
        pass
    if progress:
        progress("pictures", total, total)


def _pictures(files: Mapping[Path, Sequence[int]], images: Iterator[Tensor]) -> Iterator[tuple[Path, Image.Image]]:
    for path, here in files.items():
        sheet = Sheet(len(here), full=True)
        for image in itertools.islice(images, len(here)):
            sheet.add(image)
        yield path, sheet.image


def _one_by_one(images: Iterator[Tensor], total: int, progress: Progress | None) -> Iterator[Tensor]:
    """The images of batches, one after another: [1, C, H, W]."""
    done = 0
    for x in images:
        done += len(x)
        if progress and done < total:  # the end is told when all is written
            progress("pictures", done, total)
        yield from x.split(1)


def check_samples(lia: LIA, label: Label | None, mapping: str = "original") -> None:
    """Refuses a generator that draws no images, that would need a label, or that has no such mapping.

    Raises:
        LIAError: It does.
    """
    lia.pictures([], mapping=mapping)  # draws nothing
    if (makes := lia.generator.makes) != "images":
        raise LIAError(f"this generator makes {makes}, which only a renderer turns into images. Use it from Python.")
    c_dim = lia.generator.c_dim
    check_given_label(label, c_dim)
    if c_dim and label is None:
        raise ConfigError(
            f"this generator is conditional: give {argument('label', 'class')} 0 to {c_dim - 1} or, where labels are "
            f"continuous, {argument('label', 'numbers')} A,B,... of {label_words(c_dim)}."
        )


def sample_files(out: str, seeds: Sequence[int]) -> dict[Path, Sequence[int]]:
    """Which seeds go into which file.

    Raises:
        LIAError: `out` is neither a .png nor a folder, or a .png that cannot be written.
    """
    path = Path(out)
    if out.endswith(os.sep) or not path.suffix or (path.suffix.lower() != ".png" and path.is_dir()):
        return {path / f"seed{seed:04d}.png": [seed] for seed in seeds}  # named as NVlabs' programs name them
    if path.suffix.lower() != ".png":
        names = f"{path.with_suffix('.png')}, or {out}{os.sep}"
        raise ConfigError(f"{argument('out')} {out} ends in {path.suffix}; expected a picture or a folder. Name {names}.")
    count = -(-len(seeds) // _SHEET)
    stem, ending = path.stem, path.suffix
    paths = [path] if count == 1 else [path.with_name(f"{stem}-{i:05d}-of-{count:05d}{ending}") for i in range(1, count + 1)]
    check_writable(paths[0])
    return {path: seeds[i * _SHEET : (i + 1) * _SHEET] for i, path in enumerate(paths)}
