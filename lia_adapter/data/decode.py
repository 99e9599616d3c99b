"""The bytes of an image file, or any Pillow image, to an upright picture of 8 bits, gray or RGB."""

import io

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from lia_adapter.errors import LIAError

__all__ = ["ENDINGS", "decode", "upright"]

ENDINGS = frozenset({".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""How names of image files end, in lower case."""

# Pillow goes by the content, not by the name, and for some of its formats it starts other programs (EPS: Ghostscript).
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def decode(data: bytes) -> Image.Image:
    """Reads an image file.

    Args:
        data: The file's bytes, of one of the formats that `ENDINGS` names; of an animation, the first picture is taken.

    Returns:
        The picture, upright, in Pillow's mode L or RGB.

    Raises:
        LIAError: It can't be read; the message is the reason, made to follow the image's name.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            # Twice as much, Image.open refuses itself; of this it only warns, and warnings can't be caught in threads.
            if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError(f"{image.width:,} x {image.height:,}")
            image.load()
            return upright(image)
    except LIAError:
        raise
    except UnidentifiedImageError:
        what = "it is empty" if not data else f"it is not an image, or damaged at its start ({', '.join(_FORMATS)} are read)"
        raise LIAError(what) from None
    except Image.DecompressionBombError:
        raise LIAError(f"it has more than {Image.MAX_IMAGE_PIXELS:,} pixels, too many to be decoded safely") from None
    except MemoryError:
        raise LIAError("it does not fit into memory") from None
    except Exception as error:  # a damaged file raises about anything in Pillow's decoders: theirs, zlib's, struct's
        raise LIAError(f"it is damaged ({' '.join(str(error).split()) or type(error).__name__})") from error


def upright(image: Image.Image) -> Image.Image:
    """The picture as it is to be looked at, in mode L where it is gray and RGB where it is not.

    It is turned as its EXIF orientation says, transparency is laid over white, CMYK and palettes become RGB, and more than 8
    bits become 8: 16 bits by division, floating-point numbers from 0..1.

    Args:
        image: In any of Pillow's modes. It does not change.

    Raises:
        LIAError: It has whole numbers outside 0..65535, or floating-point numbers outside 0..1.
    """
    image.load()  # some formats find their EXIF data only then, and TIFF turns itself
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _eight_bits(image)
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    # Pillow's own conversion would clip at 255.
    values, top = np.asarray(image, dtype=np.float32), 1 if image.mode == "F" else 65535
    if not (values.min() >= 0 and values.max() <= top):  # written so that not-a-number is refused, too
        kind = "floating-point" if image.mode == "F" else "whole"
        raise LIAError(f"its pixels are {kind} numbers outside 0..{top}; save it with 8 bits")
    return Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8))
