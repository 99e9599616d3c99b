"""Nodes of the tree to the values that they stand for: mappings, numbers, arrays, tensors.

One function for each kind of value, each of which knows the few spellings that exist. Everything is checked against the
bytes that are there before anything is made.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from lia_adapter.checkpoints.decoder import Call, Symbol, clean
from lia_adapter.checkpoints.document import Document, Stored, as_bytes
from lia_adapter.errors import CheckpointError

__all__ = ["as_array", "as_mapping", "as_number", "as_tensor"]

# A view with stride 0 repeats its storage; copying it would then need this many times the storage.
MAX_REPEAT: Final = 16
MAX_AXES: Final = 16
_MAX_SIZE: Final = 2**48

_MAPPINGS: Final = ("collections.OrderedDict", "collections.defaultdict", "builtins.dict", "__builtin__.dict")
_NUMPY_CORE: Final = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMPY_SCALARS: Final = tuple(f"{module}.scalar" for module in _NUMPY_CORE)
_NUMPY_ARRAYS: Final = tuple(f"{module}._reconstruct" for module in _NUMPY_CORE)
_TENSORS: Final = tuple(f"torch._utils._rebuild_tensor{version}" for version in ("", "_v2", "_v3"))
_PARAMETERS: Final = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def as_mapping(node: Any) -> Mapping[Any, Any] | None:
    """A dict, or a node that would be one (OrderedDict, EasyDict); None if it is neither."""
    if isinstance(node, dict):
        return node
    if not isinstance(node, Call) or not isinstance(node.function, Symbol):
        return None
    if node.calls(*_MAPPINGS) or node.function.name.endswith("Dict"):
        pairs = node.args[0] if node.args and isinstance(node.args[0], list) else []
        # Python 2 gave an OrderedDict its items as a list of lists.
        first = {
            pair[0]: pair[1]
            for pair in pairs
            if isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str)
        }
        return first | node.entries
    return None


def as_number(node: Any) -> int | float | None:
    """A Python number, also from a numpy scalar; None if the node is something else or beyond use."""
    if isinstance(node, (int, float)):
        return node if isinstance(node, float) or abs(node) < _MAX_SIZE else None
    if isinstance(node, Call) and node.calls(*_NUMPY_SCALARS) and len(node.args) == 2:
        dtype, data = _dtype(node.args[0]), as_bytes(node.args[1])
        if dtype is not None and data is not None and len(data) == dtype.itemsize:
            value = np.frombuffer(data, dtype)[0].item()
            return value if isinstance(value, (int, float)) else None
    return None


def as_array(node: Any, name: str) -> np.ndarray[Any, Any] | None:
    """A numpy array, in the machine's byte order; None if the node is no array.

    Args:
        node: A call of numpy's `_reconstruct`, with its state.
        name: The file's name, for messages.

    Raises:
        CheckpointError: The array holds objects, or its bytes do not fit its shape.
    """
    if not isinstance(node, Call) or not node.calls(*_NUMPY_ARRAYS):
        return None
    match node.state:
        case (int(), tuple(shape), Call() as kind, bool(fortran), payload) if _sizes(shape) is not None:
            dtype, data = _dtype(kind), as_bytes(payload)
        case _:
            raise CheckpointError(f"{name} is damaged: a numpy array in it has no shape. Get the file again.")
    if dtype is None:
        raise CheckpointError(f"{name} holds a numpy array of objects, not of numbers, which is refused.")
    if data is None or math.prod(shape) * dtype.itemsize != len(data):
        raise CheckpointError(f"{name} is damaged: the bytes of a numpy array do not fit its shape. Get the file again.")
    flat = np.frombuffer(data, dtype).astype(dtype.newbyteorder("="))
    return flat.reshape(shape, order="F" if fortran else "C")


def as_tensor(node: Any, document: Document, label: str) -> Tensor:
    """A tensor that shares the file's memory, with the strides and the dtype that the file gives it.

    Args:
        node: A call of torch's `_rebuild_tensor_v2` or `_rebuild_parameter`, or of an older or newer form of them.
        document: The document that the node is from.
        label: The tensor's name, for messages; anything may be in it.

    Returns:
        float16, bfloat16, float32 or float64, of any shape.

    Raises:
        CheckpointError: The node is no tensor of floats, or reaches outside its storage.
    """
    label = clean(label)  # often a name from the file
    if isinstance(node, Stored):
        if _sizes(node.size) is None:
            raise CheckpointError(f"{document.name} is damaged: {label} has no valid shape. Get the file again.")
        return _floats(node.storage.tensor(), document, label).reshape(node.size)
    while isinstance(node, Call) and node.calls(*_PARAMETERS) and node.args:
        node = node.args[0]
    if not isinstance(node, Call) or not node.calls(*_TENSORS) or len(node.args) < 4:
        raise CheckpointError(f"{document.name}: {label} is no tensor. The file is damaged, or of a kind that is not known.")
    storage = document.storage(node.args[0])
    offset, size, stride = node.args[1], _sizes(node.args[2]), _sizes(node.args[3])
    if node.calls("torch._utils._rebuild_tensor_v3"):
        raise CheckpointError(f"{document.name}: {label} is of a type that is not known, and floats were expected.")
    flat = _floats(storage.tensor(), document, label)
    if (
        type(offset) is not int  # a bool is none for torch
        or size is None
        or stride is None
        or len(size) != len(stride)
        or not 0 <= offset <= flat.numel()
    ):
        raise CheckpointError(f"{document.name} is damaged: {label} has no valid shape. Get the file again.")
    numel = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if numel and (last >= flat.numel() or numel > MAX_REPEAT * flat.numel()):
        raise CheckpointError(
            f"{document.name} is damaged: {label} of shape {list(size)} reaches outside its {flat.numel():,} stored "
            "numbers. Get the file again."
        )
    return flat.as_strided(size, stride, offset)


def _floats(flat: Tensor, document: Document, label: str) -> Tensor:
    if flat.dtype not in _FLOATS:
        raise CheckpointError(f"{document.name}: {label} is of type {clean(str(flat.dtype))}, and floats were expected.")
    return flat


def _sizes(node: Any) -> tuple[int, ...] | None:
    """Sizes or strides: some small numbers, none negative."""
    if isinstance(node, tuple) and len(node) <= MAX_AXES:
        sizes = tuple(size for size in node if type(size) is int and 0 <= size < _MAX_SIZE)
        # torch multiplies sizes even where one of them is 0.
        return sizes if len(sizes) == len(node) and math.prod(max(size, 1) for size in sizes) < 2**63 else None
    return None


def _dtype(node: Any) -> "np.dtype[Any] | None":
    """A numpy dtype of plain numbers; None for anything else."""
    if not isinstance(node, Call) or not node.calls("numpy.dtype") or not node.args:
        return None
    code = node.args[0]
    if not isinstance(code, str) or not re.fullmatch(r"b1|[iu][1248]|f[248]", code):
        return None
    order = node.state[1] if isinstance(node.state, tuple) and len(node.state) > 1 else "="
    if order not in ("<", ">", "=", "|"):
        return None
    return np.dtype(code).newbyteorder(">" if order == ">" else "<")
