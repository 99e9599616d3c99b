"""Tables of tensors by name ("state dicts"), and their names in a family to the canonical ones."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from lia_adapter.checkpoints.decoder import clean
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.values import as_tensor, check_finite, is_scalar, kind_of, single_number
from lia_adapter.errors import CheckpointError

__all__ = ["Rule", "Table", "block_name", "image", "mirrored", "only", "rename", "renamed"]


@dataclass(frozen=True, eq=False)
class Table:
    """Tensors by name; none is looked at before it is asked for.

    Attributes:
        document: What it is from.
        nodes: The tensors' nodes by name.
        place: Where it lies in the tree, such as "state_dict.G_ema"; "" on top.
        beside: Nodes of what else lies there, by name, and is no tensor.
    """

    document: Document
    nodes: Mapping[str, Any]
    place: str = ""
    beside: Mapping[str, Any] = field(default_factory=dict)

    def has(self, *names: str) -> bool:
        """Whether all of these are there."""
        return all(name in self.nodes for name in names)

    def tensor(self, name: str) -> Tensor:
        """One tensor, in the file's memory.

        Raises:
            CheckpointError: It is none of floats, or damaged, or holds NaN.
        """
        return check_finite(as_tensor(self.nodes[name], self.document, name), self.document, name)

    def tensors(self, notes: list[str]) -> dict[str, Tensor]:
        """All tensors by name, where the names are canonical already.

        Args:
            notes: Gains one on what was left out.

        Raises:
            CheckpointError: Something that is no tensor of floats may be a part of the network.
        """
        return rename(self, (Rule(r".*\..*", lambda m: m[0]),), notes)


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


def renamed(found: Table, names: Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]) -> Table:
    """The same tensors under other names.

    Args:
        found: As in the file.
        names: Regular expressions for a part of a name, and what takes its place; all that fit, in this order.
    """

    def new(name: str) -> str:
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        return name

    nodes = {new(name): node for name, node in found.nodes.items()}
    return replace(found, nodes=nodes, beside={new(name): node for name, node in found.beside.items()})


def rename(tensors: Table, rules: Sequence[Rule], notes: list[str]) -> dict[str, Tensor]:
    """The tensors by their canonical names.

    Args:
        tensors: As in the file.
        rules: The first that fits a name is applied.
        notes: Gains one on counters and settings that lie beside the network.

    Raises:
        CheckpointError: No rule fits a tensor, so that nobody knows what it would change, or two make one name, or what should
            be a tensor is something else.
    """
    found: dict[str, Tensor] = {}
    unknown: list[str] = []
    left: list[str] = []
    for stored, node in (*tensors.nodes.items(), *tensors.beside.items()):
        rule, match = next(((rule, match) for rule in rules if (match := re.fullmatch(rule.pattern, stored))), (None, None))
        if stored in tensors.beside:
            if rule is not None and rule.name is not None and not is_scalar(node):
                raise CheckpointError(
                    f"{tensors.document.name}: {clean(stored, 60)} is {kind_of(node)}, and a tensor was expected. Save the "
                    "network's state_dict() with tensors alone."
                )
            left.append(stored)
        elif rule is not None and rule.name is None:
            pass
        elif _is_counter(stored, node, tensors.document, known=rule is not None):
            left.append(stored)
        elif rule is None or match is None:
            unknown.append(stored)
        else:
            assert rule.name is not None  # noqa: S101
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
        raise CheckpointError(
            f"{tensors.document.name} has {len(unknown)} tensors that are not known in such a file and may change its images: "
            f"{_listed(unknown)}. Pass the file that its generator was first published in."
        )
    if left:
        notes.append(f"beside the weights, and left out: {_listed(left)}")
    return found


def _is_counter(name: str, node: Any, document: Document, *, known: bool) -> bool:
    """Whether it is one number that belongs to no layer: a whole one, or an unknown one without a layer's name before."""
    number = single_number(node, document)
    return number is not None and (not number.is_floating_point() or (not known and not re.search(r"[./]", name)))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(clean(name, 60) for name in names[:5]) + (", ..." if len(names) > 5 else "")
