"""Moving pictures as GIF, APNG and WebP, a frame at a time.

Pillow encodes each frame; its own writers of animations would hold all of them until the end (and, of an iterator, its APNG
writes the first alone). So the few bytes around the frames are written here: GIF89a; PNG, 3rd edition; RFC 9649 for WebP.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from lia_adapter.data.decode import upright
from lia_adapter.errors import ConfigError, argument
from lia_adapter.files import atomic_write, check_writable
from lia_adapter.jobs.footage import Footage, check_package, write_footage

__all__ = ["check_animation", "holds_sound", "write_animation"]

Frames = Iterator[Image.Image]
_SOUNDING = (".mp4", ".webm")
_GIF_FASTEST = 50  # frames a second: what shows a frame for less than 2/100 s is slowed down by browsers


def check_animation(out: str | Path, fps: Fraction) -> Path:
    """Finds out whether moving pictures can be written, before there are any.

    Args:
        out: The file, which ends in one of .gif, .apng, .webp, .mp4 and .webm.
        fps: Frames a second.

    Raises:
        LIAError: It ends in another way, a package is missing, GIF is to be faster than it can, or the file cannot be written.
    """
    path = Path(out)
    ending = path.suffix.lower()
    if ending not in (*_WRITERS, *_SOUNDING):
        raise ConfigError(
            f"{argument('out')} {path} must end in one of {', '.join((*_WRITERS, *_SOUNDING))}; expected for example "
            f"{path.with_suffix('.webp') if path.name else 'video.webp'}."
        )
    if ending in _SOUNDING:
        check_package(f"to write {ending}", ", or write .webp, .apng or .gif")
    if ending == ".gif" and fps > _GIF_FASTEST:
        raise ConfigError(
            f"a GIF shows at most {_GIF_FASTEST} frames a second, and these are {float(fps):g}. Give {argument('fps')} "
            f"{_GIF_FASTEST}, or write .webp."
        )
    check_writable(path)
    return path


def write_animation(path: Path, frames: Frames, fps: Fraction, sound: Footage | None = None) -> None:
    """Writes moving pictures, whole or not at all; those that are no videos begin anew at their end.

    Args:
        path: See `check_animation`.
        frames: At least one, all of one size; what is transparent is laid over white.
        fps: Frames a second. GIF counts whole hundredths of a second, and WebP thousandths: there frames differ by one of them,
            so that the whole takes as long as it should.
        sound: A video whose sound goes along, where the file is one (`holds_sound`).

    Raises:
        LIAError: The file cannot be written.
    """
    with atomic_write(path) as temporary:
        kind = path.suffix.lower()
        if kind in _SOUNDING:
            write_footage(temporary, map(_rgb, frames), fps, kind[1:], sound)
        else:
            _WRITERS[kind](temporary, map(_rgb, frames), fps)


def holds_sound(path: Path) -> bool:
    """Whether a file of this name has sound beside pictures."""
    return path.suffix.lower() in _SOUNDING


def _rgb(frame: Image.Image) -> Image.Image:
    return frame if frame.mode == "RGB" else upright(frame).convert("RGB")


def _encoded(frame: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    frame.save(buffer, format=kind, **options)
    return buffer.getvalue()


def _lasts(i: int, fps: Fraction, unit: int) -> int:
    """How long frame i lasts, in units of which a second has so many: together, as long as they should."""
    return max(1, round((i + 1) * unit / fps) - round(i * unit / fps))


def _write_gif(path: Path, frames: Frames, fps: Fraction) -> None:
    with open(path, "wb") as file:
        for i, frame in enumerate(frames):
            if i == 0:
                file.write(b"GIF89a" + struct.pack("<HHBBB", *frame.size, 0, 0, 0))  # no palette of all frames
                file.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<HB", 0, 0))  # for ever
            data = _encoded(frame.quantize(256), "GIF", interlace=0)
            bits = data[10] & 7  # a frame's palette has 2^(bits + 1) colours
            end = 13 + 3 * 2 ** (bits + 1)
            at = end
            while data[at] == 0x21:  # extensions: two bytes, then blocks up to an empty one
                at += 2
                while data[at]:
                    at += 1 + data[at]
                at += 1
            file.write(b"\x21\xf9\x04\x04" + struct.pack("<HBB", _lasts(i, fps, 100), 0, 0))
            file.write(data[at : at + 9] + bytes([0x80 | bits]) + data[13:end] + data[at + 10 : -1])
        file.write(b"\x3b")


def _write_apng(path: Path, frames: Frames, fps: Fraction) -> None:
    delay = (1 / fps).limit_denominator(65535)
    with open(path, "wb") as file:
        place, number, count = 0, 0, 0
        for frame in frames:
            chunks = _png_chunks(_encoded(frame, "PNG", compress_level=4))
            if count == 0:
                file.write(b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", chunks[0][1]))
                place = file.tell()
                file.write(_png_chunk(b"acTL", bytes(8)))  # its number of frames follows
            size = struct.pack(">IIIII", number, *frame.size, 0, 0)
            file.write(_png_chunk(b"fcTL", size + struct.pack(">HHBB", delay.numerator, delay.denominator, 0, 0)))
            number += 1
            for data in (data for kind, data in chunks if kind == b"IDAT"):
                if count == 0:
                    file.write(_png_chunk(b"IDAT", data))
                else:
                    file.write(_png_chunk(b"fdAT", struct.pack(">I", number) + data))
                    number += 1
            count += 1
        file.write(_png_chunk(b"IEND", b""))
        file.seek(place)
        file.write(_png_chunk(b"acTL", struct.pack(">II", count, 0)))


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def _write_webp(path: Path, frames: Frames, fps: Fraction) -> None:
    with open(path, "wb") as file:
        for i, frame in enumerate(frames):
            width, height = (_three(side - 1) for side in frame.size)
            if i == 0:
                file.write(b"RIFF\0\0\0\0WEBP")
                _riff_chunk(file, b"VP8X", b"\x02\0\0\0" + width + height)
                _riff_chunk(file, b"ANIM", bytes(6))  # on black, for ever
            data, at, kept = _encoded(frame, "WEBP", quality=90), 12, b""
            while at < len(data):
                (size,) = struct.unpack_from("<I", data, at + 4)
                end = at + 8 + size + size % 2
                kept += data[at:end] if data[at : at + 4] in (b"VP8 ", b"VP8L") else b""
                at = end
            _riff_chunk(file, b"ANMF", bytes(6) + width + height + _three(_lasts(i, fps, 1000)) + b"\x02" + kept)
        size = file.tell() - 8
        file.seek(4)
        file.write(struct.pack("<I", size))


def _riff_chunk(file: BinaryIO, kind: bytes, data: bytes) -> None:
    file.write(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2))


def _three(number: int) -> bytes:
    return number.to_bytes(3, "little")


_WRITERS: dict[str, Callable[[Path, Frames, Fraction], None]] = {
    ".webp": _write_webp, ".apng": _write_apng, ".gif": _write_gif,
}  # fmt: skip
