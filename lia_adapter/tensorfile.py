"""Our own files: tensors in a .safetensors, and a JSON header of a named kind among its texts."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lia_adapter.checkpoints.safetensor import read_metadata, read_tensors, write_tensors
from lia_adapter.errors import CheckpointError, ConfigError, argument
from lia_adapter.files import atomic_write

__all__ = [
    "CODES",
    "DIRECTIONS",
    "LIA_FILE",
    "check_replaced",
    "finite",
    "read_header",
    "read_tensor_file",
    "write_tensor_file",
]

LIA_FILE, CODES, DIRECTIONS = "lia-adapter", "lia-adapter-codes", "lia-adapter-directions"
"""Kinds of files that users keep."""
_WORDS = {LIA_FILE: "a LIA file", CODES: "codes", DIRECTIONS: "directions"}


def finite(value: Any) -> Any:
    """The same, of mappings, lists and tuples, with None, JSON's null, for numbers that are not finite, unknown to JSON."""
    if isinstance(value, Mapping):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_replaced(path: Path, kind: str | None) -> None:
    """Refuses to write a file of one kind over one of another, which would be lost; what is no .safetensors may be replaced.

    Args:
        path: Of the file to be written.
        kind: Its own; None: weights for another program, which replace any but files of ours.

    Raises:
        ConfigError: There is one of another kind, or of another program.
    """
    try:
        found = read_metadata(path)
    except (OSError, CheckpointError):
        return
    ours = next((words for other, words in _WORDS.items() if other in found), None)
    if kind not in found if kind is not None else ours is not None:
        there, new = ours or "tensors of another program", "weights of another form" if kind is None else _WORDS[kind]
        raise ConfigError(
            f"{argument('out')} {path} holds {there}, in whose place {new} would be written. "
            "Choose another name, or remove that file."
        )


def write_tensor_file(path: str | Path, kind: str, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Writes a file, whole or not at all.

    Args:
        path: The file.
        kind: What the header is called in it, such as "lia-adapter".
        header: What JSON can say.
        tensors: By name.

    Raises:
        LIAError: The file cannot be written, or is one of another kind.
    """
    if kind in _WORDS:  # what users keep; a state of a run may be of whatever was in its place
        check_replaced(Path(path), kind)
    with atomic_write(path, needs=sum(t.nbytes for t in tensors.values())) as temporary:
        write_tensors(temporary, tensors, {kind: json.dumps(header, sort_keys=True)})


def read_header(path: Path, kind: str) -> dict[str, Any] | None:
    """The header of that kind, None where the file has none; no tensor is read.

    Raises:
        CheckpointError: The file is damaged.
        OSError: It cannot be read.
    """
    text = read_metadata(path).get(kind)
    if text is None:
        return None
    try:
        header = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is damaged: its header is not valid JSON.") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path.name} is damaged: its header is no table.")
    return header


def read_tensor_file(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """The header of that kind and the tensors, each in memory of its own; None where the file has no such header.

    Memory of its own, because memory of another alignment may be multiplied by other kernels, with another last bit.

    Raises:
        CheckpointError: The file is damaged.
        OSError: It cannot be read.
    """
    header = read_header(path, kind)
    return None if header is None else (header, read_tensors(path))
