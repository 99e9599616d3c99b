"""A picture of any size to a generator's size, and what the generator drew back into the picture."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lia_adapter.data.decode import upright
from lia_adapter.errors import ConfigError, LIAError
from lia_adapter.keys import RESIZE_MODES

__all__ = ["Placement", "check_fit", "fit_image", "fit_pixels", "paste_back", "to_floats", "to_pixels"]

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class Placement:
    """Where a fitted image is in its picture. Boxes are (top, left, bottom, right) in whole pixels, ends exclusive.

    Attributes:
        fit: One of `RESIZE_MODES`.
        size: (H, W) of the upright picture.
        box: The part of the picture that the image shows.
        inner: The part of the image that shows it; the rest are bars.
    """

    fit: str
    size: tuple[int, int]
    box: tuple[int, int, int, int]
    inner: tuple[int, int, int, int]

    def to_json(self) -> dict[str, Any]:
        """Its values as JSON can say them."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(self).items()}

    @staticmethod
    def from_json(values: Any) -> "Placement":
        """Reads what `to_json` made.

        Raises:
            LIAError: It is something else, or a box that does not lie in its picture.
        """
        try:
            placement = Placement(values["fit"], *(tuple(values[key]) for key in ("size", "box", "inner")))
            height, width = placement.size
            numbers = (height, width, *placement.box, *placement.inner)
            if not (all(type(n) is int for n in numbers) and placement.fit in RESIZE_MODES and len(numbers) == 10):
                raise ValueError
            for (top, left, bottom, right), (h, w) in ((placement.box, (height, width)), (placement.inner, (2**31, 2**31))):
                if not (0 <= top < bottom <= h and 0 <= left < right <= w):
                    raise ValueError
        except (KeyError, TypeError, ValueError):
            raise LIAError(
                f"cannot read the placement of an image: {values!r:.200}. Make the file that holds it again."
            ) from None
        return placement


def check_fit(channels: int, resize_mode: str) -> None:
    """Finds out whether images can be fitted so.

    Raises:
        ConfigError: A number of channels that is neither 1, 3 nor 4, or a resize mode that is not one of `RESIZE_MODES`.
    """
    if channels not in _MODES:
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


def fit_pixels(image: Image.Image, size: tuple[int, int], channels: int, resize_mode: str) -> tuple[Tensor, Placement]:
    """As `fit_image`, but uint8 [C, H, W]: the same image, not yet on the scale of [-1, 1]."""
    check_fit(channels, resize_mode)
    picture = upright(image, alpha=channels == 4).convert(_MODES[channels])
    placement = _place((picture.height, picture.width), size, resize_mode)
    part = _resized(picture.crop(_for_pillow(placement.box)), placement.inner)
    canvas = Image.new(picture.mode, (size[1], size[0]))  # black
    canvas.paste(part, _for_pillow(placement.inner))
    pixels = np.asarray(canvas).reshape(*size, channels)  # [H, W, C]
    # By numpy, not torch: this runs in threads, and torch would give each of them a team of its own.
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C")), placement


def to_floats(pixels: Tensor) -> Tensor:
    """uint8 of any shape -> float32 in [-1, 1], on the same device."""
    return pixels.float().div_(127.5).sub_(1)


def to_pixels(x: Tensor) -> Tensor:
    """The inverse of `to_floats`: values in [-1, 1] of any shape -> uint8, rounded; what is outside is clipped."""
    return (x * 127.5 + 127.5).round_().clamp_(0, 255).to(torch.uint8)


def paste_back(original: Image.Image, x: Tensor, placement: Placement) -> Image.Image:
    """Puts an image back to where `fit_image` took it from: bars fall away, and what it does not show stays.

    Args:
        original: The picture that was fitted.
        x: [C, H, W] in [-1, 1], of the size that it was fitted to; values outside are clipped.
        placement: From `fit_image`.

    Returns:
        A picture of the original's size, upright; gray if both are, RGBA if the image is, else RGB.

    Raises:
        LIAError: The picture or the image are not of the sizes that the placement says.
    """
    channels, height, width = x.shape
    picture = upright(original, alpha=channels == 4)
    if (picture.height, picture.width) != placement.size:
        found, expected = f"{picture.width} x {picture.height}", f"{placement.size[1]} x {placement.size[0]}"
        raise LIAError(f"the picture has {found} pixels, but the one that was fitted had {expected}. Pass the same picture.")
    top, left, bottom, right = placement.inner
    if channels not in _MODES or bottom > height or right > width:
        raise LIAError(f"an image of shape {list(x.shape)} can't be pasted back: it was fitted to more than that.")
    values = x[:, top:bottom, left:right].detach().float().cpu().numpy().transpose(1, 2, 0)  # [H, W, C]
    pixels = np.rint(values * 127.5 + 127.5).clip(0, 255).astype(np.uint8)
    part = _resized(Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels), placement.box)
    result = picture.copy() if picture.mode == part.mode else picture.convert("RGBA" if channels == 4 else "RGB")
    result.paste(part.convert(result.mode), _for_pillow(placement.box))
    return result


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


def _for_pillow(box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    top, left, bottom, right = box
    return left, top, right, bottom


def _resized(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    top, left, bottom, right = box
    return image.resize((right - left, bottom - top), Image.Resampling.LANCZOS)
