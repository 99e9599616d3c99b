"""Networks in the trees of NVlabs' persistence pickles, and in the trees of whole torch modules.

Each network is a call of `torch_utils.persistence._reconstruct_persistent_obj` whose argument holds the network's source code
(which the ordinary loader executes, and nobody here reads) and its state, an `nn.Module`'s `__dict__`. `Module` is a view of
such a state: its tensors, its parts and its attributes, each checked when it is asked for.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from torch import Tensor

from lia_adapter.canonical import ARCHITECTURES, MAX_SIDE, Architecture
from lia_adapter.checkpoints.decoder import Call, Symbol, clean
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.layout import check_tensors
from lia_adapter.checkpoints.values import as_array, as_mapping, as_number, as_tensor, check_finite
from lia_adapter.errors import CheckpointError

__all__ = ["Module", "as_module", "collect", "is_persistent"]

# Modules in modules: a generator has synthesis, block, layer, affine.
_MAX_MODULES: Final = 8
# Tensors may share their storage, but a generator's do not: whoever copies them should not need much more than the file.
_MAX_SHARED: Final = 2
# Unconditional networks of StyleGAN-XL's repository have a table of classes all the same.
_UNUSED: Final = "mapping.embed.weight"
_PERSISTENT: Final = "_reconstruct_persistent_obj"
_DILL_ARRAY: Final = "dill._dill._create_array"


@dataclass(frozen=True)
class Module:
    """A view of one network or layer in the tree.

    Attributes:
        document: What it is from.
        path: Where it is, such as "G_ema.synthesis.b4", for messages.
        kind: Its class's name.
        state: Its attributes.
    """

    document: Document
    path: str
    kind: str
    state: Mapping[Any, Any]

    def fail(self, why: str) -> NoReturn:
        """Refuse the file for a reason that reads on after the network's name."""
        raise CheckpointError(
            f"{self.document.name}: {clean(self.path)} {why}. It is damaged, or a variant of its family that this version "
            "does not know. Pass the file that the network was first published in."
        )

    def child(self, name: str) -> "Module | None":
        """One of its parts, or None."""
        node = (as_mapping(self.state.get("_modules")) or {}).get(name)
        return as_module(self.document, node, f"{self.path}.{name}")

    def part(self, name: str) -> "Module":
        """A part that it must have."""
        child = self.child(name)
        return child if child is not None else self.fail(f"has no {name}")

    def children(self, having: str = "") -> dict[str, "Module"]:
        """Its parts by name, in order; only those that have this part themselves, if one is named."""
        names = [name for name in as_mapping(self.state.get("_modules")) or {} if isinstance(name, str)]
        found = {name: child for name in names if (child := self.child(name)) is not None}
        return {name: child for name, child in found.items() if not having or child.child(having) is not None}

    def nodes(self) -> dict[str, Any]:
        """Its own tensors' nodes. Layers frozen in training (freeze-D) keep weights among the buffers."""
        groups = [as_mapping(self.state.get(group)) or {} for group in ("_parameters", "_buffers")]
        return {name: node for group in groups for name, node in group.items() if node is not None}

    def everything(self) -> dict[str, Any]:
        """Nodes of its parts and of its own tensors by name."""
        parts = as_mapping(self.state.get("_modules")) or {}
        return {str(name): node for name, node in {**parts, **self.nodes()}.items() if node is not None}

    def tensor(self, name: str) -> Tensor:
        """One of its own tensors, which it must have."""
        node = self.nodes().get(name)
        if node is None:
            self.fail(f"has no {name}")
        return as_tensor(node, self.document, f"{self.path}.{name}")

    def shape(self, name: str, axes: int) -> list[int]:
        """Shape of a tensor with this number of axes."""
        shape = list(self.tensor(name).shape)
        if len(shape) != axes:
            self.fail(f"has a {name} of shape {shape}, and {axes} axes were expected")
        return shape

    def integer(self, name: str) -> int:
        """An attribute that is 0, 1, 2, ..."""
        number = as_number(self.state.get(name))
        if number is None or isinstance(number, bool) or number < 0 or not float(number).is_integer():
            self.fail(f"has no valid {name}")
        return int(number)

    def real(self, name: str) -> float:
        """An attribute that is a finite number."""
        number = as_number(self.state.get(name))
        if number is None or not math.isfinite(number):
            self.fail(f"has no valid {name}")
        return float(number)

    def optional(self, name: str) -> float | None:
        """An attribute that is a finite number or None."""
        return None if self.state.get(name) is None else self.real(name)

    def integers(self, name: str, count: int) -> list[int]:
        """An attribute that is a list or an array of so many integers, or one integer that stands for all."""
        node = self.state.get(name)
        if isinstance(node, Call) and node.calls(_DILL_ARRAY) and len(node.args) >= 3:
            # dill wraps numpy's own call: its function, its arguments, its state.
            node = Call(node.args[0], (), state=node.args[2])
        array = as_array(node, self.document.name)
        if array is not None:
            values = [value.item() for value in array.reshape(-1)[: count + 1]] if array.dtype.kind in "iuf" else []
        elif isinstance(node, (list, tuple)):
            values = [as_number(value) for value in node[: count + 1]]
        else:
            values = [as_number(node)] * count
        whole = [int(value) for value in values if value is not None and float(value).is_integer() and abs(value) <= MAX_SIDE]
        return whole if len(whole) == len(values) == count else self.fail(f"has no valid {name}")

    def text(self, name: str) -> str:
        """An attribute that is a short string."""
        text = self.state.get(name)
        return text if isinstance(text, str) and len(text) < 32 else self.fail(f"has no valid {name}")

    def architecture(self) -> Architecture:
        """How its blocks are joined."""
        text = self.text("architecture")
        return next((known for known in ARCHITECTURES if known == text), None) or self.fail(f"is {clean(text)}")


