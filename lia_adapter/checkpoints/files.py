"""A path to bytes, and the first bytes to the kind of the file.

Most "checkpoints" that do not load are web pages, Git LFS pointers or halves of downloads. Each kind has a message here
that says what to do.
"""

import bz2
import contextlib
import errno
import gzip
import hashlib
import io
import lzma
import mmap
import os
import re
import stat
import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, NoReturn

import torch
from torch import Tensor

from lia_adapter.checkpoints.decoder import clean
from lia_adapter.checkpoints.document import MAGIC, Document, read_pickles
from lia_adapter.checkpoints.safetensor import read_safetensors
from lia_adapter.checkpoints.zips import SHARD, read_zip
from lia_adapter.errors import CheckpointError

__all__ = ["CheckpointFile", "container", "lift", "read_document", "read_file"]

# The largest real checkpoints have 3 GB; the whole file is held in memory.
MAX_BYTES: Final = 32 * 2**30
_CHUNK: Final = 2**20
_VECTOR: Final = 16  # bytes
_PEEK: Final = 2**16  # bytes of a packed file that are looked at
_BLOCK: Final = 512  # bytes, of a tar archive
_NAMED: Final = 5
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
            kind = "is no regular file, and a checkpoint file was expected. Pass the path of the file itself."
            raise CheckpointError(f"{name} {_explain_folder(path) if stat.S_ISDIR(status.st_mode) else kind}")
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


def _has_at(offset: int, what: bytes) -> Callable[[memoryview], bool]:
    return lambda data: bytes(data[offset : offset + len(what)]) == what


def _is_onnx(data: memoryview) -> bool:
    # Its first field is its version, 3 or more, and the next the name of the program, a text; no pickle begins with 0x08.
    return len(data) > 4 and data[0] == 0x08 and 3 <= data[1] < 0x40 and data[2] in (0x12, 0x3A, 0x42)


def _is_msgpack(data: memoryview) -> bool:
    # A map, and then a text as its first key. No pickle begins with such bytes: they need something to work on.
    head = bytes(data[:6])
    skip = {0xDE: 3, 0xDF: 5}.get(head[0] if head else 0, 1)
    is_map = bool(head) and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF))
    return is_map and len(head) > skip and (0xA1 <= head[skip] <= 0xBF or head[skip] == 0xD9)


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
    text = bytes(file.data[:4096]).decode("utf-8", "replace")
    if '"weight_map"' in bytes(file.data[: 2**20]).decode("utf-8", "replace"):
        raise CheckpointError(
            f"{file.name} is the index of weights that lie in several safetensors files beside it. Make one file of them: load "
            "each with safetensors.torch.load_file, join the dicts, and save_file the whole; then pass that."
        )
    shown = clean(" ".join(text.split()), 160)
    raise CheckpointError(
        f"{file.name} is JSON text (an error message of a server, or a configuration?), not a checkpoint: {shown} - {_AGAIN}"
    )


def _read_torch_zip(file: CheckpointFile) -> Document:
    if file.name.endswith(".distcp"):
        raise CheckpointError(f"{file.name} is {SHARD}")
    return read_zip(file.data, file.name)


