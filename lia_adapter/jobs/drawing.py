"""Images or codes of images, one batch after another, to be drawn: what `reconstruct` and `edit` share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor

from lia_adapter.budget import in_parts
from lia_adapter.codes import Codes, is_codes_file, open_codes
from lia_adapter.data import ImageSet, Placement, in_batches, open_images
from lia_adapter.errors import ConfigError, LIAError, argument
from lia_adapter.generators.labels import Label
from lia_adapter.lia import LIA

__all__ = ["Coded", "Drawing", "Drawn", "is_part", "open_drawing"]

R = TypeVar("R")


@dataclass(frozen=True)
class Coded:
    """Codes of some images, and what belongs to them.

    Attributes:
        code: y [n, y_dim] or ys [n, num_ws, y_dim].
        kept: What a method of inversion found beside them, for `draw_code`.
        c: Labels [n, c_dim], or None.
        numbers: Of the images, within the names of the source.
    """

    code: Tensor
    kept: Mapping[str, Tensor]
    c: Tensor | None
    numbers: Sequence[int]


@dataclass(frozen=True)
class Drawn(Generic[R]):
    """What was made of one image.

    Attributes:
        number: Of the image.
        made: Of its code.
        x: The image itself [C, H, W], or None where it is not at hand.
        placement: Where the image lies in its picture.
    """

    number: int
    made: R
    x: Tensor | None
    placement: Placement


@dataclass(frozen=True)
class Drawing:
    """A source of codes that was opened.

    Attributes:
        lia: Whose codes they are.
        names: Of the images.
        data: Where the images are, or were.
        images: The images; None where they are not at hand.
        numbers: Of codes: the number of each image within `images`.
        codes: The file of codes, or None where the images are encoded.
        problem: Why the images of codes are not at hand; empty where they are.
    """

    lia: LIA
    names: Sequence[str]
    data: str
    images: ImageSet | None
    numbers: Sequence[int] | None
    codes: Codes | None
    problem: str = ""

    @torch.no_grad()
    def each(
        self, make: Callable[[Coded], Sequence[R]], batch: int | None = None, numbers: Sequence[int] | None = None
    ) -> Iterator[Drawn[R]]:
        """What `make` gives for codes, image by image, in order; images that cannot be read are left out.

        Args:
            make: Of some codes as many answers.
            batch: Images a pass, at most; None: what memory and speed allow.
            numbers: Which of `names`; None: all.
        """
        lia, codes, images = self.lia, self.codes, self.images
        wanted = range(len(self.names)) if numbers is None else numbers
        if codes is None:
            assert images is not None  # noqa: S101  (one of the two was opened)
            for part in in_batches(images, wanted, lia.at_once("reconstruct", batch), lia.device):
                for made in in_parts(lambda some: make(Coded(lia.encode(some.x), {}, some.c, some.numbers)), part, len(part)):
                    some, part = part[: len(made)], part[len(made) :]
                    yield from map(Drawn, some.numbers, made, some.x.cpu(), some.placements)
            return
        first = 0
        for made in in_parts(lambda part: make(_coded(lia, codes, part)), wanted, lia.at_once("draw", batch)):
            for i, one in zip(wanted[first:], made, strict=False):
                item = None if images is None or self.numbers is None else images.load(self.numbers[i])
                yield Drawn(i, one, None if item is None else item.x, Placement.from_json(codes.placements[i]))
            first += len(made)

    def original(self, number: int) -> int:
        """The number within `images` of an image of `each`."""
        return number if self.numbers is None else self.numbers[number]


def open_drawing(
    lia: LIA,
    source: str | Path,
    *,
    resize_mode: str | None = None,
    split: str | None = None,
    label: Label | None = None,
    bits: int | None = None,
    align: str | None = None,
    landmarks: str | Path | None = None,
    trust_codes: bool = False,
) -> Drawing:
    """Opens images or codes; see `reconstruct_images` for the arguments.

    Raises:
        LIAError: No encoder, no images, codes of another generator, or an argument that codes know already.
    """
    source, g = Path(source), lia.generator
    if not is_codes_file(source):
        if lia.encoder is None:
            raise LIAError("this file has no encoder. Run lia-adapt train-encoder on it first, or give a file of codes.")
        images = open_images(
            source, g.resolution, g.channels, resize_mode=resize_mode or "crop", split=split or "all", c_dim=g.c_dim,
            label=label, bits=bits, align=align, landmarks=landmarks,
        )  # fmt: skip
        return Drawing(lia, images.names, str(images.path), images, None, None)
    for given, flags in (((resize_mode, split), ("resize_mode", "split")), ((align, landmarks), ("align", "landmarks"))):
        if any(value is not None for value in given):
            both = " and ".join(map(argument, flags))
            raise ConfigError(f"{source.name} holds codes, which know how images were read. Leave {both} out.")
    codes = open_codes(source, lia, trust=trust_codes)
    found, problem = _originals(lia, codes)
    numbers = None if found is None else _numbers(found, codes)
    return Drawing(lia, codes.names, str(codes.about.get("data", "")), found, numbers, codes, problem)


def is_part(placement: Placement, resolution: tuple[int, int]) -> bool:
    """Whether the picture is more than the fitted image."""
    whole = (0, 0, *placement.size)
    return placement.size != tuple(resolution) or placement.box != whole or placement.inner != whole


def _coded(lia: LIA, codes: Codes, part: Sequence[int]) -> Coded:
    rows = list(part)
    c = codes.tensors.get("c")
    return Coded(
        codes.ys[rows].to(lia.device), codes.kept(rows, lia.device), None if c is None else c[rows].to(lia.device), rows
    )


def _originals(lia: LIA, codes: Codes) -> tuple[ImageSet | None, str]:
    """The images that codes were made of, or why they are not at hand."""
    g, about = lia.generator, codes.about
    try:
        data, mode, split = (str(about[key]) for key in ("data", "fit", "split"))
        images = open_images(
            data, g.resolution, g.channels, resize_mode=mode, split=split, c_dim=g.c_dim, label=about.get("label"),
            bits=about.get("bits"), align=about.get("align"), landmarks=about.get("landmarks"),
        )  # fmt: skip
    except KeyError:
        return None, "The codes do not say where their images are."
    except LIAError as error:
        return None, str(error)
    if images.identity() != about.get("identity"):
        return None, f"The images in {images.path} have changed since the codes were made."
    return images, ""


def _numbers(images: ImageSet, codes: Codes) -> list[int]:
    number = {name: i for i, name in enumerate(images.names)}
    if unknown := [name for name in codes.names if name not in number]:
        raise LIAError(f"the codes name the image {unknown[0]!r}, which {images.path} does not hold. Encode the images again.")
    return [number[name] for name in codes.names]
