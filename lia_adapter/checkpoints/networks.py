"""Networks in a tree, known by the names of their tensors: wherever they lie, and whatever stands in front of the names.

People keep a generator under "g_ema", "state_dict", "model.generator" or nothing at all, in dicts, lists and whole modules, and
what wraps a module (DistributedDataParallel, torch.compile, an average of weights) puts its own name in front or between. No
list of such places would ever be whole. So the tree is read as one table of dotted names, and a network is found where the
names of its family end them; what stands before is its place, and tells an averaged network from one that is not.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lia_adapter.checkpoints.decoder import clean
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.modules import as_module, is_persistent
from lia_adapter.checkpoints.tables import Table
from lia_adapter.checkpoints.values import as_mapping, is_scalar, is_tensor
from lia_adapter.errors import CheckpointError, argument

__all__ = ["averaged", "called", "choose", "discriminator_of", "names_in", "near", "networks", "pick"]

# Names that wrappers of modules insert: DistributedDataParallel and AveragedModel, torch.compile, FSDP, activation
# checkpointing, Lightning Fabric.
_WRAPPERS: Final = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
_WORD: Final = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
# "ge" and "gs" are lucidrains' and TensorFlow's names for it.
_AVERAGED: Final = frozenset("ema avg average averaged smooth smoothed shadow swa polyak running gs ge".split())
_JUDGES: Final = frozenset("d dis disc netd discriminator critic".split())
_ENCODERS: Final = frozenset("e enc encoder".split())
# What the programs that keep a network under such a name call its average.
_AVERAGES: Final = {"generator": "generator_smooth", "params": "params_ema", "G": "G_ema", "g": "g_ema"}
# AveragedModel and ema-pytorch keep them beside the weights.
_COUNTERS: Final = ("n_averaged", "initted")
# The deepest place of a tensor, and more values than any real file has, optimisers included.
_MAX_DEPTH: Final = 24
_MAX_VALUES: Final = 100_000
# One dict may lie in several places, but not in so many.
_MAX_SHARED: Final = 8
# Networks lie at most so deep, and have at least so many tensors.
_PLACE_DEPTH: Final = 4
_NETWORK: Final = 8


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A value of the tree.

    Attributes:
        node: Its node.
        holder: The dict, list or module that it lies in, by its path.
    """

    node: Any
    holder: str


def networks(document: Document, *names: str) -> list[Table]:
    """The tables of all networks that have tensors of these names.

    Args:
        document: The decoded file.
        names: As their family calls them; the more, the surer.

    Returns:
        Each with its place, its tensors by the family's own names, and what lies beside them.
    """
    leaves = _leaves(document)
    tensors = {name for name, leaf in leaves.items() if is_tensor(leaf.node)}
    first = names[0]
    places = [name.removesuffix(first) for name in tensors if name == first or name.endswith(f".{first}")]
    found = []
    for place in sorted(places, key=lambda place: (place.count("."), place)):
        if all(place + name in tensors for name in names):
            holders = {leaves[place + name].holder for name in names}
            inside = {
                name.removeprefix(place): leaf.node
                for name, leaf in leaves.items()
                if name.startswith(place) and leaf.holder in holders
            }
            nodes = {name: node for name, node in inside.items() if is_tensor(node)}
            beside = {name: node for name, node in inside.items() if name not in nodes}
            found.append(Table(document, nodes, place.removesuffix("."), beside))
    return found


def names_in(document: Document) -> list[str]:
    """The dotted names of all values of the tree, without those of wrappers."""
    return list(_leaves(document))


def choose(found: Sequence[Table], what: str = "generator") -> tuple[Table | None, list[str]]:
    """The network to take: an averaged one before one that is not.

    Args:
        found: Networks of one kind in a file.
        what: What they are, for messages.

    Returns:
        The network, None where there is none, and what to say about the choice.

    Raises:
        CheckpointError: There are several to choose from, or averaged weights that are not understood.
    """
    if not found:
        return None, []
    document, ranks = found[0].document, [_rank(table) for table in found]
    chosen = found[pick(document, what, [table.place for table in found], ranks, lambda i, j: _same(found[i], found[j]))]
    if what in document.wanted:
        return chosen, [f"{_called(chosen)} was taken, as it was asked for"]
    notes = []
    left = [_called(table) for table, rank in zip(found, ranks, strict=True) if rank > min(ranks)]
    if left:
        notes.append(f"{_called(chosen)} was taken; also in the file: {', '.join(left)}")
    if min(ranks):
        _refuse_unknown_average(chosen, found)
        average = _AVERAGES.get(chosen.place.rpartition(".")[2])
        if average is not None:
            notes.append(f"{average} is absent, {_called(chosen)} was taken: it was not averaged")
        elif chosen.place:
            notes.append(f"{_called(chosen)} was taken; nothing in the file says whether it was averaged over the training")
    return chosen, notes


def pick(document: Document, what: str, places: Sequence[str], ranks: Sequence[int], same: Callable[[int, int], bool]) -> int:
    """Which of several networks to take: what the user says, or the only one of the lowest rank.

    Args:
        document: The decoded file.
        what: What they are, for messages and for --assume.
        places: Where each lies.
        ranks: The lower, the better: averaged before others.
        same: Whether two of them, by their numbers, are one and the same.

    Raises:
        CheckpointError: There are several of the lowest rank.
    """
    best = [i for i, rank in enumerate(ranks) if rank == min(ranks)]
    if what not in document.wanted and any(not same(best[0], i) for i in best[1:]):
        raise CheckpointError(
            f"{document.name} holds {len(best)} {what}s, and nothing says which is the one to take: "
            f"{', '.join(called(places[i]) for i in best)}. Say it: {argument('assume')} {what}={clean(places[best[0]], 60)}"
        )
    if len(places) == 1 and what not in document.wanted:
        return 0
    return list(places).index(document.assume(what, places[best[0]], tuple(places), f"Which {what} to take."))