def is_persistent(node: Any) -> bool:
    """Whether NVlabs' programs pickled it, with its source, and not torch alone."""
    return isinstance(node, Call) and isinstance(node.function, Symbol) and node.function.name == _PERSISTENT


def as_module(document: Document, node: Any, path: str) -> Module | None:
    """A view of a node, if it is a network of NVlabs' or torch's kind.

    Args:
        document: What it is from.
        node: A node of its tree.
        path: Where the node is, for messages.
    """
    if not isinstance(node, Call) or not isinstance(node.function, Symbol):
        return None
    kind, state = node.function.name, node.state
    if kind == _PERSISTENT:
        meta = as_mapping(node.args[0]) if node.args else None
        if meta is None or not isinstance(meta.get("class_name"), str):
            return None
        kind, state = meta["class_name"], meta.get("state")
    attributes = as_mapping(state)
    return Module(document, path, kind, attributes) if attributes is not None else None


def collect(module: Module, shapes: dict[str, tuple[int, ...]], part: str, notes: list[str]) -> dict[str, Tensor]:
    """The tensors that the config implies, checked, with the part's name in front.

    Args:
        module: The network.
        shapes: Names and shapes of its tensors.
        part: "generator" or "discriminator".
        notes: Gains one on tensors that are not among them and cannot change an image.

    Raises:
        CheckpointError: A tensor is missing, or of another shape, or they share their numbers, or the generator has others.
    """
    tensors: dict[str, Tensor] = {}
    extra: list[str] = []
    for name, owner, node in _walk(module):
        if name in shapes:
            label = f"{part}.{name}"
            tensors[name] = check_finite(as_tensor(node, module.document, label), module.document, label)
            if name.endswith(".weight") and not re.match(r"mapping\.fc", name):
                _check_gain(owner, tensors[name])
        else:
            extra.append(name)
    check_tensors(tensors, shapes, module.document.name, part)
    if sum(tensor.numel() for tensor in tensors.values()) > _MAX_SHARED * _distinct(tensors):
        module.fail("has tensors that share their numbers")
    if extra:
        shown = ", ".join(clean(name, 60) for name in extra[:5]) + (", ..." if len(extra) > 5 else "")
        if part == "generator" and extra != [_UNUSED]:
            module.fail(f"has tensors that such a generator does not have, and that may change its images: {shown}")
        notes.append(f"{len(extra)} tensors of the {part} that its family does not have were ignored: {shown}")
    return {f"{part}.{name}": tensors[name] for name in shapes}


def _walk(module: Module) -> Iterator[tuple[str, Module, Any]]:
    """Name, owner and node of every tensor below a module."""
    waiting = [("", module, 0)]
    seen: set[int] = set()
    while waiting:
        prefix, owner, depth = waiting.pop()
        # Modules that contain or share each other would go on for ever.
        if depth > _MAX_MODULES or id(owner.state) in seen:
            owner.fail("occurs twice or too deep")
        seen.add(id(owner.state))
        for name, node in owner.nodes().items():
            yield f"{prefix}{name}", owner, node
        waiting += [(f"{prefix}{name}.", child, depth + 1) for name, child in owner.children().items()]


def _check_gain(layer: Module, weight: Tensor) -> None:
    """The layout has no place for gains other than equalised learning rate's, 1 / sqrt(fan_in)."""
    if layer.state.get("weight_gain") is not None:
        gain = layer.real("weight_gain") * math.sqrt(math.prod(weight.shape[1:]))
        if not math.isclose(gain, 1, rel_tol=1e-3):
            layer.fail(f"multiplies its weights by {gain:.4g} times the usual gain")


def _distinct(tensors: Mapping[str, Tensor]) -> int:
    """How many numbers lie in the storages of these tensors."""
    storages = {tensor.untyped_storage().data_ptr(): tensor for tensor in tensors.values()}
    return sum(tensor.untyped_storage().nbytes() // tensor.itemsize for tensor in storages.values())
