"""Colours by the profile of their picture (ICC): generators learn and draw sRGB, photographs may be of another profile.

What is read through a profile is pasted back through it: both ways are by lcms, relative colorimetric with black points
compensated. A profile that tells of sRGB changes no pixel.
"""

import functools
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

from lia_adapter.notes import say_once

__all__ = ["Profile", "profile_of", "to_srgb"]

_MODES = {"RGB": "RGB", "GRAY": "L"}
_SAME = 2  # levels of 255 by which a profile may differ from sRGB and still be it: its makers rounded in other ways
_INTENT, _FLAGS = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION


@dataclass(frozen=True)
class Profile:
    """How colours of a profile become sRGB, and back.

    Attributes:
        mode: Of the pictures that it is for: RGB or L.
        forward: To sRGB; None where nothing is to be done.
        back: From sRGB to mode; None likewise.
    """

    mode: str
    forward: ImageCms.ImageCmsTransform | None = None
    back: ImageCms.ImageCmsTransform | None = None

    def from_srgb(self, picture: Image.Image) -> Image.Image:
        """A picture of sRGB, in mode L, RGB or RGBA, in the colours of the profile: in its mode, or RGBA if it was that."""
        return _applied(picture, self.back, "RGBA" if picture.mode == "RGBA" else self.mode)


def profile_of(picture: Image.Image) -> Profile | None:
    """The profile of an upright picture in mode L, RGB or RGBA; None without one, or, with a word, if it is not understood."""
    data = picture.info.get("icc_profile")
    if not data:
        return None
    profile = _read(bytes(data))
    if profile is None or profile.mode != ("L" if picture.mode == "L" else "RGB"):
        say_once(
            "the colour profile of a picture is damaged or not that of its kind; its pixels are taken as they are, for sRGB"
        )
        return None
    return profile


def to_srgb(picture: Image.Image) -> Image.Image:
    """An upright picture in mode L, RGB or RGBA, in sRGB and the same mode; the very picture where nothing is to be done."""
    profile = profile_of(picture)
    return picture if profile is None else _applied(picture, profile.forward, picture.mode)


def _applied(picture: Image.Image, way: ImageCms.ImageCmsTransform | None, mode: str) -> Image.Image:
    if way is None:
        return picture if picture.mode == mode else picture.convert(mode)
    colours = picture if picture.mode == way.input_mode else picture.convert(way.input_mode)
    result = way.apply(colours).convert(mode)
    if mode == "RGBA":
        result.putalpha(picture.getchannel("A"))
    result.info.pop("icc_profile", None)
    return result


@functools.lru_cache(maxsize=16)
def _read(data: bytes) -> Profile | None:
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        mode = _MODES.get(profile.profile.xcolor_space.strip())
        if mode is None:
            return None
        srgb = ImageCms.createProfile("sRGB")
        forward = ImageCms.buildTransform(profile, srgb, mode, "RGB", _INTENT, _FLAGS)
    except (OSError, TypeError, ValueError, ImageCms.PyCMSError):
        return None
    probe = _probe(mode)
    change = np.asarray(forward.apply(probe), np.int16) - np.asarray(probe.convert("RGB"), np.int16)
    if np.abs(change).max() <= _SAME:
        return Profile(mode)
    try:
        return Profile(mode, forward, ImageCms.buildTransform(srgb, profile, "RGB", mode, _INTENT, _FLAGS))
    except (OSError, ValueError, ImageCms.PyCMSError):
        say_once("the colour profile of a picture tells no way back from sRGB; its pixels are taken as they are")
        return Profile(mode)


def _probe(mode: str) -> Image.Image:
    """All grays, or colours from all over the cube."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    levels = np.linspace(0, 255, 13).round().astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(13, -1, 3))
