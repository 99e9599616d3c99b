"""What the generator drew, back into the picture that its image was fitted from, without a seam."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lia_adapter.data.colour import profile_of, to_srgb
from lia_adapter.data.decode import upright
from lia_adapter.data.exif import kept_exif
from lia_adapter.data.fit import MODES, Placement, for_pillow, resized
from lia_adapter.data.square import put, smooth, weights
from lia_adapter.errors import ConfigError, LIAError, argument

__all__ = ["FEATHER", "paste_back"]

FEATHER = 0.1
"""Width of the seam, as a share of the shorter side of what is pasted."""


def paste_back(original: Image.Image, x: Tensor, placement: Placement, *, feather: float = FEATHER) -> Image.Image:
    """Puts an image back to where `fit_image` took it from: bars fall away, and what it does not show stays.

    Towards the edges of what is pasted it gives way to the picture, by t² (3 - 2 t) of the distance; not at edges that are the
    picture's own. The two are weighed by their 8-bit values, as programs for photographs do, not by light.

    Args:
        original: The picture that was fitted.
        x: [C, H, W] in [-1, 1], sRGB, of the size that it was fitted to; values outside are clipped.
        placement: From `fit_image`.
        feather: Width of the seam, 0 to 0.5 of the shorter side of what is pasted; 0 is a hard edge.

    Returns:
        A picture of the original's size, upright; gray if both are, RGBA if the image is, else RGB. It is in the colours of
        the original's profile, which its `info` holds (icc_profile), as it does what the camera noted (exif, see `kept_exif`).

    Raises:
        LIAError: The picture or the image are not of the sizes that the placement says, or the feather is out of its range.
    """
    if not 0 <= feather <= 0.5:
        raise ConfigError(f"{argument('feather')} is {feather}; expected 0, for a hard edge, to 0.5.")
    channels, height, width = x.shape
    picture = upright(original, alpha=channels == 4)
    if (picture.height, picture.width) != placement.size:
        found, expected = f"{picture.width} x {picture.height}", f"{placement.size[1]} x {placement.size[0]}"
        raise LIAError(f"the picture has {found} pixels, but the one that was fitted had {expected}. Pass the same picture.")
    top, left, bottom, right = placement.inner
    if channels not in MODES or bottom > height or right > width:
        raise LIAError(f"an image of shape {list(x.shape)} can't be pasted back: it was fitted to more than that.")
    mode = picture.mode if picture.mode == MODES[channels] else "RGBA" if channels == 4 else "RGB"
    profile = profile_of(picture)
    if profile is not None and (profile.mode == "L") != (mode == "L"):  # a gray picture's, which now gets colours
        picture, profile = to_srgb(picture), None
    result = picture.convert(mode) if picture.mode != mode else picture.copy()
    part = _part(x[:, top:bottom, left:right], placement).convert(mode)
    part = profile.from_srgb(part) if profile is not None and placement.converted else part
    result.paste(part, for_pillow(placement.box), _mask(placement, feather))
    exif = kept_exif(picture)
    result.info = {"exif": exif} if exif else {}
    if profile is not None:
        result.info["icc_profile"] = picture.info["icc_profile"]
    return result


def _part(x: Tensor, placement: Placement) -> Image.Image:
    """x [C, h, w] as what the box of its placement shows."""
    values = x.detach().float().cpu().numpy().transpose(1, 2, 0)  # [h, w, C]
    pixels = np.rint(values * 127.5 + 127.5).clip(0, 255).astype(np.uint8)
    part = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    return resized(part, placement.box) if placement.square is None else put(part, placement.square, placement.box)


def _mask(placement: Placement, feather: float) -> Image.Image | None:
    """How much of the pasted is seen in the box; None: all of it everywhere."""
    top, left, bottom, right = placement.box
    if placement.square is not None:
        found = weights(placement.square, placement.box, placement.size, feather * placement.square.side)
    else:
        (height, width), (h, w) = placement.size, (bottom - top, right - left)
        band = feather * min(h, w)
        rows, columns = _ramp(h, top > 0, bottom < height, band), _ramp(w, left > 0, right < width, band)
        if rows.min() == columns.min() == 1:
            return None
        found = rows[:, None] * columns
    return Image.fromarray(np.rint(found * 255).astype(np.uint8))


def _ramp(n: int, before: bool, after: bool, band: float) -> NDArray[np.float32]:
    """Weights of n pixels in a row, with a fall over so many at those of its ends that are seams, [n] in 0..1."""
    far = np.arange(n, dtype=np.float32) + np.float32(0.5)
    result = np.ones(n, np.float32)
    if band > 0:
        result *= smooth(far / np.float32(band)) if before else 1
        result *= smooth(far[::-1] / np.float32(band)) if after else 1
    return result
