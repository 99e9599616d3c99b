"""Codes that other programs found: arrays of w, without a word on what generator they belong to.

NVlabs' projector writes `projected_w.npz` ({"w": [1, num_ws, w_dim]}), pSp's successor ReStyle `latents.npy` (a pickled dict of
lists of arrays), rosinality's projector a .pt ({file: {"img", "latent", "noise"}}), e4e and PTI a .pt of one tensor. None is
unpickled: pickles go through the decoder of `lia_adapter.checkpoints`, which executes nothing.
"""

import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lia_adapter.checkpoints.decoder import Call, Symbol
from lia_adapter.checkpoints.denied import refuse_denied
from lia_adapter.checkpoints.document import Document, Stored, read_pickles
from lia_adapter.checkpoints.files import read_document, read_file
from lia_adapter.checkpoints.values import as_array, as_mapping, as_tensor
from lia_adapter.errors import LIAError
from lia_adapter.notes import say_once

__all__ = ["ENDINGS", "read_npz", "read_projected"]

ENDINGS = (".npz", ".npy", ".pt", ".pth")
"""How names of such files end."""

_KEYS = (
    "w", "ws", "w_plus", "wp", "projected_w", "latent", "latents", "dlatent", "dlatents", "latent_code",
    "latent_codes", "codes",
)  # fmt: skip
_MAX_BYTES = 2**31  # of an array: a million codes of 512
_AGAIN = "Get the file again."


def read_projected(path: Path, num_ws: int, y_dim: int) -> tuple[tuple[str, ...], Tensor]:
    """Reads codes of another program.

    Args:
        path: A .npz, .npy, .pt or .pth.
        num_ws: Layers of the generator that is to draw them.
        y_dim: Entries of a code.

    Returns:
        Names of N pictures, and y, float32 [N, y_dim], or ys [N, num_ws, y_dim].

    Raises:
        LIAError: The file cannot be read, holds no codes, or codes of other sizes.
    """
    tree, document = _open(path)
    found = _arrays(tree, path.stem, path.name, top=True)
    if not found:
        raise LIAError(f"{path.name} holds no array of codes; expected [N, {y_dim}] or [N, {num_ws}, {y_dim}].")
    names: list[str] = []
    codes: list[Tensor] = []
    for name, node in found:
        part = _shaped(_tensor(node, document, f"{name} of {path.name}"), num_ws, y_dim, path.name)
        names += [name] if len(part) == 1 else [f"{name}-{i:05d}" for i in range(len(part))]
        codes.append(part)
    if any(part.ndim == 3 for part in codes):
        codes = [part if part.ndim == 3 else part[:, None].expand(-1, num_ws, -1) for part in codes]
    whole = torch.cat(codes)
    if not whole.isfinite().all():
        raise LIAError(f"{path.name} holds codes that are not finite numbers. {_AGAIN}")
    return tuple(names), whole


def _open(path: Path) -> tuple[Any, Document]:
    """What is in a file, as plain data, arrays and inert nodes, and the document that the nodes are from."""
    nothing = Document(path.name, None, frozenset(), {}, {}, ())
    if path.suffix.lower() == ".npz":
        return dict(read_npz(path)), nothing
    file = read_file(path)
    if path.suffix.lower() != ".npy":
        document = read_document(file)
        refuse_denied(document)
        return document.tree, document
    tree = _npy(bytes(file.data), path.name)
    if isinstance(tree, np.ndarray):
        return tree, nothing
    document = read_pickles(tree, path.name)
    refuse_denied(document)
    return document.tree, document


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz; none is a pickle, and together they are no larger than codes can be.

    Raises:
        LIAError: It cannot be read, or holds something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _MAX_BYTES:
                raise LIAError(f"{path.name} holds more than {_MAX_BYTES:,} bytes, which is more than codes take.")
            arrays = {name.removesuffix(".npy"): _npy(archive.read(name), path.name) for name in archive.namelist()}
    except FileNotFoundError:
        raise LIAError(f"there is no {path}. Check the path.") from None
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, RuntimeError, zlib.error, OSError) as error:
        raise LIAError(f"{path.name} is no .npz file, or damaged ({error}). {_AGAIN}") from error
    if hidden := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise LIAError(f"{path.name}: {hidden[0]} is a pickle, not an array of numbers. Save it as such.")
    return {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}


