"""Safetensors files to a document.

The format is a length, a JSON table of names, types, shapes and places, and the numbers: there is nothing to run. The
package `safetensors` reads it too, but into memory of its own; here tensors lie in the file's bytes like all others'.
"""

import json
import math
from typing import Any, Final, NoReturn

import torch

from lia_adapter.checkpoints.decoder import clean
from lia_adapter.checkpoints.document import Document, Storage, Stored
from lia_adapter.errors import CheckpointError

__all__ = ["MAX_HEADER", "read_safetensors"]

_LENGTH: Final = 8
MAX_HEADER: Final = 2**23
"""Bytes: 100 times what the largest network needs. The format allows 100 MB, which JSON can blow up to gigabytes."""
_MAX_AXES: Final = 16
_METADATA: Final = "__metadata__"
_DTYPES: Final = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


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

    def damaged(why: str) -> NoReturn:
        raise CheckpointError(
            f"{name} is a damaged safetensors file: {why}. Download it again, or pass the URL to lia-adapt convert."
        )

    size = int.from_bytes(data[:_LENGTH], "little")
    if size > len(data) - _LENGTH:
        damaged(f"its header claims {size:,} bytes, and the file has {len(data):,}")
    if size > MAX_HEADER:
        damaged(f"its header has {size:,} bytes, and {MAX_HEADER:,} are allowed")
    try:
        header: Any = json.loads(bytes(data[_LENGTH : _LENGTH + size]))
    except (ValueError, RecursionError):
        damaged("its header is not valid JSON")
    if not isinstance(header, dict):
        damaged("its header is no table")
    metadata = header.pop(_METADATA, None)
    if isinstance(metadata, dict) and "lia-adapter" in metadata:
        raise CheckpointError(f"{name} was written by lia-adapt itself. Open it with lia_adapter.load.")
    room, total = data[_LENGTH + size :], 0
    tree: dict[str, Stored] = {}
    for key, entry in header.items():
        match entry:
            case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(first), int(last)]} if (
                kind in _DTYPES and len(shape) <= _MAX_AXES and all(type(n) is int and n >= 0 for n in shape)
            ):
                dtype = _DTYPES[kind]
            case _:
                damaged(f"the entry of {clean(key, 60)} is not valid")
        if not 0 <= first <= last <= len(room) or last - first != math.prod(shape) * dtype.itemsize:
            damaged(f"the bytes of {clean(key, 60)} do not fit its shape")
        tree[key] = Stored(Storage(room[first:last], dtype), tuple(shape))
        total += last - first
    if total != len(room):  # also tells whether tensors lie on top of each other
        damaged(f"its tensors need {total:,} bytes after the header, and {len(room):,} are there")
    return Document(name, tree, frozenset(), {}, {})
