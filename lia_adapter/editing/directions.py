"""Directions by name, and files of them, bound to their generator by hash."""

import difflib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from lia_adapter.checkpoints.decoder import clean
from lia_adapter.config import stored
from lia_adapter.errors import CheckpointError, ConfigError, LIAError, argument
from lia_adapter.generators import Generator, at_rest, fingerprint
from lia_adapter.progress import Progress
from lia_adapter.tensorfile import DIRECTIONS, finite, read_tensor_file, write_tensor_file

if TYPE_CHECKING:
    from lia_adapter.editing.task import Examples

__all__ = ["SPACES_OF_EDITS", "Direction", "Directions", "check_owner", "join_directions", "own_directions", "read_directions"]

_VERSION = 1
_LONGEST = 200  # characters of a name
SPACES_OF_EDITS = ("y", "ys", "z", "s")
"""What a direction moves: the one y of all layers, each layer's own, z, or the styles of all layers."""


class HasGenerator(Protocol):
    """A LIA, as far as directions go."""

    generator: Generator


@dataclass(frozen=True)
class Direction:
    """One way to move codes.

    Attributes:
        name: What people call it: printable, on one line.
        space: y, ys, z or s.
        step: What is added to a code for a strength of 1, one standard deviation of the prior: [D], of ys [num_ws, y_dim], of
            s [S], the style layers one behind another.
        method: How it was found.
        layers: Which ys move, of s which style layers, where the user does not say; None: all.
        reader: Of a direction that belongs to a measured attribute: what reads it from a code of that space, [D], in
            units of the attribute; None: nothing is known.
        bias: attribute = code @ reader + bias.
        about: How it was found and what was measured of it, as JSON.
        styles: Of s: the style layers that the step is for, in order, and how many entries of it are each one's
            (`generators.style_sizes`); else None.
    """

    name: str
    space: str
    step: Tensor
    method: str
    layers: tuple[int, ...] | None = None
    reader: Tensor | None = None
    bias: float = 0.0
    about: Mapping[str, Any] = field(default_factory=dict)
    styles: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        if not (self.name.strip() and self.name.isprintable() and len(self.name) <= _LONGEST):
            raise ConfigError(f"{self.name!r:.60} is no name of a direction; expected up to {_LONGEST} printable characters.")
        if (self.space == "s") != (self.styles is not None):
            raise ConfigError(f"direction {self.name!r} is of {self.space}; one of s has styles, and no other has.")
        if self.styles is not None and (self.step.ndim != 1 or sum(self.styles.values()) != len(self.step)):
            entries = sum(self.styles.values())
            raise ConfigError(
                f"direction {self.name!r} has a step {list(self.step.shape)}; expected [{entries}], as its style layers say."
            )