def _npy(data: bytes, name: str) -> NDArray[Any] | memoryview:
    """The array in the bytes of a .npy file; what follows the header, where that is a pickle."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(stream)
        rest = len(data) - stream.tell()
        if dtype.hasobject:
            return memoryview(bytearray(data[stream.tell() :]))
        if not math.prod(shape) * dtype.itemsize <= rest:
            raise ValueError(f"{rest:,} bytes are too few for {list(shape)}")
        stream.seek(0)
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    except (ValueError, EOFError, SyntaxError, TypeError, MemoryError) as error:
        raise LIAError(f"{name} is no array of numpy, or damaged ({' '.join(str(error).split())[:100]}). {_AGAIN}") from error
    return array


def _arrays(node: Any, name: str, file: str, *, top: bool = False) -> list[tuple[str, Any]]:
    """Arrays of codes by the names of their pictures, wherever they lie in a tree."""
    node = _inside(node)
    if _is_array(node):
        return [(name, node)]
    mapping = as_mapping(node)
    if mapping is not None:
        if known := [key for key in _KEYS if key in mapping]:
            if others := [str(key) for key in mapping if key != known[0]]:
                say_once(f"{file}: {known[0]!r} is read; left out: {', '.join(others[:10])}")
            return _arrays(mapping[known[0]], name, file, top=top)
        return [found for key, value in mapping.items() for found in _arrays(value, str(key), file)]
    if isinstance(node, list | tuple) and node:
        if top:
            return [found for i, value in enumerate(node) for found in _arrays(value, f"{name}-{i:05d}", file)]
        return _arrays(node[-1], name, file)  # the steps of a search, of which the last counts
    raise LIAError(f"{file}: {name} is no array of codes. Save the codes alone, as a .npy of float32.")


def _inside(node: Any) -> Any:
    """What is in an array of one object, which is what numpy makes of a dict; anything else as it is."""
    if isinstance(node, Call) and isinstance(node.function, Symbol) and node.function.name == "_reconstruct":
        match node.state:
            case (int(), (), _, _, [inside]):
                return inside
    return node


def _is_array(node: Any) -> bool:
    if isinstance(node, np.ndarray | Stored):
        return True
    made = node.function if isinstance(node, Call) else None
    return isinstance(made, Symbol) and made.name.startswith(("_reconstruct", "_rebuild"))


def _tensor(node: Any, document: Document, label: str) -> Tensor:
    """An array of any kind as float32."""
    array = node if isinstance(node, np.ndarray) else as_array(node, document.name)
    if array is None:
        return as_tensor(node, document, label).float().clone()
    if array.dtype.kind != "f":
        raise LIAError(f"{label} is of type {array.dtype}; expected floating-point numbers.")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _shaped(codes: Tensor, num_ws: int, y_dim: int, file: str) -> Tensor:
    """Codes of any shape that has room for y or ys -> [N, y_dim] or [N, num_ws, y_dim]."""
    shape = list(codes.shape)
    if not shape or shape[-1] != y_dim or not codes.numel():
        fits = False
    elif codes.ndim > 1 and shape[-2] == num_ws:  # also [num_ws, y_dim]: one picture, not as many as there are layers
        return codes.reshape(-1, num_ws, y_dim)
    else:
        fits = codes.ndim <= 2 or shape[-2] == 1
    if not fits:
        raise LIAError(
            f"{file} holds codes {shape}, but this generator takes [N, {y_dim}] or [N, {num_ws}, {y_dim}]. Were they made with "
            "it?"
        )
    return codes.reshape(-1, y_dim)
