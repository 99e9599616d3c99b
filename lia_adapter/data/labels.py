"""Labels of a data set: `dataset.json` as NVlabs' programs write and read it."""

import json
import math
import posixpath
from collections.abc import Sequence
from typing import Any

import torch

from lia_adapter.data.source import LABELS, Source
from lia_adapter.errors import LIAError, argument
from lia_adapter.notes import say_once

__all__ = ["read_labels"]

_MAX_FLOAT32 = torch.finfo(torch.float32).max
_MAX_CLASS = 2**31
_CORRECT, _BELONGS = "Correct the file.", "Does this data set belong to this generator?"


def read_labels(source: Source, names: Sequence[str], c_dim: int | None = None) -> list[int] | list[list[float]] | None:
    """Reads `{"labels": [[name, label], ...]}`, by the rule of NVlabs' own loader.

    A label is a class number or a list of numbers, and all are of one kind; true and "1" are the number 1, and 1.0 is the
    class 1. Labels of images that are not there are not looked at, and of two for one image the last counts. The file is at
    the root or, where there is none, in sub-folders, whose images it then names.

    Args:
        source: Holds the file.
        names: Of all its images; each must have a label if any has.
        c_dim: Entries of c that a generator needs; None: whatever there is, which may be nothing.

    Returns:
        Class numbers, less than c_dim, or lists of c_dim numbers, in the order of the names; None where there are no labels
        and none are needed.

    Raises:
        LIAError: The file is damaged, labels cannot be read, or they do not match the images or c_dim.
    """
    where, pairs = _all_pairs(source, set(names))
    needed = "" if c_dim is None else f", but the generator is conditional and needs a label for every image (c_dim {c_dim})"
    if not pairs:
        if c_dim is None:
            return None
        what = "is missing" if pairs is None else "holds no labels"
        raise LIAError(f"{where} {what}{needed}. Pass a data set with labels, or {argument('label')}.")
    labels = dict(pairs)
    if missing := [name for name in names if name not in labels]:
        raise LIAError(f"{where} has no label for {_count(missing)}{needed or '; expected one for all, or none'}. {_CORRECT}")
    if extra := len(labels.keys() - set(names)):
        say_once(f"{where}: left out: {extra:,} label{'s' if extra > 1 else ''} of images that are not there")
    if twice := len(pairs) - len(labels):
        say_once(f"{where}: {twice:,} label{'s' if twice > 1 else ''} too many: of two for one image the last counts")
    found = [_value(labels[name], name, where) for name in names]
    for name, label in zip(names, found, strict=True):
        if isinstance(label, list) != isinstance(found[0], list):
            raise LIAError(f"{where} mixes class numbers and lists: {names[0]!r} and {name!r}. {_CORRECT}")
        if isinstance(label, list) and isinstance(found[0], list) and len(label) != (c_dim or len(found[0])):
            expected = f"the generator takes {c_dim}" if c_dim else f"{names[0]!r} has {len(found[0])}"
            raise LIAError(f"{where} gives {name!r} {len(label)} numbers, but {expected}. {_BELONGS}")
        if isinstance(label, int) and c_dim and label >= c_dim:
            classes = f"the generator's classes are 0 to {c_dim - 1}"
            raise LIAError(f"{where} gives {name!r} the class {label}, but {classes}. {_BELONGS}")
    return [label for label in found if isinstance(label, list)] or [label for label in found if isinstance(label, int)]


def _all_pairs(source: Source, names: set[str]) -> tuple[str, list[tuple[str, Any]] | None]:
    """Where labels are, in words, and names and labels as they stand there; None where there is no such file."""
    files = [LABELS] if LABELS in source.sizes else sorted(name for name in source.sizes if posixpath.basename(name) == LABELS)
    if not files:
        return f"{source.path}: {LABELS}", None
    pairs: list[tuple[str, Any]] = []
    for file in files:
        folder = posixpath.dirname(file)
        for name, label in _pairs(source, file):
            inside = posixpath.normpath(posixpath.join(folder, name))  # also of "./a.png"
            pairs.append((inside if inside in names or name not in names else name, label))
    return f"{source.path}: {', '.join(files[:3])}", pairs


def _pairs(source: Source, file: str) -> list[tuple[str, Any]]:
    """The names and labels of a file."""
    where = f"{source.path}: {file}"
    try:
        text = source.read(file)
    except LIAError as error:
        raise LIAError(f"{where} cannot be read: {error}. Get the data set again.") from error
    try:
        labels = json.loads(text)["labels"] or []
        pairs = list(labels.items()) if isinstance(labels, dict) else labels
        if not (isinstance(pairs, list) and all(len(pair) == 2 and isinstance(pair[0], str) for pair in pairs)):
            raise TypeError
    except (ValueError, RecursionError) as error:  # ValueError: bad JSON, bad UTF-8, a number of thousands of digits
        raise LIAError(f"{where} is not valid JSON. Get the data set again.") from error
    except (TypeError, KeyError) as error:
        raise LIAError(f'{where} is not of the form {{"labels": [[name, label], ...]}}. Correct the file.') from error
    return [(name.replace("\\", "/"), label) for name, label in pairs]


def _value(label: Any, name: str, where: str) -> int | list[float]:
    """A label as a class number or a list of numbers."""
    if isinstance(label, list):
        numbers = [_number(entry) for entry in label]
        if not numbers or any(number is None for number in numbers):
            raise LIAError(f"{where} gives {name!r} the label {label!r:.80}, which is not all finite numbers. {_CORRECT}")
        return [float(number) for number in numbers if number is not None]
    number = _number(label)
    if number is None or number != int(number) or not 0 <= number < _MAX_CLASS:
        expected = f"a whole number from 0 to {_MAX_CLASS - 1:,}, or a list of numbers"
        raise LIAError(f"{where} gives {name!r} the label {label!r:.40}; expected {expected}. {_CORRECT}")
    return int(number)


def _number(value: Any) -> float | int | None:
    """A finite number, also from its text or a truth value; None for anything else."""
    if isinstance(value, str):
        try:
            value = float(value) if value.isascii() else None
        except ValueError:
            return None
    if not isinstance(value, (int, float)) or not abs(value) <= _MAX_FLOAT32:  # false for nan, too
        return None
    return value if math.isfinite(value) else None


def _count(names: Sequence[str]) -> str:
    others = f" and {len(names) - 1:,} other images" if len(names) > 1 else ""
    return f"{names[0]!r}{others}"
