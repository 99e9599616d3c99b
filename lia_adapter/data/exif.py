"""What a camera noted of a photograph (EXIF), for a picture that was made of it."""

from typing import Any

from PIL import ExifTags, Image

from lia_adapter.notes import say_once

__all__ = ["kept_exif"]

_Base = ExifTags.Base
# How the file holds its pixels, which another file does in its own way; and which way is up, as the picture is upright.
_OF_THE_FILE = frozenset({
    _Base.Orientation, _Base.ImageWidth, _Base.ImageLength, _Base.BitsPerSample, _Base.Compression,
    _Base.PhotometricInterpretation, _Base.FillOrder, _Base.StripOffsets, _Base.SamplesPerPixel, _Base.RowsPerStrip,
    _Base.StripByteCounts, _Base.PlanarConfiguration, _Base.Predictor, _Base.ColorMap, _Base.TileWidth, _Base.TileLength,
    _Base.TileOffsets, _Base.TileByteCounts, _Base.SubIFDs, _Base.ExtraSamples, _Base.SampleFormat, _Base.JPEGTables,
    _Base.JpegIFOffset, _Base.JpegIFByteCount, _Base.YCbCrCoefficients, _Base.YCbCrSubSampling, _Base.YCbCrPositioning,
    _Base.ReferenceBlackWhite, _Base.XMLPacket, _Base.InterColorProfile, _Base.ImageResources, _Base.ExifOffset,
    _Base.GPSInfo, 254, 255,
})  # fmt: skip
# A maker's note may hold a small copy of the old picture, by places in the old file.
_OF_THE_CAMERA_FILE = frozenset({
    _Base.MakerNote, _Base.ExifInteroperabilityOffset, _Base.ExifImageWidth, _Base.ExifImageHeight,
})  # fmt: skip


def kept_exif(image: Image.Image) -> bytes | None:
    """The EXIF data of an image for an upright picture of other pixels; None where there are none.

    Orientation, thumbnails, makers' notes and what tells of the file's own layout fall away; the rest, places (GPS) among it,
    stays. What cannot be read or written again is left out, with a word.
    """
    try:
        found, kept = image.getexif(), Image.Exif()
        tables = {None: dict(found)} | {ifd: found.get_ifd(ifd) for ifd in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)}
        for ifd, values in tables.items():
            dropped = _OF_THE_FILE if ifd is None else _OF_THE_CAMERA_FILE if ifd == ExifTags.IFD.Exif else frozenset()
            plain = {tag: _as_bytes(value) for tag, value in values.items() if tag not in dropped}
            if ifd is None:
                kept.update(plain)
            elif plain:
                kept[ifd] = plain
        return kept.tobytes() if len(kept) else None
    except Exception:  # damaged data raise about anything in Pillow's reader and writer
        say_once("the EXIF data of a picture cannot be read or kept; it is pasted without them")
        return None


def _as_bytes(value: Any) -> Any:
    """Text as the bytes that it was read from: Pillow would write letters beyond ASCII as question marks."""
    return value.encode("latin-1", "replace") if isinstance(value, str) else value
