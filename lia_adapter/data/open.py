"""`open_images`: the one way to a data set."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lia_adapter.data.align import Alignment, read_alignment
from lia_adapter.data.fit import check_fit
from lia_adapter.data.images import ImageFiles, ImageSet
from lia_adapter.data.labels import read_labels
from lia_adapter.data.source import Source, image_names, left_out, open_source
from lia_adapter.data.toyfaces import ToyFaces, face_name
from lia_adapter.errors import ConfigError, LIAError, argument
from lia_adapter.generators.base import one_class
from lia_adapter.generators.labels import Label, check_given_label
from lia_adapter.notes import say_once

__all__ = ["held_out_numbers", "open_images"]

_TOY_FACES = 100_000
_HELD_OUT, _LEAST_HELD_OUT, _MOST_HELD_OUT = 0.05, 10, 1000
_LEAST_IMAGES = 100  # of a data set from which any are held out


def open_images(
    path: str | Path,
    resolution: tuple[int, int],
    channels: int,
    *,
    resize_mode: str = "crop",
    split: str = "all",
    c_dim: int = 0,
    label: Label | None = None,
    bits: int | None = None,
    align: str | None = None,
    landmarks: str | Path | None = None,
) -> ImageSet:
    """Opens a data set; its images are read later, one by one. Their colours come to sRGB by their profiles, if they have any.

    Args:
        path: A folder (searched recursively), a dataset zip of NVlabs' form, a folder with an LMDB (`data.mdb`), one image
            file, or "toyfaces" for 100,000 drawn faces, "toyfaces:N" for N of them (a folder of that name needs its whole
            path).
        resolution: (H, W) to fit the images to.
        channels: 1 for gray, 3 for RGB, 4 for RGBA.
        resize_mode: One of `lia_adapter.keys.RESIZE_MODES`.
        split: "all"; "first N" or "last N", in order of the names (the paper trains on the first 65,000 of FFHQ and tests on
            the last 5,000); "list FILE" of one name a line; "held out" for those of `held_out_numbers`; or one of these after
            "not", for all the others.
        c_dim: Entries of a label. With 0, labels are not looked at; else every image must have one. Toy faces have 2: without
            and with glasses.
        label: The class of all images, or the numbers of their label, instead of the data set's own labels.
        bits: Of integer images of more than 8 bits, how many count: 2^bits - 1 is white. None: as many as the largest value
            takes of all images of the data set that are of the same kind of file.
        align: "ffhq" cuts faces out as FFHQ has them, turned upright, in place of what the resize mode says; the resolution is
            then a square. Images without landmarks are among the unreadable.
        landmarks: The file that tells where faces are, see `lia_adapter.data.align.read_alignment`.

    Raises:
        LIAError: There is no such data set, it holds no images, its labels do not match, or an argument does not fit.
    """
    check_fit(channels, resize_mode)
    check_given_label(label, c_dim)
    if bits is not None and not 1 <= bits <= 32:
        raise ConfigError(f"the images are said to have {bits} bits; expected 1 to 32.")
    alignment = read_alignment(align, landmarks)
    if (match := re.fullmatch(r"toyfaces(?::([1-9][0-9]{0,8}))?", str(path))) is not None:
        if label is not None:
            raise ConfigError(f"toy faces bring labels of their own; leave out {argument('label')}.")
        if alignment is not None:
            raise ConfigError(f"toy faces are aligned as they are; leave out {argument('align')} and {argument('landmarks')}.")
        if c_dim not in (0, 2):
            raise LIAError(f"toy faces have labels of 2 entries, without and with glasses; expected c_dim 0 or 2, not {c_dim}.")
        names = [face_name(seed) for seed in range(int(match[1] or _TOY_FACES))]
        return ToyFaces(_split(split, names, Path(str(path))), resolution, channels, c_dim)
    source = open_source(path, max(resolution))
    names = image_names(source)
    if others := left_out(source, names):
        say_once(f"{source.path}: left out: {others}")
    labels = _labels(source, names, c_dim, label) if c_dim else None
    chosen = _split(split, names, source.path)
    if alignment is not None:
        _check_alignment(alignment, [names[i] for i in chosen], source.path, resolution, resize_mode)
    return ImageFiles(
        source, [names[i] for i in chosen], resolution, channels, resize_mode,
        None if labels is None else (labels[chosen], c_dim), bits, names, alignment,
    )  # fmt: skip


def _check_alignment(
    alignment: Alignment, names: Sequence[str], path: Path, resolution: tuple[int, int], resize_mode: str
) -> None:
    if resize_mode != "crop":
        raise ConfigError(
            f"{argument('align')} says what is cut out, so that {argument('resize_mode')} says nothing. Leave it out."
        )
    if resolution[0] != resolution[1]:
        size = f"{resolution[1]} x {resolution[0]}"
        raise ConfigError(f"aligned faces are squares, but the generator draws {size}. Leave out {argument('align')}.")
    if not any(name in alignment.squares for name in names):
        raise ConfigError(
            f"{alignment.path} has landmarks for none of the {len(names):,} images of {path}: it names "
            f"{next(iter(alignment.squares))!r}, and the first image is {names[0]!r}. Name them as they are in {path}."
        )


def _labels(source: Source, names: Sequence[str], c_dim: int, label: Label | None) -> Tensor:
    """Of all images: class numbers, int64 [n], or float32 [n, c_dim]."""
    if label is not None:
        n = len(names)
        return torch.full([n], label) if isinstance(label, int) else one_class(label, c_dim, n, torch.zeros(()))
    values = read_labels(source, names, c_dim)
    assert values is not None  # noqa: S101  (of labels that are needed, none are missing)
    return torch.tensor(values, dtype=torch.int64 if isinstance(values[0], int) else torch.float32)


def _split(split: str, names: Sequence[str], path: Path) -> list[int]:
    """Numbers of the images that are asked for, ascending."""
    match = re.fullmatch(r"(not )?(?:(first|last) ([0-9]{1,18})|list (.+)|(held out))|all", split.strip())
    if not match:
        raise ConfigError(
            f"cannot read the split {split!r}; expected all, first N, last N, list FILE, held out, or not before one of them."
        )
    inverted, end, number, file, kept = match.groups()
    if file:
        chosen = _listed(file, names, path)
    elif end:
        n = int(number)
        if n > len(names):
            raise ConfigError(f"the split {split!r} asks for more images than {path} holds ({len(names):,}).")
        chosen = set(range(n) if end == "first" else range(len(names) - n, len(names)))
    elif kept:
        chosen = held_out_numbers(names)
    else:
        chosen = set(range(len(names)))
    found = [i for i in range(len(names)) if (i in chosen) != bool(inverted)]
    if not found:
        why = f" (of fewer than {_LEAST_IMAGES}, none are held out)" if kept else ""
        raise ConfigError(f"the split {split!r} leaves none of the {len(names):,} images in {path}{why}.")
    return found


def held_out_numbers(names: Sequence[str]) -> set[int]:
    """The images that a training leaves out where nobody says which: 5 % of them, 10 to 1,000; none of fewer than 100.

    Those whose names have the smallest SHA-256: they lie all over the set, whatever its order means, and are the same on every
    machine, in a folder and in a zip. A name that is added or taken away changes no more than two of them.
    """
    if len(names) < _LEAST_IMAGES:
        return set()
    n = min(_MOST_HELD_OUT, max(_LEAST_HELD_OUT, round(_HELD_OUT * len(names))))
    # surrogateescape: a name on disk may be no UTF-8.
    order = [(hashlib.sha256(name.encode(errors="surrogateescape")).digest(), i) for i, name in enumerate(names)]
    return {i for _, i in sorted(order)[:n]}


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
