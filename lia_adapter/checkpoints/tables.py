"""Tables of tensors by name ("state dicts"), wherever they lie in a tree."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lia_adapter.checkpoints.decoder import Call, Symbol
from lia_adapter.checkpoints.document import Document, Stored
from lia_adapter.checkpoints.values import as_mapping, as_tensor

__all__ = ["Table", "table"]

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


def _is_tensor(node: Any) -> bool:
    return isinstance(node, Stored) or (isinstance(node, Call) and str(node.function).startswith("torch._utils._rebuild_"))
