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
from lia_adapter.errors import CheckpointError, ValuesError

__all__ = [
    "as_array",
    "as_mapping",
    "as_number",
    "as_tensor",
    "check_finite",
    "is_scalar",
    "is_tensor",
    "kind_of",
    "single_number",
]

# A view with stride 0 repeats its storage; copying it would then need this many times the storage.
MAX_REPEAT: Final = 16
MAX_AXES: Final = 16
_MAX_WRAPPED: Final = 8
_MAX_SIZE: Final = 2**48

_MAPPINGS: Final = ("collections.OrderedDict", "collections.defaultdict", "builtins.dict", "__builtin__.dict")
_NUMPY_CORE: Final = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMPY_SCALARS: Final = tuple(f"{module}.scalar" for module in _NUMPY_CORE)
_NUMPY_ARRAYS: Final = tuple(f"{module}._reconstruct" for module in _NUMPY_CORE)
_NUMPY_BUFFERS: Final = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")  # pickle protocol 5
_TENSORS: Final = tuple(f"torch._utils._rebuild_tensor{version}" for version in ("", "_v2", "_v3"))
# What hands its first argument on: parameters, with and without attributes, and tensors of devices that go by way of numpy.
_HANDED_ON: Final = (
    "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state", "torch.nn.parameter.Parameter",
    "torch._utils._rebuild_device_tensor_from_numpy", "torch._utils._rebuild_device_tensor_from_cpu_tensor",
)  # fmt: skip
# (function, class, arguments, state): a tensor with attributes of its own, or of a class of somebody's own.
_OF_TYPE: Final = ("torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type", "torch.tensor._rebuild_from_type")
_WRAPPED: Final = "torch._utils._rebuild_wrapper_subclass"
_DTENSOR: Final = "DTensor"
# Tensors that are none of plain floats, and what to do.
_OTHER_TENSORS: Final = {
    "torch._utils._rebuild_qtensor": "is quantised, and floats are read: save the network before it was quantised, or "
    "dequantize()",
    "torch._utils._rebuild_sparse_tensor": "is sparse, and dense tensors are read: save it with to_dense()",
    "torch._utils._rebuild_sparse_csr_tensor": "is sparse, and dense tensors are read: save it with to_dense()",
    "torch._utils._rebuild_nested_tensor": "is a nested tensor, and plain ones are read: save its parts",
    "torch._utils._rebuild_meta_tensor_no_storage": "has no numbers (it was on the device meta): load the weights, then save "
    "again",
}
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


def is_scalar(node: Any) -> bool:
    """Whether a node is nothing, a number, or text: a counter or a setting, not a weight."""
    return node is None or isinstance(node, (str, bytes)) or as_number(node) is not None


def is_tensor(node: Any) -> bool:
    """Whether a node is an array or a tensor of any kind, also of one that `as_tensor` refuses."""
    if isinstance(node, Stored):
        return True
    if not isinstance(node, Call) or not isinstance(node.function, Symbol):
        return False
    called = str(node.function)
    return called.startswith("torch._utils._rebuild_") or called in (*_HANDED_ON, *_OF_TYPE, *_NUMPY_ARRAYS, *_NUMPY_BUFFERS)


