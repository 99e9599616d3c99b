"""A picture of any size to a generator's size; `paste` is the way back."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lia_adapter.data.colour import to_srgb
from lia_adapter.data.decode import upright
from lia_adapter.data.square import Square, cut
from lia_adapter.errors import ConfigError, LIAError
from lia_adapter.keys import RESIZE_MODES

__all__ = [
    "ALIGNED",
    "MODES",
    "Placement",
    "check_fit",
    "fit_image",
    "fit_pixels",
    "for_pillow",
    "resized",
    "to_floats",
    "to_pixels",
]

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's, by channels."""
ALIGNED = "aligned"
"""The fit of an image that is a square cut out of its picture, turned."""


@dataclass(frozen=True)
class Placement:
    """Where a fitted image is in its picture. Boxes are (top, left, bottom, right) in whole pixels, ends exclusive.

    Attributes:
        fit: One of `RESIZE_MODES`, or `ALIGNED`.
        size: (H, W) of the upright picture.
        box: The part of the picture that the image shows; of an aligned one, the least that its square fits in.
        inner: The part of the image that shows it; the rest are bars.
        square: What an aligned image shows.
        converted: Whether its colours came to sRGB through the picture's profile.
    """

    fit: str
    size: tuple[int, int]
    box: tuple[int, int, int, int]
    inner: tuple[int, int, int, int]
    square: Square | None = None
    converted: bool = False

    def to_json(self) -> dict[str, Any]:
        """Its values as JSON can say them; of those that the first release did not know, only what is not the default."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        return {key: value for key, value in values.items() if value or key not in ("square", "converted")}

    @staticmethod
    def from_json(values: Any) -> "Placement":
        """Reads what `to_json` made.

        Raises:
            LIAError: It is something else, or a box that does not lie in its picture.
        """
        try:
            square = None if values.get("square") is None else Square(*values["square"])
            size, box, inner = (tuple(values[key]) for key in ("size", "box", "inner"))
            placement = Placement(values["fit"], size, box, inner, square, values.get("converted", False))
            height, width = placement.size
            numbers = (height, width, *placement.box, *placement.inner)
            if not (all(type(n) is int for n in numbers) and len(numbers) == 10 and type(placement.converted) is bool):
                raise ValueError
            if placement.fit not in (RESIZE_MODES if square is None else (ALIGNED,)) or not (square is None or square.is_one()):
                raise ValueError
            for (top, left, bottom, right), (h, w) in ((placement.box, (height, width)), (placement.inner, (2**31, 2**31))):
                if not (0 <= top < bottom <= h and 0 <= left < right <= w):
                    raise ValueError
        except (AttributeError, KeyError, TypeError, ValueError):
            raise LIAError(
                f"cannot read the placement of an image: {values!r:.200}. Make the file that holds it again."
            ) from None
        return placement


def check_fit(channels: int, resize_mode: str) -> None:
    """Finds out whether images can be fitted so.

    Raises:
        ConfigError: A number of channels that is neither 1, 3 nor 4, or a resize mode that is not one of `RESIZE_MODES`.
    """
    if channels not in MODES:
        raise ConfigError(f"images are gray (1 channel), RGB (3) or RGBA (4), but the generator draws {channels} channels.")
    if resize_mode not in RESIZE_MODES:
        raise ConfigError(f"there is no resize mode {resize_mode!r}; expected {', '.join(RESIZE_MODES)}.")


def fit_image(image: Image.Image, size: tuple[int, int], channels: int, resize_mode: str) -> tuple[Tensor, Placement]:
    """A picture as a generator would draw it. One of the right size arrives unchanged; else it is resampled (Lanczos).

    Args:
        image: In any mode, see `upright`.
        size: (H, W) to come to.
        channels: 1 for gray (ITU-R 601 luma), 3 for RGB, 4 for RGBA (opaque where the picture has no transparency).
        resize_mode: One of `RESIZE_MODES`.

    Returns:
        x, float32 [C, H, W] in [-1, 1], and where it comes from.

    Raises:
        LIAError: See `check_fit` and `upright`.
    """
    pixels, placement = fit_pixels(image, size, channels, resize_mode)
    return to_floats(pixels), placement


def fit_pixels(
    image: Image.Image, size: tuple[int, int], channels: int, resize_mode: str, square: Square | None = None
) -> tuple[Tensor, Placement]:
    """As `fit_image`, but uint8 [C, H, W]: the same image, not yet on the scale of [-1, 1].

    Args:
        image: See `fit_image`.
        size: See `fit_image`; where there is a square, H = W.
        channels: See `fit_image`.
        resize_mode: See `fit_image`.
        square: What to cut out instead of what the resize mode says.

    Raises:
        LIAError: See `fit_image`; or the square's middle is not in the picture.
    """
    check_fit(channels, resize_mode)
    picture = upright(image, alpha=channels == 4)
    if square is None:
        placement = _place((picture.height, picture.width), size, resize_mode)
        part = picture.crop(for_pillow(placement.box))
    else:
        box = square.box_in((picture.height, picture.width))
        placement = Placement(ALIGNED, (picture.height, picture.width), box, (0, 0, *size), square)
        part = cut(picture, square, size[0])
    plain = to_srgb(part)
    placement = dataclasses.replace(placement, converted=plain is not part)
    canvas = Image.new(MODES[channels], (size[1], size[0]))  # black
    canvas.paste(resized(plain.convert(canvas.mode), placement.inner), for_pillow(placement.inner))
    pixels = np.asarray(canvas).reshape(*size, channels)  # [H, W, C]
    # By numpy, not torch: this runs in threads, and torch would give each of them a team of its own.
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C")), placement


def to_floats(pixels: Tensor) -> Tensor:
    """uint8 of any shape -> float32 in [-1, 1], on the same device."""
    return pixels.float().div_(127.5).sub_(1)


def to_pixels(x: Tensor) -> Tensor:
    """The inverse of `to_floats`: values in [-1, 1] of any shape -> uint8, rounded; what is outside is clipped."""
    return (x * 127.5 + 127.5).round_().clamp_(0, 255).to(torch.uint8)


def _place(size: tuple[int, int], target: tuple[int, int], resize_mode: str) -> Placement:
    (h, w), (height, width) = size, target
    box, inner = (0, 0, h, w), (0, 0, height, width)
    if resize_mode == "crop":
        scale = min(h / height, w / width)
        box = _middle(size, (height * scale, width * scale))
    elif resize_mode == "letterbox":
        scale = min(height / h, width / w)
        inner = _middle(target, (h * scale, w * scale))
    return Placement(resize_mode, size, box, inner)


def _middle(size: tuple[int, int], part: tuple[float, float]) -> tuple[int, int, int, int]:
    """The box in the middle, in whole pixels, so that it can be pasted back exactly."""
    height, width = (max(1, min(whole, round(wanted))) for whole, wanted in zip(size, part, strict=True))
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return top, left, top + height, left + width


def for_pillow(box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """A box as Pillow has it: (left, top, right, bottom)."""
    top, left, bottom, right = box
    return left, top, right, bottom


def resized(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """A picture of the size of a box, by Lanczos."""
    top, left, bottom, right = box
    return image.resize((right - left, bottom - top), Image.Resampling.LANCZOS)
