"""What is known of images beside their pixels: attributes, by name, one number an image."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lia_adapter.data.images import ImageSet
from lia_adapter.data.labels import read_labels
from lia_adapter.data.source import image_names, open_source
from lia_adapter.data.toyfaces import FACTORS, ToyFaces
from lia_adapter.errors import LIAError, argument

__all__ = ["read_attributes"]

_CLASSES = 50  # more make no sensible list of directions


def read_attributes(images: ImageSet, labels: str | Path | None = None) -> tuple[tuple[str, ...], Tensor]:
    """Names of attributes [F] and their values [N, F] for the images of a set, in order; NaN where one is not known.

    Args:
        images: Toy faces know their factors; other sets what `dataset.json` says: of two classes the one attribute "label", of
            more "class-K" for each, of lists of numbers "label-1" and so on.
        labels: A CSV in its place: a first line of names; the first column names images, as paths in the set or by their
            stem, the others are numbers, or empty.

    Raises:
        LIAError: There are no labels, or they cannot be read.
    """
    if labels is not None:
        return _of_csv(Path(labels), images)
    if isinstance(images, ToyFaces):
        return tuple(factor.name for factor in FACTORS), torch.from_numpy(images.factors).double()
    source = open_source(images.path)
    every = image_names(source)  # also of images that the split leaves out: they have labels, too
    found = read_labels(source, every)
    if found is None:
        raise LIAError(
            f"{images.path} holds no labels. Give a CSV by {argument('labels')}, or a scorer by {argument('scorer')}."
        )
    number = {name: i for i, name in enumerate(every)}
    values = torch.tensor(found, dtype=torch.float64)[[number[name] for name in images.names]]
    if values.ndim == 2:
        return tuple(f"label-{i + 1}" for i in range(values.shape[1])), values
    classes = values.unique()
    if len(classes) <= 2:
        return ("label",), values[:, None]
    if len(classes) > _CLASSES:
        raise LIAError(f"{images.path} has {len(classes)} classes; expected at most {_CLASSES}. Give a CSV of attributes.")
    return tuple(f"class-{int(k)}" for k in classes), (values[:, None] == classes).double()


def _of_csv(path: Path, images: ImageSet) -> tuple[tuple[str, ...], Tensor]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = [line for line in csv.reader(file) if line]
    except FileNotFoundError:
        raise LIAError(f"there is no file {path}. Check the path.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LIAError(f"cannot read {path} as a CSV: {error}.") from error
    if len(table) < 2 or len(table[0]) < 2:
        raise LIAError(f"{path.name} has no table: expected a line of names, image first, and a line for each image.")
    names = tuple(name.strip() for name in table[0][1:])
    for i, name in enumerate(names):
        if name and name not in names[:i]:
            continue
        what = f"two columns {name!r:.60}" if name else f"no name for column {i + 2}"
        raise LIAError(f"{path.name} has {what}; expected different names in its first line. Correct the file.")
    rows = {line[0].strip(): _numbers(line, names, path) for line in table[1:]}
    found = [_row(rows, name) for name in images.names]
    if all(row is None for row in found):
        raise LIAError(f"{path.name} names none of the images of {images.path}, such as {images.names[0]!r}.")
    nothing = [math.nan] * len(names)
    values = torch.tensor([nothing if row is None else row for row in found], dtype=torch.float64)
    if not bool(values.isfinite().any()):
        raise LIAError(f"{path.name} has no number for any of the images of {images.path}. Fill the table.")
    return names, values


def _row(rows: dict[str, list[float]], name: str) -> list[float] | None:
    """The line of an image, by its whole name, or the name without folders or ending."""
    return next((rows[key] for key in (name, Path(name).name, Path(name).stem) if key in rows), None)


def _numbers(line: Sequence[str], names: Sequence[str], path: Path) -> list[float]:
    if len(line) != len(names) + 1:
        raise LIAError(f"{path.name} has {len(line)} columns for {line[0]!r:.60}; expected {len(names) + 1}. Correct the file.")
    found = []
    for name, text in zip(names, line[1:], strict=True):
        try:
            found.append(float(text) if text.strip() else math.nan)
        except ValueError:
            raise LIAError(
                f"{path.name} says {name!r:.40} = {text!r:.40} of {line[0]!r:.60}; expected a number, or nothing."
            ) from None
    return found
