"""Where images come from: a folder, a dataset zip as NVlabs' programs write it, LSUN's LMDB, or one image file."""

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

from lia_adapter.data.kinds import ENDINGS, FORMATS, ending, kind_of, listed, why_not_read
from lia_adapter.data.lmdb import image_entries, read_index
from lia_adapter.errors import LIAError

__all__ = ["LABELS", "Source", "image_names", "left_out", "open_source"]

LABELS = "dataset.json"
"""The file of labels, as NVlabs' programs call it."""

MAX_BYTES = 2**29
"""A single file larger than this is refused: an image of Pillow's limit, 89 million pixels, has it with 3 times 16 bits."""

_LMDB = "data.mdb"
_HEAD = 64  # bytes by which the kind of a file is known
_LOCAL = struct.Struct("<4s22xHH")  # of a zip's local header: signature, and how long the name and the extra field are


class Source(Protocol):
    """Files that can be read by many threads at once.

    Attributes:
        path: As the user gave it.
        sizes: Bytes of every file, by its name: a path relative to the root, with forward slashes. Hidden files are left out.
    """

    @property
    def path(self) -> Path: ...  # noqa: D102
    @property
    def sizes(self) -> Mapping[str, int]: ...  # noqa: D102

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            LIAError: It can't be read; the message is the reason, made to follow the file's name.
        """

    def head(self, name: str) -> bytes:
        """The first bytes of a file, enough to know its kind; fewer, maybe none, where they can't be read."""


def open_source(path: str | Path, side: int = 0) -> Source:
    """Opens a folder (searched recursively), a dataset zip, a folder with an LMDB (`data.mdb`), or one image file.

    Args:
        path: Of any of them. The LMDB is LSUN's, or rosinality's, of whose sizes one is taken.
        side: Pixels of the longer side that images are needed at.

    Raises:
        LIAError: It does not exist, can't be read, is something else, or is an LMDB that is damaged, or a zip that is damaged,
            encrypted, compressed in an unusual way, or names files outside itself.
    """
    path = Path(path)
    try:
        status = os.stat(path)
        if (path / _LMDB).is_file():
            return _Lmdb(path, image_entries(path, read_index(path / _LMDB), side))
        if stat.S_ISDIR(status.st_mode):
            return _Folder(path, path, _walk(path))
        if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for ever
            raise LIAError(f"{path} is neither a folder nor an ordinary file; expected a folder of images or a dataset zip.")
        alone = _Folder(path, path.parent, {path.name: status.st_size})
        if ending(path.name) in ENDINGS or _is_image(alone, path.name):
            return alone
        if why := why_not_read(alone.head(path.name), path.name):
            raise LIAError(f"{path} cannot be read: {why}.")
        return _open_zip(path)
    except FileNotFoundError:
        raise LIAError(f"there is no {path}; expected a folder of images or a dataset zip. Check the path.") from None
    except OSError as error:
        raise LIAError(f"cannot read {error.filename or path}: {_reason(error)}. Check its permissions.") from error


def image_names(source: Source) -> list[str]:
    """Names of the files that end as images do, or have no ending and begin as images do, sorted.

    Raises:
        LIAError: There are none.
    """
    names = sorted(name for name in source.sizes if ending(name) in ENDINGS or (not ending(name) and _is_image(source, name)))
    if not names:
        here = f"; they are {listed(source.sizes)}" if source.sizes else ""
        read = ", ".join(sorted(ENDINGS))
        raise LIAError(
            f"{source.path} holds no images: of its {len(source.sizes):,} files none ends in {read}{here}."
            f"{_first_why(source, source.sizes)}"
        )
    return names


def left_out(source: Source, names: Collection[str]) -> str:
    """The files of a source that are none of these images, by kind and count; nothing where there are none.

    Args:
        source: Holds them.
        names: Of its images.
    """
    taken = set(names)
    others = [name for name in source.sizes if name not in taken and os.path.basename(name) != LABELS]
    return f"{listed(others)}.{_first_why(source, others)}" if others else ""


def _first_why(source: Source, names: Iterable[str]) -> str:
    """Why the first image among some files that are left out is not read; nothing where there is none."""
    for name in names:
        head = source.head(name) if not ending(name) else b""
        if why := why_not_read(head, name):
            return f" {name!r}: {why}."
    return ""


def _is_image(source: Source, name: str) -> bool:
    """Whether a file begins as an image that is read. A camera's raw file begins as TIFF, and is a small picture to Pillow."""
    kind = kind_of(source.head(name))
    return ("HEIF" if kind == "HEIC" else kind) in FORMATS and (kind != "TIFF" or not ending(name))


@dataclass(frozen=True)
class _Folder:
    path: Path
    root: Path
    sizes: Mapping[str, int]

    def read(self, name: str) -> bytes:
        try:
            with open(self.root / name, "rb") as file:
                _check_size(os.fstat(file.fileno()).st_size)
                return file.read()
        except OSError as error:
            raise LIAError(_reason(error)) from error

    def head(self, name: str) -> bytes:
        try:
            with open(self.root / name, "rb") as file:
                return file.read(_HEAD)
        except OSError:
            return b""