def _refuse_packed(
    how: str, unpack: str, opener: Callable[[io.BytesIO], io.BufferedIOBase]
) -> Callable[[CheckpointFile], Document]:
    """Of a file that is packed as a whole: says what is inside as far as its beginning tells."""

    def refuse(file: CheckpointFile) -> NoReturn:
        inside = b""
        with contextlib.suppress(OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
            stream = opener(io.BytesIO(bytes(file.data[:_PEEK])))
            while len(inside) < _PEEK and (more := stream.read1(_BLOCK)):
                inside += more
        if _is_tar(memoryview(inside)):
            raise CheckpointError(
                f"{file.name} is a tar archive packed with {how}, with {_members(io.BytesIO(inside))} in it. Unpack it (tar "
                f"-xf {file.name}), then pass the checkpoint that comes out."
            )
        raise CheckpointError(f"{file.name} is compressed with {how}. Unpack it ({unpack}), then pass what comes out.")

    return refuse


def _is_tar(data: memoryview) -> bool:
    return bytes(data[257:262]) == b"ustar"


def _members(archive: IO[bytes] | mmap.mmap) -> str:
    """The first files in a tar archive, of which perhaps only the beginning is there."""
    names: list[str] = []
    with contextlib.suppress(tarfile.TarError, ValueError, OSError):
        with tarfile.open(fileobj=archive, mode="r:") as opened:
            while len(names) < _NAMED and (member := opened.next()) is not None:
                names.append(clean(member.name, 60))
    return ", ".join(names) or "nothing that can be read"


def _refuse_tar(file: CheckpointFile) -> NoReturn:
    file.memory.seek(0)
    raise CheckpointError(
        f"{file.name} is a tar archive with {_members(file.memory)} in it. Unpack it (tar -xf {file.name}), then pass the "
        "checkpoint that comes out."
    )


def _explain_folder(path: Path) -> str:
    """What a folder is that was given where a file is expected, and what to do."""
    with contextlib.suppress(OSError):
        names = sorted(entry.name for entry in os.scandir(path))
        for fits, what in _FOLDERS:
            if any(re.fullmatch(fits, name) for name in names):
                return f"is {what}"
    return "is a folder, and a checkpoint file was expected. Pass the path of the file itself."


# What a folder is, by a name in it.
_FOLDERS: Final = (
    (r"\.metadata|.*\.distcp", SHARD.removeprefix("a part of ")),
    (r".*\.safetensors\.index\.json", "a folder of weights in several safetensors files. Join them into one, then pass that."),
    (r"model_index\.json", "a folder of diffusers: a diffusion model, not a GAN. Pass a file of the StyleGAN family."),
    (r"_METADATA|_CHECKPOINT_METADATA|manifest\.ocdbt", "a checkpoint of Orbax (JAX), which is not read. Pass a .pkl or .pt."),
    (r"saved_model\.pb|.*\.data-[0-9]{5}-of-[0-9]{5}", "a folder of TensorFlow's, which is not read. Pass its .pkl."),
    (r"data\.pkl", "an unpacked torch file. Pass the .pt or .pth file that it was unpacked from."),
)  # fmt: skip


# What a file is by its first bytes, in the order in which to ask; the last column reads it or says what to do.
_KINDS: Final[tuple[tuple[str, Callable[[memoryview], bool], Callable[[CheckpointFile], Document]], ...]] = (
    ("empty", lambda data: len(data) == 0, _refuse(f"is empty (a failed download?). {_AGAIN}")),
    ("torch zip", _begins(b"PK\3\4", b"PK\5\6"), _read_torch_zip),
    ("torch stream", _is_stream, lambda file: read_pickles(file.data, file.name)),
    (
        "Git LFS pointer",
        _begins(b"version https://git-lfs"),
        _refuse("is a Git LFS pointer, not the file itself. Run `git lfs pull` in its repository, then try again."),
    ),
    ("gzip", _begins(b"\x1f\x8b"), _refuse_packed("gzip", "gunzip", lambda head: gzip.GzipFile(fileobj=head))),
    ("bzip2", _begins(b"BZh"), _refuse_packed("bzip2", "bunzip2", bz2.BZ2File)),
    ("xz", _begins(b"\xfd7zXZ"), _refuse_packed("xz", "unxz", lzma.LZMAFile)),
    (
        "zstd",
        _begins(b"\x28\xb5\x2f\xfd"),
        _refuse("is compressed with zstd. Unpack it (unzstd), then pass what comes out."),
    ),
    ("tar", _is_tar, _refuse_tar),
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
    ("GGUF", _begins(b"GGUF"), _refuse("is a GGUF file (llama.cpp), not a StyleGAN. Pass a file of the StyleGAN family.")),
    ("numpy", _begins(b"\x93NUMPY"), _refuse("is an array of NumPy (.npy): codes, perhaps. Pass the generator's file here.")),
    ("TensorFlow Lite", _has_at(4, b"TFL3"), _refuse("is a TensorFlow Lite program. Pass the .pkl that it was made from.")),
    ("TensorFlow SavedModel", _begins(b"\x08\x01\x12"), _refuse("is a TensorFlow SavedModel. Pass the .pkl of its training.")),
    (
        "ONNX",
        _is_onnx,
        _refuse("is an ONNX graph: weights that were built into a program. Pass the checkpoint it was made from."),
    ),
    ("msgpack", _is_msgpack, _refuse("is a msgpack file (Flax?), which is not read. Pass the .pkl or .pt it was made from.")),
    ("safetensors", _is_safetensors, lambda file: read_safetensors(file.data, file.name)),
    ("web page", _is_markup, _refuse_page),
    ("JSON", _is_json, _refuse_json),
)
