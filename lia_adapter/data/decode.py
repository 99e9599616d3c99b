"""The bytes of an image file, or any Pillow image, to an upright picture of 8 bits, gray, RGB or RGBA."""

import contextlib
import io
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from lia_adapter.data.exif import kept_exif
from lia_adapter.data.kinds import FORMATS, prepare, why_not_read
from lia_adapter.errors import LIAError

__all__ = ["Bits", "Deep", "decode", "open_deep", "upright"]

_PNG_DEPTH = 24  # where a PNG says its bits a channel
_TIFF_BITS = 258


@dataclass(frozen=True)
class Deep:
    """An image of whole numbers of more than 8 bits.

    Attributes:
        kind: Of file: "PNG of 16 bits".
        values: [H, W] or [H, W, C], none negative.
        bits: Of its type.
        coarse: Whether only the upper 8 of 16 bits could be read.
    """

    kind: str
    values: NDArray[Any]
    bits: int
    coarse: bool = False

    @property
    def largest(self) -> int:
        """Of its values, without those of transparency."""
        channels = self.values.shape[2] if self.values.ndim == 3 else 1
        colours = self.values[..., : channels - 1] if channels in (2, 4) else self.values
        return int(colours.max())


Bits = Callable[[Deep], int]
"""Tells how many bits of a deep image count: the largest value that they can say is white."""


def own_bits(deep: Deep) -> int:
    """As many as the largest value of the image itself takes, at least 8."""
    return max(8, deep.largest.bit_length())


def decode(data: bytes, *, alpha: bool = False, bits: Bits = own_bits) -> Image.Image:
    """Reads an image file. In `info` of the picture are its colour profile (icc_profile) and EXIF data (exif), if it has any.

    Args:
        data: The file's bytes, of one of the formats that `kinds` names; of an animation, the first picture is taken.
        alpha: See `upright`.
        bits: See `upright`.

    Returns:
        The picture, upright, in Pillow's mode L, RGB or, with `alpha`, RGBA.

    Raises:
        LIAError: It can't be read; the message is the reason, made to follow the image's name.
    """
    with _opened(data) as image:
        deep = _deep(image, data)
        if "exif" not in image.info and (exif := kept_exif(image)):  # TIFF has it in its own tags
            image.info["exif"] = exif
        if deep is None:
            return upright(image, alpha=alpha, bits=bits)
        made = _eight_bits(deep, bits)
        made.info |= _noted(image)  # which way is up, among others
        return upright(made, alpha=alpha)


def open_deep(data: bytes) -> Deep | None:
    """The values of an image file if they are whole numbers of more than 8 bits, else None, mostly without decoding it.

    Raises:
        LIAError: See `decode`.
    """
    with _opened(data, load=False) as image:
        return _deep(image, data)


def upright(image: Image.Image, *, alpha: bool = False, bits: Bits = own_bits) -> Image.Image:
    """The picture as it is to be looked at, in mode L where it is gray and RGB where it is not.

    It is turned as its EXIF orientation says, transparency is laid over white, CMYK and palettes become RGB, and more than 8
    bits become 8: whole numbers by their largest value, floating-point numbers from 0..1. Colours stay those of its profile
    (see `to_srgb`), which its `info` still holds, as it does EXIF data.

    Args:
        image: In any of Pillow's modes. It does not change.
        alpha: Whether transparency stays: a picture that has any is then RGBA.
        bits: Tells how many bits count of an image that has more than 8.

    Raises:
        LIAError: It has whole numbers below 0 or above what the bits can say, or floating-point numbers outside 0..1.
    """
    image.load()  # some formats find their EXIF data only then, and TIFF turns itself
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        exif = kept_exif(image)
        image = ImageOps.exif_transpose(image)
        image.info["exif"] = exif or b""
    result = _plain(image, alpha, bits)
    if result is not image:
        result.info |= _noted(image)
    return result


def _noted(image: Image.Image) -> dict[str | tuple[int, int], Any]:
    """What came with an image that a picture made of it has, too."""
    return {name: image.info[name] for name in ("icc_profile", "exif") if image.info.get(name)}


def _plain(image: Image.Image, alpha: bool, bits: Bits) -> Image.Image:
    """An upright image in 8 bits, see `upright`."""
    if image.mode == "F":
        return _from_floats(image)
    if (deep := _deep(image)) is not None:
        return _eight_bits(deep, bits)
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if alpha:
            return image
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


