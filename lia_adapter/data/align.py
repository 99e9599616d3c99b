"""Faces as FFHQ has them: an upright square by the eyes and the mouth, whose places a file tells.

The square is FFHQ's own (Karras 2019, app. A): with e from eye to eye and m from the eyes' middle to the mouth's, its right
half is along e - rot(m), max(2 |e|, 1.8 |m|) long, and its middle is a tenth of m below that of the eyes. What lies outside of
the photograph is mirrored, as there; it is not blurred.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lia_adapter.data.square import Square
from lia_adapter.errors import ConfigError, LIAError, argument
from lia_adapter.keys import ALIGNMENTS

__all__ = ["Alignment", "read_alignment", "square_of"]

_POINTS = {5: ((0,), (1,), (3,), (4,)), 68: (range(36, 42), range(42, 48), (48,), (54,))}
_MAX_BYTES = 2**30


@dataclass(frozen=True)
class Alignment:
    """Where faces are in their pictures.

    Attributes:
        path: Of the file of landmarks.
        squares: What to cut out, by the name of the image.
    """

    path: Path
    squares: Mapping[str, Square]

    def square(self, name: str) -> Square:
        """What to cut out of an image.

        Raises:
            LIAError: The file does not tell; the message is made to follow the image's name.
        """
        if name not in self.squares:
            raise LIAError(f"{self.path.name} has no landmarks for it")
        return self.squares[name]

    def identity(self, names: Sequence[str]) -> bytes:
        """SHA-256 over the squares of some images."""
        return hashlib.sha256(repr([self.squares.get(name) for name in names]).encode()).digest()


def read_alignment(align: str | None, landmarks: str | Path | None) -> Alignment | None:
    """Opens a file of landmarks; None where no alignment is asked for.

    Args:
        align: One of `ALIGNMENTS`, or None.
        landmarks: JSON: {"a.jpg": [[x, y], ...], ...}, by the names of images within their data set. Of each face there are 68
            points, in the order of iBUG's 300-W (dlib's), or 5: the eyes, the nose and the corners of the mouth, each the left
            one in the picture first. In pixels of the upright photograph; the middle of the first pixel is (0, 0), as
            detectors have it.

    Raises:
        LIAError: One of the two without the other, or a file that is something else.
    """
    if align is None and landmarks is None:
        return None
    if align is None or landmarks is None:
        given, missing = ("align", "landmarks") if landmarks is None else ("landmarks", "align")
        needs = "a .json with the places of the eyes and the mouth of each picture" if landmarks is None else ALIGNMENTS[0]
        raise ConfigError(f"{argument(given)} needs {argument(missing)}, too: {needs}.")
    if align not in ALIGNMENTS:
        raise ConfigError(f"there is no alignment {align!r}; expected {', '.join(ALIGNMENTS)}.")
    path = Path(landmarks)
    form = 'expected JSON such as {"a.jpg": [[x, y], ...]}, with 68 or 5 points a picture'
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path} has more than {_MAX_BYTES:,} bytes; {form}.")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {(error.strerror or str(error)).lower()}. Check the path.") from error
    except (ValueError, RecursionError):
        raise ConfigError(f"{path} is no JSON; {form}.") from None
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{path} holds no landmarks by the names of pictures; {form}.")
    squares = {}
    for name, points in content.items():
        try:
            squares[name] = square_of(points)
        except LIAError as error:
            raise ConfigError(f"{path}: the landmarks of {name!r} are of no use: {error}; {form}.") from None
    return Alignment(path, squares)


def square_of(points: Any) -> Square:
    """What FFHQ cuts out for a face.

    Args:
        points: [68, 2] or [5, 2], see `read_alignment`.

    Raises:
        LIAError: They are something else, or all at one place.
    """
    try:
        numbers = all(type(n) in (int, float) and abs(n) < 1e6 for point in points for n in point)
        places: NDArray[np.float64] = np.asarray(points, np.float64)
    except (TypeError, ValueError):
        numbers, places = False, np.zeros(0)
    if not numbers or places.ndim != 2 or places.shape[1] != 2 or len(places) not in _POINTS:
        raise LIAError(f"they are {points!r:.60}")
    left, right, *corners = (places[list(which)].mean(axis=0) + 0.5 for which in _POINTS[len(places)])
    eyes, mouth = (left + right) / 2, sum(corners) / 2
    e, m = right - left, mouth - eyes
    way = e + np.array([m[1], -m[0]])  # e - rot(m)
    length = math.hypot(*way)
    if not length > 0:
        raise LIAError("they are all at one place")
    way *= max(2 * math.hypot(*e), 1.8 * math.hypot(*m)) / length
    square = Square(*(float(number) for number in (*(eyes + 0.1 * m), *way)))
    if not square.is_one():
        raise LIAError("they are all at one place")
    return square
