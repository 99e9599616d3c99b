"""Tables of tensors by name ("state dicts"), wherever they lie in a tree."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lia_adapter.checkpoints.decoder import Call, Symbol, clean
from lia_adapter.checkpoints.document import Document, Stored
from lia_adapter.checkpoints.values import as_mapping, as_tensor
from lia_adapter.errors import CheckpointError

__all__ = ["Rule", "Table", "block_name", "image", "mirrored", "only", "rename", "table"]

_PARALLEL = "module."  # what DistributedDataParallel puts in front of every name


@dataclass(frozen=True)
class Table:
    """Tensors by name; none is looked at before it is asked for.

    Attributes:
        document: What it is from.
        nodes: The tensors' nodes by name.
    """

    document: Document
    nodes: Mapping[str, Any]

    def has(self, *names: str) -> bool:
        """Whether all of these are there."""
        return all(name in self.nodes for name in names)

    def tensor(self, name: str) -> Tensor:
        """One tensor, in the file's memory.

        Raises:
            CheckpointError: It is none of floats, or damaged.
        """
        return as_tensor(self.nodes[name], self.document, name)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {name: self.tensor(name) for name in self.nodes}

    def below(self, prefix: str) -> "Table":
        """Those whose names begin so, without the prefix."""
        nodes = {name.removeprefix(prefix): node for name, node in self.nodes.items() if name.startswith(prefix)}
        return Table(self.document, nodes)


@dataclass(frozen=True)
class Rule:
    """How tensors of one kind are called in a family, and in the canonical form.

    Attributes:
        pattern: A regular expression for the whole name in the file.
        name: The canonical name: a template for `re.Match.expand`, or a function of the match; None: of no use, left out.
        change: What makes the stored tensor the canonical one; an IndexError or RuntimeError of it means a wrong shape.
    """

    pattern: str
    name: str | Callable[[re.Match[str]], str] | None
    change: Callable[[Tensor], Tensor] | None = None


def table(document: Document, *path: str) -> Table | None:
    """The table at a place in the tree, DistributedDataParallel's prefix taken off.

    Args:
        document: The decoded file.
        path: Keys from the top of the tree down to the table.

    Returns:
        None where there is no dict, or none with tensors in it. Entries that are no tensors are left out.
    """
    node = document.tree
    for key in path:
        node = (as_mapping(node) or {}).get(key)
    nodes = {name: value for name, value in (as_mapping(node) or {}).items() if isinstance(name, str) and _is_tensor(value)}
    if nodes and all(name.startswith(_PARALLEL) for name in nodes):
        nodes = {name.removeprefix(_PARALLEL): value for name, value in nodes.items()}
    return Table(document, nodes) if nodes else None


def block_name(index: int) -> str:
    """Canonical name of the block of the k-th doubling: the size that it would have from 4x4.

    Args:
        index: k; one that a damaged file may lead to gives some block's name, which then occurs twice or does not fit.
    """
    return f"b{4 << max(0, min(index, 16))}"


def only(x: Tensor) -> Tensor:
    """The one entry of the first dimension."""
    if x.shape[:1] != (1,):
        raise IndexError
    return x[0]


def image(x: Tensor) -> Tensor:
    """A noise image or a filter [..., h, w] without the dimensions of one entry before."""
    return x.reshape(x.shape[-2:]) if x.ndim > 1 else x


def mirrored(x: Tensor) -> Tensor:
    """Kernels [O, I, h, w] in TensorFlow's orientation."""
    return x.flip(-1, -2)


def rename(tensors: Table, rules: Sequence[Rule]) -> dict[str, Tensor]:
    """The tensors by their canonical names.

    Args:
        tensors: As in the file.
        rules: The first that fits a name is applied.

    Raises:
        CheckpointError: No rule fits a tensor, so that nobody knows what it would change, or two make one name.
    """
    found: dict[str, Tensor] = {}
    unknown: list[str] = []
    for stored in tensors.nodes:
        rule, match = next(((rule, match) for rule in rules if (match := re.fullmatch(rule.pattern, stored))), (None, None))
        if rule is None or match is None:
            unknown.append(stored)
        elif rule.name is not None:
            name = match.expand(rule.name) if isinstance(rule.name, str) else rule.name(match)
            if name in found:
                raise CheckpointError(f"{tensors.document.name} has {clean(name, 60)} twice. Get the file again.")
            tensor = tensors.tensor(stored)
            try:
                found[name] = tensor if rule.change is None else rule.change(tensor)
            except (IndexError, RuntimeError):
                raise CheckpointError(
                    f"{tensors.document.name} is damaged: {clean(stored, 60)} has shape {list(tensor.shape)}, which does not "
                    "fit its name. Get the file again."
                ) from None
    if unknown:
        shown = ", ".join(clean(name, 60) for name in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise CheckpointError(
            f"{tensors.document.name} has {len(unknown)} tensors that are not known in such a file and may change its images: "
            f"{shown}. Pass the file that its generator was first published in."
        )
    return found


def _is_tensor(node: Any) -> bool:
    function = node.function if isinstance(node, Call) else None
    return isinstance(node, Stored) or (isinstance(function, Symbol) and str(function).startswith("torch._utils._rebuild_"))
