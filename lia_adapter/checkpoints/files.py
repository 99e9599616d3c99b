"""A path to bytes, and the first bytes to the kind of the file.

Most "checkpoints" that do not load are web pages, Git LFS pointers or halves of downloads. Each kind has a message here
that says what to do.
"""

import errno
import hashlib
import mmap
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import torch
from torch import Tensor

from lia_adapter.checkpoints.decoder import clean
from lia_adapter.checkpoints.document import MAGIC, Document, read_pickles
from lia_adapter.checkpoints.safetensor import read_safetensors
from lia_adapter.checkpoints.zips import read_zip
from lia_adapter.errors import CheckpointError

__all__ = ["CheckpointFile", "container", "lift", "read_document", "read_file"]

# The largest real checkpoints have 3 GB; the whole file is held in memory.
MAX_BYTES: Final = 32 * 2**30
_CHUNK: Final = 2**20
_VECTOR: Final = 16  # bytes
_AGAIN: Final = "Download it again, or pass the URL to lia-adapt convert."


@dataclass(frozen=True)
class CheckpointFile:
    """A file in memory.

    Attributes:
        name: Its name, without the folders.
        data: Its bytes, a view of `memory`; tensors will share them.
        memory: Where they lie. Its pages can be given back one by one, which those of a bytearray cannot.
        sha256: Of the bytes, in hexadecimal.
    """

    name: str
    data: memoryview
    memory: mmap.mmap
    sha256: str


def read_file(path: str | os.PathLike[str]) -> CheckpointFile:
    """Read a file once, hashing it on the way.

    Args:
        path: A regular file.

    Raises:
        CheckpointError: There is no such file, or it cannot be read.
    """
    path = Path(path)
    name = clean(path.name or path)
    try:
        status = os.stat(path)
        # Opening a named pipe would wait for ever.
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise CheckpointError(f"{name} is {kind}, and a checkpoint file was expected. Pass the path of the file itself.")
        if status.st_size > MAX_BYTES:
            raise CheckpointError(f"{name} has {status.st_size:,} bytes, more than any checkpoint ({MAX_BYTES:,}).")
        # Not a map of the file itself: whoever wrote to that would change the bytes behind our back, after they were hashed.
        memory = mmap.mmap(-1, max(status.st_size, 1), mmap.MAP_PRIVATE)
        buffer = memoryview(memory)[: status.st_size]
        digest = hashlib.sha256()
        filled = 0
        with path.open("rb", buffering=0) as stream:
            while filled < len(buffer):
                count = stream.readinto(buffer[filled : filled + _CHUNK])
                if not count:
                    raise CheckpointError(f"{name} became shorter while it was read. Wait until it is written, then try again.")
                digest.update(buffer[filled : filled + count])
                filled += count
    except FileNotFoundError:
        raise CheckpointError(f"{name} does not exist. Check the path.") from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            why = f"does not fit into memory ({status.st_size:,} bytes). Use a machine with more."
            raise CheckpointError(f"{name} {why}") from None
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CheckpointError(f"{name} cannot be read: {clean(reason)}. Check the path and its permissions.") from None
    return CheckpointFile(name, buffer, memory, digest.hexdigest())


def lift(tensors: Mapping[str, Tensor], file: CheckpointFile) -> dict[str, Tensor]:
    """Moves tensors from the file's memory into their own.

    What they do not need of the file is then no longer held. The file's memory is given back on the way, so that there are
    never two copies of them all.

    Args:
        tensors: By name.
        file: Where most of them lie. Its bytes are gone afterwards: nothing else may need them.

    Returns:
        Contiguous tensors that lie where vector instructions want them: otherwise a matrix product for one sample differs in
        its last bits, and the same weights would give other codes when they come from another file.
    """
    first = torch.frombuffer(file.memory, dtype=torch.uint8).data_ptr()
    lifted = dict(tensors)
    gone = 0  # bytes of the file, whole pages of them
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_ptr()):
        start = tensor.data_ptr() - first
        inside = 0 <= start < len(file.memory)
        needed = start - start % mmap.PAGESIZE
        if inside and needed > gone:  # neither this tensor nor a later one reaches below
            file.memory.madvise(mmap.MADV_DONTNEED, gone, needed - gone)
            gone = needed
        if inside or tensor.data_ptr() % _VECTOR:
            lifted[name] = tensor.clone(memory_format=torch.contiguous_format)
    return lifted


