"""Kinds of image files: how their names end, how their bytes begin, and whether they can be read here."""

import importlib
import importlib.util
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from PIL import features

__all__ = ["ENDINGS", "FORMATS", "ending", "kind_of", "listed", "prepare", "why_not_read"]


@dataclass(frozen=True)
class _Kind:
    """A kind of image file.

    Attributes:
        name: As people call it; in capitals also Pillow's name of the format.
        endings: Of file names, in lower case.
        needs: What must be there to read it: a feature of Pillow, or "pillow_heif"; empty for nothing; None: it is not read.
    """

    name: str
    endings: tuple[str, ...]
    needs: str | None = ""

    @property
    def is_read(self) -> bool:
        """Whether it can be read here."""
        if self.needs == "pillow_heif":
            return importlib.util.find_spec("pillow_heif") is not None
        return self.needs is not None and (not self.needs or bool(features.check(self.needs)))


# Pillow goes by the content, not by the name, and for some of its formats it starts other programs (EPS: Ghostscript) or none
# at all. Here are those that pictures come in. TGA is the last one, as it has no signature and would take what is another's.
_KINDS = (
    _Kind("AVIF", (".avif", ".avifs"), "avif"),
    _Kind("BMP", (".bmp", ".dib")),
    _Kind("DDS", (".dds",)),
    _Kind("GIF", (".gif",)),
    _Kind("HEIC", (".heic", ".heics", ".heif", ".heifs", ".hif"), "pillow_heif"),
    _Kind("JPEG", (".jfif", ".jpe", ".jpeg", ".jpg", ".mpo")),
    _Kind("JPEG2000", (".j2c", ".j2k", ".jp2", ".jpc", ".jpf", ".jpx"), "jpg_2000"),
    _Kind("PCX", (".pcx",)),
    _Kind("PNG", (".apng", ".png")),
    _Kind("PPM", (".pbm", ".pgm", ".pnm", ".ppm")),
    _Kind("PSD", (".psd",)),
    _Kind("QOI", (".qoi",)),
    _Kind("SGI", (".bw", ".rgb", ".rgba", ".sgi")),
    _Kind("TIFF", (".tif", ".tiff")),
    _Kind("WEBP", (".webp",), "webp"),
    _Kind("TGA", (".icb", ".tga", ".vda", ".vst")),
    _Kind("JPEG XL", (".jxl",), None),
    _Kind("OpenEXR", (".exr",), None),
    _Kind("SVG", (".svg",), None),
    _Kind("camera raw", (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"), None),
)
_BY_NAME = {kind.name: kind for kind in _KINDS}
_BY_ENDING = {ending: kind for kind in _KINDS for ending in kind.endings}

FORMATS = tuple("HEIF" if kind.name == "HEIC" else kind.name for kind in _KINDS if kind.is_read)
"""Pillow's names of the formats that are read here."""

ENDINGS = frozenset(ending for kind in _KINDS if kind.is_read for ending in kind.endings)
"""How names of image files end that are read here, in lower case."""

_BEGINNINGS = (
    (b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"GIF87a", "GIF"), (b"GIF89a", "GIF"), (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"), (b"II+\0", "TIFF"), (b"MM\0+", "TIFF"), (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"), (b"qoif", "QOI"), (b"8BPS\0\1", "PSD"), (b"DDS \x7c\0\0\0", "DDS"), (b"\1\xda", "SGI"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"), (b"\xff\x0a", "JPEG XL"), (b"\x76\x2f\x31\x01", "OpenEXR"),
)  # fmt: skip
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"), "HEIC"
)


def kind_of(head: bytes) -> str | None:
    """The kind of an image file by its first 64 bytes; None where they are of no image, or of one without a signature."""
    if head[4:8] == b"ftyp":
        size = int.from_bytes(head[:4], "big")
        brands = [head[8:12], *(head[i : i + 4] for i in range(16, min(size, len(head)), 4))]  # its own, and those it obeys
        return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), None)
    if head[:4] == b"RIFF":
        return "WEBP" if head[8:12] == b"WEBP" else None
    if head[:2] == b"BM":
        return "BMP" if head[6:10] == bytes(4) else None
    if len(head) > 2 and head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "PPM"
    return next((name for start, name in _BEGINNINGS if head.startswith(start)), None)


def why_not_read(head: bytes, name: str = "") -> str:
    """What an image of a kind that is not read here is, and what to do; empty for any other file.

    Args:
        head: Its first 64 bytes.
        name: Its name.
    """
    kinds = (_BY_ENDING.get(ending(name)), _BY_NAME.get(kind_of(head) or ""))  # a camera's raw file begins as TIFF
    kind = next((kind for kind in kinds if kind is not None and not kind.is_read), None)
    if kind is None:
        return ""
    instead = "save it as PNG or JPEG"
    if kind.needs == "pillow_heif":
        return f"it is an image of the kind {kind.name}, which needs pip install lia-adapter[heic]; or {instead}"
    if kind.needs:
        return f"it is an image of the kind {kind.name}, which this Pillow cannot read: update Pillow, or {instead}"
    return f"it is an image of the kind {kind.name}, which is not read: {instead}"


def prepare(head: bytes) -> None:
    """Makes Pillow ready for an image: it learns HEIC from another package, when the first one comes."""
    if kind_of(head) == "HEIC" and _BY_NAME["HEIC"].is_read:
        importlib.import_module("pillow_heif").register_heif_opener()


def ending(name: str) -> str:
    """How a file's name ends, in lower case, with its dot; nothing where it has no ending."""
    return _spelled(name).lower()


def _spelled(name: str) -> str:
    """The ending as it stands there. What is no short word is none: names in a zip may hold anything."""
    found = os.path.splitext(name)[1]
    return found if re.fullmatch(r"\.\w{1,12}", found) else ""


def listed(names: Iterable[str]) -> str:
    """Files by kind and count, the most first: "3 .HEIC, 1 .txt, 1 without an ending"."""
    spelled: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for name in names:
        kind = ending(name)
        counts[kind] += 1
        spelled.setdefault(kind, _spelled(name))
    return ", ".join(f"{count:,} {spelled[kind] or 'without an ending'}" for kind, count in counts.most_common())
