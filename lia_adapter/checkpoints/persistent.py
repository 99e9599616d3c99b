"""Which of the networks that NVlabs' programs pickle as whole modules is the generator to take."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from lia_adapter.checkpoints.decoder import clean
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.modules import Module, as_module, is_persistent
from lia_adapter.checkpoints.networks import averaged, pick
from lia_adapter.checkpoints.values import as_mapping, is_scalar
from lia_adapter.errors import CheckpointError

__all__ = ["Choice", "choose"]

# Modules around a module, and where they keep it.
_WRAPPERS: Final = {
    "DistributedDataParallel": "module", "DataParallel": "module", "AveragedModel": "module", "OptimizedModule": "_orig_mod",
}  # fmt: skip
_AVERAGE: Final = "AveragedModel"
_MAX_WRAPPERS: Final = 8
_MAX_DEPTH: Final = 4
_MAX_ENTRIES: Final = 1_000


@dataclass(frozen=True)
class Choice:
    """A generator and what it lies among.

    Attributes:
        generator: The network to take.
        discriminator: The discriminator that lies beside it, or None.
        beside: The dict that it lies in, empty where it lies in none.
        notes: What to say about the choice.
    """

    generator: Module
    discriminator: Module | None
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
    found = [network for network in _networks(document) if _draws(network.path, network.module)]
    if not found:
        return None
    ranks = [0 if network.is_average else 1 for network in found]
    places = [network.path for network in found]
    chosen = found[pick(document, "generator", places, ranks, lambda i, j: found[i].module.state is found[j].module.state)]
    path, beside = chosen.path, chosen.beside
    notes = []
    if not path:
        notes.append("the file is a bare network")
    elif "generator" in document.wanted:
        notes.append(f"{clean(path, 60)} was taken, as it was asked for")
    elif not chosen.is_average:
        for key, node in beside.items():
            is_network = isinstance(key, str) and averaged(key) and not is_scalar(node)
            if is_network and not _is_discriminator(as_module(document, node, key)):
                raise CheckpointError(
                    f"{document.name} has averaged weights under {clean(key, 60)}, but no network that is known. "
                    f"{clean(path, 60)}, which is not averaged, was not taken in their place. Save the averaged network in a "
                    "file of its own."
                )
        notes.append(f"G_ema is absent, {clean(path, 60)} was taken: it was not averaged")
    discriminator = as_module(document, beside.get("D"), "D") or next(
        (other.module for other in _networks(document) if other.beside is beside and _is_discriminator(other.module)), None
    )
    return Choice(chosen.module, discriminator, beside, tuple(notes))


@dataclass(frozen=True)
class _Network:
    """A network of NVlabs' kind: its path, the dict around it, and whether it is an average over the training."""

    path: str
    beside: Mapping[Any, Any]
    module: Module
    is_average: bool


def _networks(document: Document) -> Iterator[_Network]:
    """Each network of NVlabs' kind that lies in the tree's dicts and lists."""
    waiting: list[tuple[tuple[str, ...], Mapping[Any, Any], Any]] = [((), {}, document.tree)]
    left = _MAX_ENTRIES
    while waiting and left:
        path, around, node = waiting.pop()
        left -= 1
        node, wrappers = _unwrapped(document, node)
        place = ".".join(path)
        module = as_module(document, node, place or "the network") if is_persistent(node) else None
        if module is not None:
            yield _Network(place, around, module, averaged(place) or _AVERAGE in wrappers)
            continue
        is_list = isinstance(node, (list, tuple))
        inside = dict(enumerate(node)) if is_list else as_mapping(node)
        if inside is not None and len(path) < _MAX_DEPTH:
            holder = around if is_list else inside
            waiting += [((*path, str(key)), holder, value) for key, value in reversed(list(inside.items())[:_MAX_ENTRIES])]


def _unwrapped(document: Document, node: Any) -> tuple[Any, list[str]]:
    """The module in all that was wrapped around it, and the wrappers' classes."""
    wrappers: list[str] = []
    while len(wrappers) < _MAX_WRAPPERS and not is_persistent(node):  # one may be wrapped around itself
        module = as_module(document, node, "")
        inside = None if module is None or module.kind not in _WRAPPERS else as_mapping(module.state.get("_modules"))
        if module is None or inside is None:
            break
        wrappers.append(module.kind)
        node = inside.get(_WRAPPERS[module.kind])
    return node, wrappers


def _draws(path: str, module: Module) -> bool:
    last = path.rpartition(".")[2]
    return last in ("", "G", "G_ema") or module.child("synthesis") is not None or module.child("backbone") is not None


def _is_discriminator(module: Module | None) -> bool:
    return module is not None and module.child("b4") is not None