@dataclass(frozen=True)
class Directions:
    """Directions of one generator, in order.

    Attributes:
        generator: Its fingerprint.
        found: Directions; those of one space have different names.
        about: Where they come from, as JSON: the source of the generator, how they were found.
    """

    generator: str
    found: tuple[Direction, ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = Counter((one.name, one.space) for one in self.found)
        if twice := next((pair for pair, times in known.items() if times > 1), None):
            raise ConfigError(
                f"there are two directions {twice[0]!r} of {twice[1]}. Give one another name: lia-adapt directions rename."
            )

    @staticmethod
    def find(
        method: str,
        lia: "HasGenerator | Generator",
        *,
        examples: "Examples | None" = None,
        progress: Progress | None = None,
        **keys: Any,
    ) -> "Directions":
        """Finds directions in memory; `lia_adapter.find_directions` also reads photographs, measures, writes and resumes.

        Args:
            method: One of `FIND_METHODS`.
            lia: A LIA, or a generator, which all methods but the labelled ones work with alone.
            examples: Of boundary, regress and difference: codes and attributes.
            progress: Is told what is done.
            **keys: Of `FindConfig`, such as count=5, layers=(4, 5).

        Raises:
            LIAError: There is no such method, or it lacks something.
        """
        from lia_adapter.direction_keys import FindConfig  # these need directions themselves
        from lia_adapter.editing.methods import METHODS
        from lia_adapter.editing.task import Task

        generator = lia if isinstance(lia, Generator) else lia.generator
        task = Task(generator, FindConfig(method=method, **keys), examples, progress=progress)
        with at_rest([generator]):
            found = METHODS[method](task)
        return Directions(fingerprint(generator), tuple(found), {"recipe": stored(task.config)})

    @property
    def names(self) -> list[str]:
        """Of all directions, in order."""
        return [direction.name for direction in self.found]

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[Direction]:
        return iter(self.found)

    def __getitem__(self, name: str) -> Direction:
        """The direction of a name.

        Raises:
            ConfigError: There is none, or one in each of several spaces.
        """
        named = [direction for direction in self.found if direction.name == name]
        if len(named) > 1:
            spaces = " and of ".join(one.space for one in named)
            raise ConfigError(f"there is a direction {name!r} of {spaces}. Say which by {argument('space')}.")
        if named:
            return named[0]
        near = difflib.get_close_matches(name, self.names, n=1)
        known = ", ".join(self.names[:20]) + (f" and {len(self) - 20} more" if len(self) > 20 else "")
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ConfigError(f"there is no direction {name!r}{hint} There are: {known or 'none'}.")

    def of_space(self, space: str) -> "Directions":
        """Those of y, ys, z or s alone."""
        return replace(self, found=tuple(one for one in self.found if one.space == space))

    def renamed(self, names: Mapping[str, str]) -> "Directions":
        """The same under other names.

        Args:
            names: Old -> new.

        Raises:
            ConfigError: There is no such direction, or two would have one name.
        """
        if unknown := [old for old in names if old not in self.names]:
            self[unknown[0]]  # says what there is
        return replace(self, found=tuple(replace(one, name=names.get(one.name, one.name)) for one in self.found))

    def save(self, path: str | Path) -> None:
        """Writes one .safetensors, whole or not at all.

        Raises:
            LIAError: The file cannot be written.
        """
        tensors: dict[str, Tensor] = {}
        entries = []
        for i, one in enumerate(self.found):
            tensors[f"step.{i}"] = one.step.detach().float().cpu().contiguous()
            if one.reader is not None:
                tensors[f"reader.{i}"] = one.reader.detach().float().cpu().contiguous()
            styles = {} if one.styles is None else {"styles": [list(pair) for pair in one.styles.items()]}  # whose order counts
            entries.append(
                {
                    "name": one.name, "space": one.space, "method": one.method, "bias": one.bias, "about": finite(one.about),
                    "layers": None if one.layers is None else list(one.layers), **styles,
                }
            )  # fmt: skip
        header = {
            "version": _VERSION, "generator_sha256": self.generator, "directions": entries, "about": finite(self.about),
        }  # fmt: skip
        write_tensor_file(path, DIRECTIONS, header, tensors)


def read_directions(path: str | Path) -> Directions:
    """Opens a file of directions.

    Raises:
        LIAError: It is missing, holds no directions, or is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise LIAError(f"there is no file of directions {path}. Check the path, or run lia-adapt directions find.")
    try:
        read = read_tensor_file(path, DIRECTIONS)
        if read is None:
            raise LIAError(
                f"{path.name} is a .safetensors file, but holds no directions. lia-adapt directions find writes such."
            )
        header, tensors = read
        if int(header["version"]) > _VERSION:
            raise LIAError(f"{path.name} was written by a later version of lia-adapter. Update this one to read it.")
        found = tuple(_entry(entry, i, tensors) for i, entry in enumerate(header["directions"]))
        about = dict(header["about"])
        if about.get("source") is not None:  # which is shown on terminals
            about["source"] = clean(about["source"])
        return Directions(str(header["generator_sha256"]), found, about)
    except (CheckpointError, ConfigError, OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        why = (f"it lacks {error}" if isinstance(error, KeyError) else str(error)).rstrip(".") or type(error).__name__
        raise LIAError(f"{path.name} is no readable file of directions: {why}. Find the directions again.") from error


def join_directions(parts: Sequence[Directions]) -> Directions:
    """Several files of one generator as one.

    Raises:
        LIAError: They are of different generators, or two directions have one name.
    """
    first = parts[0]
    if any(part.generator != first.generator for part in parts):
        raise LIAError("these files of directions are of different generators; use those of one.")
    if len(parts) == 1:
        return first
    return Directions(first.generator, tuple(one for part in parts for one in part), {"source": first.about.get("source")})


def _entry(entry: Mapping[str, Any], i: int, tensors: Mapping[str, Tensor]) -> Direction:
    """One line of the header, which anybody may have written, and its tensors."""
    step, reader, layers = tensors[f"step.{i}"], tensors.get(f"reader.{i}"), entry["layers"]
    name, space, bias = entry["name"], entry["space"], entry["bias"]
    if not isinstance(name, str) or space not in SPACES_OF_EDITS:
        raise ValueError(f"direction {i + 1} has the name {name!r:.60} and the space {space!r:.60}")
    if step.ndim != (2 if space == "ys" else 1) or not _useful(step) or not float(step.double().norm()):
        raise ValueError(f"direction {name!r:.60} of space {space!r} has a step {list(step.shape)}, zero or not of numbers")
    if reader is not None and (reader.shape != step.shape[-1:] or not _useful(reader)):
        raise ValueError(f"direction {name!r:.60} has a reader {list(reader.shape)}")
    if isinstance(bias, bool) or not isinstance(bias, int | float) or not math.isfinite(bias):
        raise ValueError(f"direction {name!r:.60} has the bias {bias!r:.60}")
    if layers is not None and not (
        isinstance(layers, list) and layers and all(type(layer) is int and layer >= 0 for layer in layers)
    ):
        raise ValueError(f"direction {name!r:.60} has the layers {layers!r:.60}")
    return Direction(
        name, space, step, str(entry["method"]), None if layers is None else tuple(layers), reader, float(bias),
        dict(entry["about"]), _styles(name, entry.get("styles")),
    )  # fmt: skip


def _styles(name: str, pairs: object) -> dict[str, int] | None:
    """Names and sizes of style layers, as a header has them."""
    if pairs is None:
        return None
    found: dict[str, int] = {}
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        match pair:
            case [str(layer), int(size)] if layer.isprintable() and len(layer) <= _LONGEST and type(size) is int and size > 0:
                found[layer] = size
            case _:
                raise ValueError(f"direction {name!r:.60} has the style layer {pair!r:.60}")
    return found


def _useful(numbers: Tensor) -> bool:
    return numbers.is_floating_point() and bool(numbers.isfinite().all())


def check_owner(found: Directions, owner: str, name: str, source: str | None) -> None:
    """Refuses directions of another generator.

    Args:
        found: The directions.
        owner: Fingerprint of the generator that is to draw.
        name: What the directions are called: their file.
        source: Where that generator comes from.

    Raises:
        LIAError: They are of another one.
    """
    if found.generator != owner:
        raise LIAError(
            f"{name} holds directions of another generator ({found.about.get('source') or 'a wrapped one'}) than "
            f"this file's ({source or 'a wrapped one'}). Find them with this one."
        )


def own_directions(found: Directions | None, generator: Generator, source: str | None) -> Directions:
    """Directions of this very generator, which takes a hash of all its weights to know.

    Raises:
        LIAError: There are none, or they are of another one.
    """
    if found is None:
        raise LIAError("there are no directions. Set lia.directions, or pass directions, from read_directions.")
    check_owner(found, fingerprint(generator), "what was given as directions", source)
    return found