def kind_of(node: Any) -> str:
    """What a node is, for messages: "a list", "an object of timm.Model"."""
    if isinstance(node, Call):
        return f"an object of {clean(node.function, 60)}" if isinstance(node.function, Symbol) else "an object"
    kind = type(node).__name__
    return "nothing" if node is None else f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def as_array(node: Any, name: str) -> np.ndarray[Any, Any] | None:
    """A numpy array, in the machine's byte order; None if the node is no array.

    Args:
        node: A call of numpy's `_reconstruct`, with its state, or of `_frombuffer` (pickle protocol 5).
        name: The file's name, for messages.

    Raises:
        CheckpointError: The array holds objects, or its bytes do not fit its shape.
    """
    if not isinstance(node, Call) or not node.calls(*_NUMPY_ARRAYS, *_NUMPY_BUFFERS):
        return None
    axes: Any = None
    if node.calls(*_NUMPY_ARRAYS):
        match node.state:
            case (int(), tuple(shape), Call() as kind, bool(fortran), payload) if _sizes(shape) is not None:
                order = "F" if fortran else "C"
            case _:
                raise CheckpointError(f"{name} is damaged: a numpy array in it has no shape. Get the file again.")
    else:
        match node.args:
            case (payload, Call() as kind, tuple(shape), ("C" | "F" | "K") as order, *rest) if _sizes(shape) is not None:
                axes = rest[0] if rest else None
            case _:
                raise CheckpointError(f"{name} is damaged: a numpy array in it has no shape. Get the file again.")
    dtype, data = _dtype(kind), as_bytes(payload)
    if dtype is None:
        raise CheckpointError(f"{name} holds a numpy array of {_dtype_name(kind)}, and numbers were expected.")
    if data is None or math.prod(shape) * dtype.itemsize != len(data):
        raise CheckpointError(f"{name} is damaged: the bytes of a numpy array do not fit its shape. Get the file again.")
    flat = np.frombuffer(data, dtype).astype(dtype.newbyteorder("="))
    if order != "K":
        return flat.reshape(shape, order="F" if order == "F" else "C")
    # The shape is that of the array in memory; the order of its axes makes it the array again.
    if not isinstance(axes, (tuple, list)) or sorted(axis for axis in axes if type(axis) is int) != list(range(len(shape))):
        raise CheckpointError(f"{name} is damaged: a numpy array in it has no order of axes. Get the file again.")
    return flat.reshape(shape).transpose(axes)


def as_tensor(node: Any, document: Document, label: str) -> Tensor:
    """A tensor that shares the file's memory, with the strides and the dtype that the file gives it.

    Args:
        node: A call of torch's `_rebuild_tensor_v2` or of an older or newer form of it, whatever is around it (a parameter,
            attributes, a subclass, a DTensor whose one shard holds all), or a numpy array.
        document: The document that the node is from.
        label: The tensor's name, for messages; anything may be in it.

    Returns:
        float16, bfloat16, float32 or float64, of any shape.

    Raises:
        CheckpointError: The node is no tensor of floats, or reaches outside its storage.
    """
    label = clean(label)  # often a name from the file
    tensor = _of_any_type(node, document, label)
    if tensor.dtype not in _FLOATS:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{document.name}: {label} is of type {kind}, and floats were expected: float16, bfloat16, float32 or float64."
        )
    return tensor


def single_number(node: Any, document: Document) -> Tensor | None:
    """The tensor of a node, if it holds one number, of any type; else None."""
    try:
        tensor = _of_any_type(node, document, "")
    except CheckpointError:
        return None
    return tensor if tensor.numel() == 1 else None


def _of_any_type(node: Any, document: Document, label: str) -> Tensor:
    if isinstance(node, Stored):
        if _sizes(node.size) is None:
            raise CheckpointError(f"{document.name} is damaged: {label} has no valid shape. Get the file again.")
        return node.storage.tensor().reshape(node.size)
    node = _plain(node, document, label)
    array = as_array(node, document.name)
    if array is not None:
        if array.dtype.kind not in "fiub":
            raise CheckpointError(f"{document.name}: {label} is an array of {array.dtype}, and floats were expected.")
        return torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
    if not isinstance(node, Call) or not node.calls(*_TENSORS) or len(node.args) < 4:
        raise CheckpointError(f"{document.name}: {label} is {kind_of(node)}, which is no tensor that is known.")
    if node.calls("torch._utils._rebuild_tensor_v3"):
        kind = clean(node.args[6], 40) if len(node.args) > 6 else "a newer type"
        raise CheckpointError(f"{document.name}: {label} is of type {kind}, which is not read: save it in float16 or float32.")
    storage = document.storage(node.args[0])
    offset, size, stride = node.args[1], _sizes(node.args[2]), _sizes(node.args[3])
    flat = storage.tensor()
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


