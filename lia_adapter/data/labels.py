"""Labels of a data set: `dataset.json` as NVlabs' programs write it."""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lia_adapter.data.source import Source
from lia_adapter.errors import LIAError

__all__ = ["read_labels", "read_pairs"]

_FILE = "dataset.json"
_MAX_FLOAT32 = torch.finfo(torch.float32).max


def read_labels(source: Source, names: Sequence[str], c_dim: int) -> Tensor:
    """Reads `{"labels": [[name, class number or list of c_dim numbers], ...]}` at the root of a data set.

    Args:
        source: Holds the file.
        names: Of all its images; each must have a label.
        c_dim: Entries of c, at least 1.

    Returns:
        int64 [n], class numbers in 0 .. c_dim - 1; or float32 [n, c_dim].

    Raises:
        LIAError: There is no such file, it is damaged, or its labels do not match the images or c_dim.
    """
    where = f"{source.path}: {_FILE}"
    needed = f"the generator is conditional and needs a label for every image (c_dim {c_dim})"
    pairs = read_pairs(source)
    if not pairs:
        raise LIAError(
            f"{where} {'is missing' if pairs is None else 'holds no labels'}, but {needed}. Pass a data set with labels."
        )
    labels = dict(pairs)
    if len(labels) != len(pairs):
        raise LIAError(f"{where} names {len(pairs) - len(labels)} images more than once. Correct the file.")
    known = set(names)
    if strange := [name for name in labels if name not in known]:
        raise LIAError(f"{where} has a label for {_count(strange)} that {source.path} does not hold. Get the data set again.")
    if missing := [name for name in names if name not in labels]:
        raise LIAError(f"{where} has no label for {_count(missing)}, but {needed}. Correct the file.")
    for name in names:
        if why := _fault(labels[name], c_dim):
            raise LIAError(f"{where} gives {name!r} {why}. Does this data set belong to this generator?")
        if type(labels[name]) is not type(labels[names[0]]):
            raise LIAError(f"{where} mixes class numbers and lists: {names[0]!r} and {name!r}. Correct the file.")
    values = [labels[name] for name in names]
    return torch.tensor(values, dtype=torch.int64 if type(values[0]) is int else torch.float32)


def read_pairs(source: Source) -> list[tuple[str, Any]] | None:
    """The names and labels of that file as they stand there; None where there is no such file.

    Raises:
        LIAError: It is damaged.
    """
    if _FILE not in source.sizes:
        return None
    where = f"{source.path}: {_FILE}"
    try:
        text = source.read(_FILE)
    except LIAError as error:
        raise LIAError(f"{where} cannot be read: {error}. Get the data set again.") from error
    try:
        pairs = json.loads(text)["labels"] or []
        if not (isinstance(pairs, list) and all(len(pair) == 2 and isinstance(pair[0], str) for pair in pairs)):
            raise TypeError
    except (ValueError, RecursionError) as error:  # ValueError: bad JSON, bad UTF-8, a number of thousands of digits
        raise LIAError(f"{where} is not valid JSON. Get the data set again.") from error
    except (TypeError, KeyError) as error:
        raise LIAError(f'{where} is not of the form {{"labels": [[name, label], ...]}}. Correct the file.') from error
    return [(name.replace("\\", "/"), label) for name, label in pairs]


def _fault(label: Any, c_dim: int) -> str:
    """What is wrong with a label, or nothing."""
    if type(label) is int:
        return "" if 0 <= label < c_dim else f"the class {str(label):.20}, but the generator's classes are 0 to {c_dim - 1}"
    if not isinstance(label, list):
        return f"the label {label!r:.40}, which is neither a class number nor a list of numbers"
    if len(label) != c_dim:
        return f"{len(label)} numbers, but the generator takes {c_dim}"
    if not all(type(number) in (int, float) and abs(number) <= _MAX_FLOAT32 for number in label):  # false for nan, too
        return f"the label {label!r:.80}, which is not all finite numbers"
    return ""


def _count(names: Sequence[str]) -> str:
    others = f" and {len(names) - 1:,} other images" if len(names) > 1 else ""
    return f"{names[0]!r}{others}"