@contextlib.contextmanager
def _opened(data: bytes, *, load: bool = True) -> Iterator[Image.Image]:
    """An image file; whatever goes wrong while it is open is told as ours."""
    try:
        prepare(data[:64])
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            # Twice as much, Image.open refuses itself; of this it only warns, and warnings can't be caught in threads.
            if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError(f"{image.width:,} x {image.height:,}")
            if load:
                image.load()
            yield image
    except LIAError:
        raise
    except UnidentifiedImageError:
        what = f"it is not an image, or damaged at its start ({', '.join(FORMATS)} are read)"
        raise LIAError("it is empty" if not data else why_not_read(data[:64]) or what) from None
    except Image.DecompressionBombError:
        raise LIAError(f"it has more than {Image.MAX_IMAGE_PIXELS:,} pixels, too many to be decoded safely") from None
    except MemoryError:
        raise LIAError("it does not fit into memory") from None
    except Exception as error:  # a damaged file raises about anything in Pillow's decoders: theirs, zlib's, struct's
        raise LIAError(f"it is damaged ({' '.join(str(error).split()) or type(error).__name__})") from error


def _deep(image: Image.Image, data: bytes = b"") -> Deep | None:
    """The values of an image of whole numbers of more than 8 bits; None for any other.

    Args:
        image: As Pillow opened it.
        data: Its file: of colours of 16 bits Pillow gives the upper 8 alone, and the others are read from the file.
    """
    kind = image.format or "images"
    if image.mode == "I" or image.mode.startswith("I;16"):
        bits = 32 if image.mode == "I" and image.format != "PPM" else 16
        values = np.asarray(image)
        if values.min() < 0:
            raise LIAError("its pixels are whole numbers below 0; save it with 8 bits")
        return Deep(f"{kind} of {bits} bits", values, bits)
    if not data or image.mode not in ("RGB", "RGBA", "LA"):
        return None
    if image.format == "PNG":
        is_deep = data[_PNG_DEPTH] == 16
    else:
        is_deep = image.format == "TIFF" and min(getattr(image, "tag_v2", {}).get(_TIFF_BITS, (8,))) == 16
    if not is_deep:
        return None
    high, low = np.asarray(image).astype(np.uint16), _lower_bytes(data)
    return Deep(f"colour {kind} of 16 bits", high * 256 + (high if low is None else low), 16, coarse=low is None)


def _lower_bytes(data: bytes) -> NDArray[np.uint8] | None:
    """The lower bytes of an image of colours of 16 bits, [H, W, C]; None where they can't be had.

    Pillow takes the upper byte of each number. Told that the order of bytes is the other one, it takes the lower.
    """
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        tiles = []
        for tile in image.tile:
            mode, *others = (tile.args,) if isinstance(tile.args, str) else tuple(tile.args or ("",))
            match = re.fullmatch(r"((?:RGB|RGBA|RGBX);16)([BLN])", str(mode))
            if match is None:
                return None
            swapped = match[1] + ("L" if match[2] == "B" or (match[2] == "N" and sys.byteorder == "big") else "B")
            tiles.append(tile._replace(args=(swapped, *others) if others else swapped))
        image.tile = tiles
        return np.asarray(image)


def _eight_bits(deep: Deep, bits: Bits) -> Image.Image:
    # Pillow's own conversion would clip at 255.
    count = bits(deep)
    top = 2**count - 1
    if deep.largest > top:
        raise LIAError(f"its largest value is {deep.largest:,}, and {count} bits go to {top:,}")
    if deep.coarse and count < deep.bits:
        raise LIAError(
            f"it uses {count} of its 16 bits, of which only the upper 8 are read in such a {deep.kind}; save it as RGB or gray"
        )
    scaled = deep.values * np.float64(255 / top)
    if deep.values.ndim == 3 and deep.values.shape[2] in (2, 4):  # transparency is on the scale of the type
        scaled[..., -1] = deep.values[..., -1] / (2**deep.bits - 1) * 255
    return Image.fromarray(np.ascontiguousarray(np.rint(scaled).astype(np.uint8)))


def _from_floats(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.float32)
    if not (values.min() >= 0 and values.max() <= 1):  # written so that not-a-number is refused, too
        raise LIAError("its pixels are floating-point numbers outside 0..1; save it with 8 bits")
    return Image.fromarray(np.rint(values * 255).astype(np.uint8))