def discriminator_of(generator: Table | None, found: Sequence[Table]) -> Table | None:
    """The discriminator that was trained against a generator: not averaged, and the nearest to it.

    Args:
        generator: The chosen one.
        found: All discriminators of its family.
    """
    place = "" if generator is None else generator.place

    def distance(table: Table) -> tuple[bool, int]:
        common = 0
        for ours, theirs in zip(place.split("."), table.place.split("."), strict=False):
            if ours != theirs:
                break
            common += 1
        return averaged(table.place), -common

    return min(found, key=distance, default=None)


def near(table: Table, name: str) -> Any:
    """The value of this name that lies nearest to a network: among its tensors, beside it, or above; None if there is none."""
    leaves = _leaves(table.document)
    words = [word for word in table.place.split(".") if word]
    for depth in range(len(words), -1, -1):
        leaf = leaves.get(".".join([*words[:depth], name]))
        if leaf is not None and leaf.node is not None:
            return leaf.node
    return None


def averaged(place: str) -> bool:
    """Whether a place's name says that what lies there is an average over the training."""
    return any(_words(part) & _AVERAGED for part in place.split("."))


def _words(name: str) -> set[str]:
    """The words of a name: netG_ema and generatorEMA both have "ema" in them."""
    return {word.lower() for word in _WORD.findall(name)} | {name.lower()}


def _rank(table: Table) -> int:
    """0 for an averaged network, 1 for one of which nothing is known, 2 for one that an average was made of."""
    if averaged(table.place) or any(name in table.nodes or name in table.beside for name in _COUNTERS):
        return 0
    return 2 if "online" in _words(table.place) else 1


def called(place: str) -> str:
    """A place, for messages."""
    return clean(place, 60) if place else "the weights on top"


def _called(table: Table) -> str:
    return called(table.place)


def _same(one: Table, other: Table) -> bool:
    """Whether two tables hold the very same numbers, as where a program saves one network under two names."""
    if one.nodes.keys() != other.nodes.keys():
        return False
    return all(one.tensor(name).data_ptr() == other.tensor(name).data_ptr() for name in one.nodes)


def _refuse_unknown_average(chosen: Table, found: Sequence[Table]) -> None:
    """Weights that are called averaged and are there are no reason to take others."""
    document = chosen.document
    known = tuple(f"{table.place}." for table in found if table.place)
    beneath: dict[str, list[str]] = {}
    for name, leaf in _leaves(document).items():
        parts = name.split(".")
        whole = not is_tensor(leaf.node) and not is_scalar(leaf.node)  # something that nobody here knows, under this very name
        for depth, part in enumerate(parts[: None if whole else -1][:_PLACE_DEPTH], 1):
            words = _words(part)
            if words & (_JUDGES | _ENCODERS):
                break
            if words & _AVERAGED and not name.startswith(known):
                beneath.setdefault(".".join(parts[:depth]), []).extend([name] * (_NETWORK if whole else 1))
                break
    for place, names in beneath.items():
        if len(names) >= _NETWORK:
            held = clean(names[0].removeprefix(f"{place}."), 60)
            raise CheckpointError(
                f"{document.name} has averaged weights under {clean(place, 60)}, but they are not understood: it holds {held}. "
                f"{_called(chosen)}, which is not averaged, was not taken in their place. Save the averaged network's "
                "state_dict in a file of its own."
            )


def _leaves(document: Document) -> dict[str, _Leaf]:
    """Every value of the tree by its dotted name, wrappers' names left out.

    Raises:
        CheckpointError: There are more than in any checkpoint.
    """
    found: dict[str, _Leaf] = {}
    for path, holder, node in _walk(document):
        name = _without_wrappers(path)
        # Two names that differ by a wrapper alone are both kept.
        found[".".join(path) if name in found else name] = _Leaf(node, _without_wrappers(holder))
        if len(found) > _MAX_VALUES:
            raise CheckpointError(
                f"{document.name} has no known generator in it: it holds more than {_MAX_VALUES:,} values. Save the "
                "generator's state_dict in a file of its own."
            )
    return found


def _without_wrappers(path: tuple[str, ...]) -> str:
    return ".".join(part for part in ".".join(path).split(".") if part not in _WRAPPERS)


def _walk(document: Document) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], Any]]:
    """Path, holder's path and node of every value, in the order of the file."""
    waiting: list[tuple[tuple[str, ...], tuple[str, ...], Any, bool]] = [((), (), document.tree, False)]
    opened: dict[int, int] = {}
    while waiting:
        path, holder, node, in_module = waiting.pop()
        module = as_module(document, node, ".".join(path))
        if module is not None and ("_modules" not in module.state or is_persistent(node)):
            module = None  # a dict, an object of another kind, or a network that `persistent` reads as a whole
        inside = _inside(node) if module is None else module.everything()
        opened[id(node)] = opened.get(id(node), 0) + 1
        if inside is None or len(path) >= _MAX_DEPTH or opened[id(node)] > _MAX_SHARED:
            yield path, holder, node
            continue
        # The names of a module's tensors lead through all of its parts: it is one holder.
        within = holder if in_module and module is not None else path
        waiting += [((*path, str(key)), within, value, module is not None) for key, value in reversed(list(inside.items()))]


def _inside(node: Any) -> Mapping[Any, Any] | None:
    """What a dict or a list holds; None for a value."""
    if isinstance(node, (list, tuple)):
        return dict(enumerate(node))
    return None if is_tensor(node) else as_mapping(node)