def check_finite(tensor: Tensor, document: Document, label: str) -> Tensor:
    """The tensor, if all its numbers are finite: with one that is not, every image is black, and every fit is lost.

    Raises:
        ValuesError: Some are infinite or no numbers.
    """
    # The extremes tell it without a copy: they are NaN where any number is.
    if tensor.numel() and not torch.stack(torch.aminmax(tensor)).isfinite().all():
        wrong = int((~torch.isfinite(tensor)).sum())
        raise ValuesError(
            f"{document.name}: {clean(label)} holds values that are not finite ({wrong:,} of {tensor.numel():,} are NaN or "
            "infinite): its training went astray? Take a checkpoint from before that."
        )
    return tensor


def _plain(node: Any, document: Document, label: str) -> Any:
    """The node of the tensor or array itself, without what is wrapped around it.

    Raises:
        CheckpointError: It is of a kind that holds no plain numbers.
    """
    for _ in range(_MAX_WRAPPED):
        if not isinstance(node, Call) or not isinstance(node.function, Symbol):
            return node
        called = str(node.function)
        if called in _OTHER_TENSORS:
            raise CheckpointError(f"{document.name}: {label} {_OTHER_TENSORS[called]}.")
        if called in _HANDED_ON and node.args:
            node = node.args[0]
        elif called in _OF_TYPE and len(node.args) >= 3 and isinstance(node.args[2], tuple):
            function, kind, arguments = node.args[:3]
            state = node.args[3] if len(node.args) > 3 else None
            if isinstance(kind, Symbol) and kind.name == _DTENSOR:
                node = _whole_shard(function, arguments, state, document, label)
            elif isinstance(function, Symbol) and str(function) == _WRAPPED:
                raise CheckpointError(
                    f"{document.name}: {label} is a {clean(kind, 60)}, which holds its numbers in a way of its own, and a "
                    "plain tensor was expected: save the network before it was changed so, or dequantize() it."
                )
            else:
                node = Call(function, arguments)
        else:
            return node
    return node


def _whole_shard(function: Any, arguments: tuple[Any, ...], state: Any, document: Document, label: str) -> Any:
    """The one shard of a DTensor (FSDP2), if it holds all of it."""
    attributes = next((found for part in _parts(state) if (found := as_mapping(part)) and "_local_tensor" in found), None)
    # _rebuild_wrapper_subclass(class, dtype, size, stride, ...)
    size = _sizes(_shape(arguments[2])) if str(function) == _WRAPPED and len(arguments) > 2 else None
    local = None if attributes is None else _plain(attributes["_local_tensor"], document, label)
    held = _sizes(_shape(local.args[2])) if isinstance(local, Call) and local.calls(*_TENSORS) and len(local.args) > 2 else None
    if size is None or held != size:
        raise CheckpointError(
            f"{document.name}: {label} is one shard of a tensor that FSDP2 spread over several processes (DTensor"
            + (f": {list(held)} of {list(size)}" if held and size else "")
            + "), and whole ones are read: save full tensors (full_tensor(), or full_state_dict=True in get_model_state_dict)."
        )
    return local


def _parts(state: Any) -> tuple[Any, ...]:
    """Python keeps an object's dict, or a pair of that and of its slots."""
    return state if isinstance(state, tuple) else (state,)


def _shape(node: Any) -> Any:
    """torch.Size is a tuple, or a call with one."""
    return node.args[0] if isinstance(node, Call) and node.calls("torch.Size") and node.args else node


def _sizes(node: Any) -> tuple[int, ...] | None:
    """Sizes or strides: some small numbers, none negative."""
    if isinstance(node, tuple) and len(node) <= MAX_AXES:
        sizes = tuple(size for size in node if type(size) is int and 0 <= size < _MAX_SIZE)
        # torch multiplies sizes even where one of them is 0.
        return sizes if len(sizes) == len(node) and math.prod(max(size, 1) for size in sizes) < 2**63 else None
    return None


def _dtype_name(node: Any) -> str:
    """What a numpy dtype is called, for messages."""
    code = node.args[0] if isinstance(node, Call) and node.calls("numpy.dtype") and node.args else node
    return "objects" if isinstance(code, str) and code.startswith("O") else clean(code, 40)


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
