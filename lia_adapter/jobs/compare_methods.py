"""What `compare` compares: the encoder, files of codes, and folders of what other programs made of the same images."""

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from lia_adapter.codes import Codes, open_codes
from lia_adapter.data import Batch, ImageSet, in_batches, in_order, none_readable, open_images, to_floats
from lia_adapter.errors import ConfigError, LIAError, argument
from lia_adapter.files import sha256_file
from lia_adapter.generators import fingerprint
from lia_adapter.lia import LIA
from lia_adapter.progress import Progress

__all__ = ["Common", "ENCODER", "Given", "Method", "common_images", "open_methods", "pairs"]

ENCODER = "encoder"
"""The name of the row of the LIA's own encoder."""


@dataclass(frozen=True)
class Method:
    """One way to codes, or to pictures.

    Attributes:
        name: By the user's word.
        kind: encoder, codes or pictures.
        source: Where they are.
        identity: What they are: by a hash.
        place: Number of an image -> where it is among codes or pictures.
        codes: Of codes.
        pictures: Of a folder.
    """

    name: str
    kind: str
    source: str
    identity: str
    place: Mapping[int, int]
    codes: Codes | None = None
    pictures: ImageSet | None = None

    def batches(self, images: ImageSet, numbers: Sequence[int], size: int, lia: LIA) -> Iterator[tuple[Batch, "Given | None"]]:
        """Images, and beside them what the method found of them; nothing of the encoder.

        Raises:
            LIAError: A picture cannot be read any more.
        """
        for part in in_batches(images, numbers, size, lia.device):
            places = [self.place[number] for number in part.numbers]
            if self.codes is not None:
                yield part, Given(self.codes.ys[places].to(lia.device), self.codes.kept(places, lia.device))
            elif self.pictures is not None:
                items = [self.pictures.load(place) for place in places]
                found = [item.pixels for item in items if item is not None]
                if len(found) < len(items):
                    name, why = next(iter(self.pictures.unreadable.items()))
                    raise LIAError(f"cannot read {name!r} of {self.source} any more: {why}. Give the same command again.")
                yield part, Given(to_floats(torch.stack(found).to(lia.device)), {})
            else:
                yield part, None


@dataclass(frozen=True)
class Given:
    """What a method found of some images.

    Attributes:
        found: Codes y [n, y_dim] or ys [n, num_ws, y_dim], or pictures [n, C, H, W].
        kept: What belongs to the codes (`inversion.redraw`), [n, …] each.
    """

    found: Tensor
    kept: dict[str, Tensor]

    def __getitem__(self, rows: slice) -> "Given":
        return Given(self.found[rows], {name: value[rows] for name, value in self.kept.items()})


def open_methods(
    lia: LIA,
    images: ImageSet,
    codes: Mapping[str, str | Path],
    also: Mapping[str, str | Path],
    *,
    resize_mode: str,
    bits: int | None = None,
    align: str | None = None,
    trust_codes: bool = False,
) -> list[Method]:
    """The methods, in this order: the LIA's encoder, files of codes, folders of pictures.

    Raises:
        LIAError: There are none, two have one name, one has no image of the set, or it cannot be read.
    """
    named = [*([ENCODER] if lia.encoder is not None else []), *codes, *also]
    if not named:
        raise LIAError(
            f"there is nothing to compare: this file has no encoder. Give {argument('codes')} or {argument('also')} NAME=FILE."
        )
    for name in named:
        if named.count(name) > 1:
            whose = ", which is the file's own encoder" if name == ENCODER else ""
            raise ConfigError(f"two methods are called {name!r}{whose}. Give each a name of its own.")
        if not name or name != " ".join(name.split()) or not name.isprintable():
            raise ConfigError(f"a method is called {name!r}; expected a name in one line, such as mine=codes.safetensors.")
    found: list[Method] = []
    if lia.encoder is not None:
        every = dict(zip(range(len(images)), range(len(images)), strict=True))
        found.append(Method(ENCODER, "encoder", "the file's own encoder", fingerprint(lia.encoder), every))
    for name, path in codes.items():
        opened = open_codes(path, lia, trust=trust_codes)
        theirs, ours = _cut(opened.about.get("fit", resize_mode), opened.about.get("align")), _cut(resize_mode, align)
        if theirs != ours:
            raise ConfigError(
                f"the codes of {name!r} are of images {theirs}, and compare reads these {ours}. Give codes of the same images, "
                f"or other {argument('resize_mode')} or {argument('align')}."
            )
        place = _paired(name, path, images, opened.names)
        found.append(Method(name, "codes", str(path), _codes_identity(Path(path), opened), place, codes=opened))
    for name, path in also.items():
        if not Path(path).exists():
            raise LIAError(f"there is no {path}, for the method {name!r}; expected a folder of pictures. Check the path.")
        pictures = open_images(path, images.resolution, images.channels, resize_mode=resize_mode, bits=bits)
        place = _paired(name, path, images, pictures.names)
        found.append(Method(name, "pictures", str(path), pictures.identity(), place, pictures=pictures))
    return found