def container(file: CheckpointFile) -> str:
    """The kind of the file, by its first bytes: "torch zip", "web page", ..., and "pickle" where nothing else fits."""
    return next((kind for kind, fits, _ in _KINDS if fits(file.data)), "pickle")


def read_document(file: CheckpointFile) -> Document:
    """Decode the file.

    Args:
        file: Its bytes.

    Raises:
        CheckpointError: It is of a kind that holds no checkpoint, or it is damaged.
    """
    for _, fits, read in _KINDS:
        if fits(file.data):
            return read(file)
    return read_pickles(file.data, file.name)


def _begins(*starts: bytes) -> Callable[[memoryview], bool]:
    return lambda data: bytes(data[:64]).startswith(starts)


def _is_markup(data: memoryview) -> bool:
    return bytes(data[:1024]).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def _is_json(data: memoryview) -> bool:
    # "}" and "]" are pickle opcodes as well; "{" and "[" are none.
    return bytes(data[:1024]).lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"["))


def _is_safetensors(data: memoryview) -> bool:
    return bytes(data[8:9]) == b"{" and bytes(data[6:8]) == b"\0\0"


def _is_stream(data: memoryview) -> bool:
    head = bytes(data[:64])
    at = head.find(b"\x8a\x0a" + MAGIC.to_bytes(10, "little"))
    return 0 <= at <= 16


def _refuse(why: str) -> Callable[[CheckpointFile], Document]:
    def refuse(file: CheckpointFile) -> NoReturn:
        raise CheckpointError(f"{file.name} {why}")

    return refuse


def _refuse_page(file: CheckpointFile) -> NoReturn:
    text = bytes(file.data[:65536]).decode("utf-8", "replace")
    title = re.search(r"<title[^>]*>([^<]*)", text, re.IGNORECASE)
    named = f' titled "{clean(" ".join(title[1].split()))}"' if title and title[1].strip() else ""
    kind = "an HTML page" if re.search(r"<!doctype html|<html", text, re.IGNORECASE) else "an XML or HTML page"
    raise CheckpointError(f"{file.name} is {kind}{named} (a failed download from a file host?), not a checkpoint. {_AGAIN}")


def _refuse_json(file: CheckpointFile) -> NoReturn:
    text = clean(" ".join(bytes(file.data[:4096]).decode("utf-8", "replace").split()), 160)
    raise CheckpointError(
        f"{file.name} is JSON text (an error message of a server, or a configuration?), not a checkpoint: {text} - {_AGAIN}"
    )


# What a file is by its first bytes, in the order in which to ask; the last column reads it or says what to do.
_KINDS: Final[tuple[tuple[str, Callable[[memoryview], bool], Callable[[CheckpointFile], Document]], ...]] = (
    ("empty", lambda data: len(data) == 0, _refuse(f"is empty (a failed download?). {_AGAIN}")),
    ("torch zip", _begins(b"PK\3\4", b"PK\5\6"), lambda file: read_zip(file.data, file.name)),
    ("torch stream", _is_stream, lambda file: read_pickles(file.data, file.name)),
    (
        "Git LFS pointer",
        _begins(b"version https://git-lfs"),
        _refuse("is a Git LFS pointer, not the file itself. Run `git lfs pull` in its repository, then try again."),
    ),
    ("gzip", _begins(b"\x1f\x8b"), _refuse("is compressed with gzip. Unpack it (gunzip), then pass what comes out.")),
    ("bzip2", _begins(b"BZh"), _refuse("is compressed with bzip2. Unpack it (bunzip2), then pass what comes out.")),
    ("xz", _begins(b"\xfd7zXZ"), _refuse("is compressed with xz. Unpack it (unxz), then pass what comes out.")),
    ("7z", _begins(b"7z\xbc\xaf\x27\x1c"), _refuse("is a 7z archive. Unpack it, then pass the checkpoint inside.")),
    ("rar", _begins(b"Rar!"), _refuse("is a RAR archive. Unpack it, then pass the checkpoint inside.")),
    (
        "HDF5",
        _begins(b"\x89HDF\r\n\x1a\n"),
        _refuse("is an HDF5 file (flaxmodels, Keras?), which is not read. Pass the .pkl that it was made from."),
    ),
    (
        "image",
        _begins(b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF"),
        _refuse("is an image, not a checkpoint. Pass the generator's .pkl file."),
    ),
    ("safetensors", _is_safetensors, lambda file: read_safetensors(file.data, file.name)),
    ("web page", _is_markup, _refuse_page),
    ("JSON", _is_json, _refuse_json),
)