@dataclass(frozen=True)
class _Zip:
    path: Path
    members: Mapping[str, zipfile.ZipInfo]

    @property
    def sizes(self) -> Mapping[str, int]:
        return {name: member.file_size for name, member in self.members.items()}

    def read(self, name: str) -> bytes:
        # zipfile lets threads share an open archive by a lock around every read; opening the file anew needs no lock.
        member = self.members[name]
        _check_size(max(member.file_size, member.compress_size))
        try:
            signature, data = self._unpacked(member, member.compress_size, member.file_size + 1)
        except (ValueError, struct.error, zlib.error) as error:
            raise LIAError("it is damaged inside the zip") from error
        except OSError as error:
            raise LIAError(_reason(error)) from error
        if signature != b"PK\3\4" or len(data) != member.file_size or zlib.crc32(data) != member.CRC:
            raise LIAError("it is damaged inside the zip")
        return data

    def head(self, name: str) -> bytes:
        try:
            return self._unpacked(self.members[name], min(self.members[name].compress_size, 1024), _HEAD)[1][:_HEAD]
        except (OSError, ValueError, struct.error, zlib.error):
            return b""

    def _unpacked(self, member: zipfile.ZipInfo, packed: int, most: int) -> tuple[bytes, bytes]:
        """The signature of a member, and what so many of its packed bytes hold, not more than `most` if they are packed."""
        with open(self.path, "rb") as file:
            file.seek(member.header_offset)
            signature, name_size, extra_size = _LOCAL.unpack(file.read(_LOCAL.size))
            file.seek(name_size + extra_size, os.SEEK_CUR)
            data = file.read(packed)
        if member.compress_type == zipfile.ZIP_DEFLATED:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, most)
        return signature, data


@dataclass(frozen=True)
class _Lmdb:
    """Names are the keys with an ending; in order, they are in the database's."""

    path: Path
    places: Mapping[str, tuple[int, int]]

    @property
    def sizes(self) -> Mapping[str, int]:
        return {name: size for name, (_, size) in self.places.items()}

    def read(self, name: str) -> bytes:
        offset, size = self.places[name]
        _check_size(size)
        try:
            with open(self.path / _LMDB, "rb") as file:
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise LIAError(_reason(error)) from error

    def head(self, name: str) -> bytes:
        try:
            return self.read(name)[:_HEAD]
        except LIAError:
            return b""


def _walk(root: Path) -> dict[str, int]:
    """Sizes of all files below a folder; links to folders are followed, each folder once."""

    def refuse(error: OSError) -> NoReturn:
        raise error

    sizes, seen = {}, set()
    for folder, folders, files in os.walk(str(root), onerror=refuse, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        prefix = "" if folder == str(root) else f"{os.path.relpath(folder, root)}/"
        for file in files:
            path = os.path.join(folder, file)
            if not _is_hidden(file) and os.path.isfile(path):  # no pipe, and no link to nowhere
                sizes[prefix + file] = os.path.getsize(path)
    return sizes


def _open_zip(path: Path) -> _Zip:
    again = "Download or make it again."
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        if _begins_as_zip(path):
            raise LIAError(f"{path} is a damaged zip file; expected a folder of images or a dataset zip. {again}") from error
        read = ", ".join(FORMATS)
        raise LIAError(
            f"{path} is neither a folder, nor a zip file, nor an image of a kind that is read ({read}); expected a folder of "
            "images or a dataset zip."
        ) from error
    members = {}
    for entry in entries:
        name = entry.filename.replace("\\", "/")  # as some programs on Windows write
        parts = name.split("/")
        if not name:  # ZipInfo.is_dir would raise an IndexError
            raise LIAError(f"{path} is a damaged zip file: one of its entries has no name. {again}")
        if entry.is_dir() or any(_is_hidden(part) for part in parts if part != ".."):
            continue
        if ".." in parts or parts[0] == "":
            raise LIAError(f"{path} holds {entry.filename!r}, which points outside the zip. {again}")
        if entry.flag_bits & 1:
            raise LIAError(f"{path} is encrypted ({entry.filename!r}). Unpack it with its password, and pass the folder.")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise LIAError(
                f"{path} is compressed by a method that is not read ({entry.filename!r}). Unpack it, and pass the folder."
            )
        members[name] = entry
    return _Zip(path, members)


def _begins_as_zip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) in (b"PK\3\4", b"PK\5\6")


def _is_hidden(name: str) -> bool:
    """Also what macOS adds to its zips: twins of the images that hold none."""
    return name.startswith(".") or name == "__MACOSX"


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise LIAError(f"it has {size:,} bytes, more than the {MAX_BYTES:,} that are read")


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