def _cut(resize_mode: str, align: str | None) -> str:
    return f"cut by {resize_mode}" if align is None else f"aligned as {align} has them"


def _codes_identity(path: Path, codes: Codes) -> str:
    """By the file's bytes; of shards, by all that they hold in memory."""
    if path.exists():
        return sha256_file(path)
    digest = hashlib.sha256(repr(codes.names).encode())
    for name in sorted(codes.tensors):
        digest.update(codes.tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _paired(name: str, path: str | Path, images: ImageSet, others: Sequence[str]) -> dict[int, int]:
    place = pairs(images.names, others)
    if not place:
        raise LIAError(
            f"the method {name!r} has none of the images of {images.path}: {path} has {others[0]!r}, and the images begin with "
            f"{images.names[0]!r}. Names without their endings must be the same."
        )
    return place


def pairs(names: Sequence[str], others: Sequence[str]) -> dict[int, int]:
    """Which of the others belongs to each image: by its whole name, or else by its name without the ending.

    Without the ending only where it is the only one of that name on both sides.

    >>> pairs(["a.jpg", "b.jpg", "c.jpg", "c.png"], ["a.png", "c.png", "d.png"])
    {0: 0, 3: 1}
    """
    whole = {name: i for i, name in enumerate(others)}
    ours, theirs = (_by_stem(side) for side in (names, others))
    found = {}
    for i, name in enumerate(names):
        stem = _stem(name)
        if name in whole:
            found[i] = whole[name]
        elif len(ours[stem]) == 1 and len(theirs.get(stem, ())) == 1:
            found[i] = theirs[stem][0]
    return found


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).name else name


def _by_stem(names: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        found.setdefault(_stem(name), []).append(i)
    return found


@dataclass(frozen=True)
class Common:
    """The images that are compared.

    Attributes:
        numbers: Of the images that all methods have.
        left_out: The others by name, and why.
        resized: By method, how many of its pictures had another size than the generator's.
    """

    numbers: tuple[int, ...]
    left_out: dict[str, str]
    resized: dict[str, int]


def common_images(images: ImageSet, methods: Sequence[Method], progress: Progress | None = None) -> Common:
    """Reads everything once, so that all methods are measured on the very same images.

    Raises:
        LIAError: No image is left, or none can be read.
    """
    left_out: dict[str, str] = {}
    resized: dict[str, int] = {}
    numbers = list(range(len(images)))
    for method in methods:
        for number in numbers:
            if number not in method.place:
                left_out[images.names[number]] = f"{method.name!r} does not have it"
        numbers = [number for number in numbers if number in method.place]
    if not numbers:
        raise LIAError(
            f"no image of {images.path} is there for all methods ({', '.join(repr(method.name) for method in methods)}). "
            "Leave out the one that has the fewest, or give the same images to each."
        )
    sides: list[tuple[Method | None, ImageSet]] = [(None, images)]
    sides += [(method, method.pictures) for method in methods if method.pictures is not None]
    done, total = 0, len(numbers) * len(sides)
    for owner, side in sides:
        places = {number: number if owner is None else owner.place[number] for number in numbers}
        for number, size in zip(places, in_order(functools.partial(_size, side), places.values()), strict=True):
            done += 1
            if progress:
                progress("read", done, total)
            if size is None:
                why = side.unreadable[side.names[places[number]]]
                of = "" if owner is None else f"that of {owner.name!r} cannot be read: "
                left_out[images.names[number]] = f"{of}{why}"
            elif owner is not None and size != tuple(images.resolution):
                resized[owner.name] = resized.get(owner.name, 0) + 1
        numbers = [number for number in numbers if images.names[number] not in left_out]
        if not numbers:
            raise none_readable(side)
        total = done + len(numbers) * (len(sides) - 1 - sides.index((owner, side)))
    if progress:
        progress("read", done, done)
    return Common(tuple(numbers), dict(sorted(left_out.items())), resized)


def _size(images: ImageSet, number: int) -> tuple[int, int] | None:
    """(H, W) of a picture as it is, or None where it cannot be read."""
    item = images.load(number)
    return None if item is None else item.placement.size
