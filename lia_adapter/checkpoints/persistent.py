"""Which of the networks that NVlabs' programs pickle as whole modules is the generator to take."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from lia_adapter.checkpoints.decoder import clean
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.modules import Module, as_module, is_persistent
from lia_adapter.checkpoints.networks import averaged
from lia_adapter.checkpoints.values import as_mapping, is_scalar
from lia_adapter.errors import CheckpointError

__all__ = ["Choice", "choose"]

# Modules around a module, and where they keep it.
_WRAPPERS: Final = {
    "DistributedDataParallel": "module", "DataParallel": "module", "AveragedModel": "module", "OptimizedModule": "_orig_mod",
}  # fmt: skip
_MAX_DEPTH: Final = 4
_MAX_ENTRIES: Final = 1_000


@dataclass(frozen=True)
class Choice:
    """A generator and what it lies among.

    Attributes:
        generator: The network to take.
        judge: The discriminator that lies beside it, or None.
        beside: The dict that it lies in, empty where it lies in none.
        notes: What to say about the choice.
    """

    generator: Module
    judge: Module | None
    beside: Mapping[Any, Any]
    notes: tuple[str, ...]


def choose(document: Document) -> Choice | None:
    """The generator to take: an averaged one before one that is not.

    Args:
        document: The decoded file.

    Returns:
        None where no network of NVlabs' kind is in the tree.

    Raises:
        CheckpointError: There are several to choose from, or an averaged one that is not understood.
    """
    found = [(path, beside, module) for path, beside, module in _networks(document) if _draws(path, module)]
    if not found:
        return None
    best = [entry for entry in found if averaged(entry[0])] or found
    path, beside, generator = best[0]
    if any(module.state is not generator.state for _, _, module in best[1:]):
        places = ", ".join(clean(path or "the file itself", 60) for path, _, _ in best)
        raise CheckpointError(
            f"{document.name} holds {len(best)} generators, and nothing says which is the one to take: {places}. Save the one "
            "that you want in a file of its own."
        )
    notes = []
    if not path:
        notes.append("the file is a bare network")
    elif not averaged(path):
        for key, node in beside.items():
            if isinstance(key, str) and averaged(key) and not is_scalar(node) and not _judges(as_module(document, node, key)):
                raise CheckpointError(
                    f"{document.name} has averaged weights under {clean(key, 60)}, but no network that is known. "
                    f"{clean(path, 60)}, which is not averaged, was not taken in their place. Save the averaged network in a "
                    "file of its own."
                )
        notes.append(f"G_ema is absent, {clean(path, 60)} was taken: it was not averaged")
    judge = as_module(document, beside.get("D"), "D") or next(
        (module for _, other, module in _networks(document) if other is beside and _judges(module)), None
    )
    return Choice(generator, judge, beside, tuple(notes))


def _networks(document: Document) -> Iterator[tuple[str, Mapping[Any, Any], Module]]:
    """Path, the dict around, and the network, for each of NVlabs' kind that lies in the tree's dicts and lists."""
    waiting: list[tuple[tuple[str, ...], Mapping[Any, Any], Any]] = [((), {}, document.tree)]
    left = _MAX_ENTRIES
    while waiting and left:
        path, around, node = waiting.pop()
        left -= 1
        while (wrapped := _wrapped(document, node)) is not None:
            node = wrapped
        module = as_module(document, node, ".".join(path) or "the network") if is_persistent(node) else None
        if module is not None:
            yield ".".join(path), around, module
            continue
        inside = dict(enumerate(node)) if isinstance(node, (list, tuple)) else as_mapping(node)
        if inside is not None and len(path) < _MAX_DEPTH:
            holder = inside if isinstance(inside, Mapping) and not isinstance(node, (list, tuple)) else around
            waiting += [((*path, str(key)), holder, value) for key, value in reversed(list(inside.items())[:_MAX_ENTRIES])]


def _wrapped(document: Document, node: Any) -> Any:
    """The module in one that was wrapped around it; None where nothing was."""
    module = None if is_persistent(node) else as_module(document, node, "")
    inside = None if module is None or module.kind not in _WRAPPERS else as_mapping(module.state.get("_modules"))
    return None if module is None or inside is None else inside.get(_WRAPPERS[module.kind])


def _draws(path: str, module: Module) -> bool:
    last = path.rpartition(".")[2]
    return last in ("", "G", "G_ema") or module.child("synthesis") is not None or module.child("backbone") is not None


def _judges(module: Module | None) -> bool:
    return module is not None and module.child("b4") is not None
