"""Safetensors files to a document, and to tensors and back.

The format is a length, a JSON table of names, types, shapes and places, and the numbers: there is nothing to run. The
package `safetensors` reads and writes it too. Here tensors of a checkpoint lie in the file's bytes like all others', those of
our own files in memory of their own, not in a file that may change; and to write them takes no second copy of them all.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from lia_adapter.checkpoints.decoder import clean
from lia_adapter.checkpoints.document import Document, Storage, Stored
from lia_adapter.errors import CheckpointError

__all__ = ["MAX_HEADER", "read_metadata", "read_safetensors", "read_tensors", "write_tensors"]

_LENGTH: Final = 8
MAX_HEADER: Final = 2**23
"""Bytes: 100 times what the largest network needs. The format allows 100 MB, which JSON can blow up to gigabytes."""
_MAX_AXES: Final = 16
_METADATA: Final = "__metadata__"
_DTYPES: Final = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "BOOL": torch.bool,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
}  # fmt: skip
_NAMES: Final = {dtype: name for name, dtype in _DTYPES.items()}


def read_safetensors(data: memoryview, name: str) -> Document:
    """Read a file of bare weights.

    Args:
        data: The whole file.
        name: The file's name, for messages.

    Returns:
        A document whose tree is a dict of `Stored`, by name.

    Raises:
        CheckpointError: The file is damaged, or one that lia-adapt itself wrote.
    """
    size = int.from_bytes(data[:_LENGTH], "little")
    metadata, entries = _table(bytes(data[_LENGTH : _LENGTH + min(size, MAX_HEADER)]), size, len(data), name)
    if isinstance(metadata, dict) and "lia-adapter" in metadata:
        raise CheckpointError(f"{name} was written by lia-adapt itself. Open it with lia_adapter.load.")
    room = data[_LENGTH + size :]
    tree = {key: Stored(Storage(room[entry.first : entry.last], entry.dtype), entry.shape) for key, entry in entries.items()}
    return Document(name, tree, frozenset(), {}, {})


def read_metadata(path: Path) -> dict[str, str]:
    """The texts in a file's header; nothing but the header is read, where the package `safetensors` would map the file twice.

    Raises:
        CheckpointError: The file is damaged.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(_LENGTH), "little")
        metadata, _ = _table(file.read(min(size, MAX_HEADER)), size, path.stat().st_size, path.name)
    return metadata if isinstance(metadata, dict) else {}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a file that we wrote, each into memory of its own.

    Raises:
        CheckpointError: The file is damaged.
    """
    tensors: dict[str, Tensor] = {}
    with path.open("rb") as file:
        size = int.from_bytes(file.read(_LENGTH), "little")
        _, entries = _table(file.read(min(size, MAX_HEADER)), size, path.stat().st_size, path.name)
        for key, entry in entries.items():
            tensors[key] = torch.empty(entry.shape, dtype=entry.dtype)
            file.seek(_LENGTH + size + entry.first)
            if file.readinto(_bytes(tensors[key])) != tensors[key].nbytes:
                raise _damaged(path.name, f"{clean(key, 60)} is cut off")
    return tensors


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes tensors into the file that the package `safetensors` would make of them, but one after the other.

    Its `save` takes a copy of them all. Its `save_file` hides a full disk behind an error of its own, and makes files that only
    their owner can read.

    Raises:
        OSError: The file cannot be written.
    """
    # Wide types first, so that each tensor lies at a multiple of its type's size.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0]))
    table: dict[str, Any] = {_METADATA: dict(metadata)}
    end = 0
    for name, tensor in ordered:
        place = [end, end + tensor.nbytes]
        table[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
        end += tensor.nbytes
    header = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % _LENGTH)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(_LENGTH, "little") + header)
        for _, tensor in ordered:
            file.write(_bytes(tensor.detach().cpu().contiguous()))


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


@dataclass(frozen=True)
class _Entry:
    """A tensor's line in the table: where its numbers are, in bytes behind the table."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    first: int
    last: int


def _table(text: bytes, size: int, length: int, name: str) -> tuple[Any, dict[str, _Entry]]:
    """The metadata, None where there are none, and the entries.

    Args:
        text: The table.
        size: Its bytes, as the file says.
        length: The file's bytes.
        name: The file's name, for messages.

    Raises:
        CheckpointError: The file is damaged.
    """
    if size > length - _LENGTH:
        raise _damaged(name, f"its header claims {size:,} bytes, and the file has {length:,}")
    if size > MAX_HEADER:
        raise _damaged(name, f"its header has {size:,} bytes, and {MAX_HEADER:,} are allowed")
    try:
        header: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise _damaged(name, "its header is not valid JSON") from None
    if not isinstance(header, dict):
        raise _damaged(name, "its header is no table")
    metadata = header.pop(_METADATA, None)
    room, total = length - _LENGTH - size, 0
    entries: dict[str, _Entry] = {}
    for key, entry in header.items():
        if isinstance(entry, dict) and isinstance(entry.get("dtype"), str) and entry["dtype"] not in _DTYPES:
            raise CheckpointError(
                f"{name} is a safetensors file in which {clean(key, 60)} is of type {clean(entry['dtype'], 20)}, which is not "
                "read: numbers of so few bits are scaled in a way that each program has of its own. Save it in F16, BF16 or "
                "F32."
            )
        match entry:
            case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(first), int(last)]} if (
                len(shape) <= _MAX_AXES
                and all(type(n) is int and n >= 0 for n in shape)
                and math.prod(max(n, 1) for n in shape) < 2**63  # torch multiplies sizes even where one of them is 0
            ):
                dtype = _DTYPES[kind]
            case _:
                raise _damaged(name, f"the entry of {clean(key, 60)} is not valid")
        if not 0 <= first <= last <= room or last - first != math.prod(shape) * dtype.itemsize:
            raise _damaged(name, f"the bytes of {clean(key, 60)} do not fit its shape")
        entries[key] = _Entry(dtype, tuple(shape), first, last)
        total += last - first
    if total != room:  # also tells whether tensors lie on top of each other
        raise _damaged(name, f"its tensors need {total:,} bytes after the header, and {room:,} are there")
    return metadata, entries


def _damaged(name: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"{name} is a damaged safetensors file: {why}. Download it again, or pass the URL to lia-adapt convert."
    )
