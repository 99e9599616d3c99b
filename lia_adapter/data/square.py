"""A square anywhere in a picture, of any size and turned: cut out of it, and put back.

Places are (x, y) in pixels of the upright picture; whole numbers are between pixels, so that the first pixel's middle is 0.5.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lia_adapter.errors import LIAError

__all__ = ["Square", "cut", "put", "smooth", "weights"]

_AT_ONCE = 2**15  # pixels that are sampled at once: small enough for the processor's caches
_LARGEST = 1e7  # no picture has so many pixels a side


class Square(NamedTuple):
    """A square.

    Attributes:
        x: Of its middle.
        y: Of its middle.
        right: (right, down) leads from its middle to that of its right side, and (-down, right) to that of its lower side.
        down: See right.
    """

    x: float
    y: float
    right: float
    down: float

    @property
    def side(self) -> float:
        """Its length in pixels."""
        return 2 * math.hypot(self.right, self.down)

    def is_one(self) -> bool:
        """Whether its numbers are finite and within reason, and its side is at least a pixel."""
        numbers = all(type(n) in (int, float) and abs(n) < _LARGEST for n in self)
        return numbers and self.side >= 1

    def corner(self, across: float, along: float) -> tuple[float, float]:
        """A place by how far it is from the middle, -1..1 to the right and down in the square's own directions."""
        return self.x + across * self.right - along * self.down, self.y + across * self.down + along * self.right

    def box_in(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """The least box (top, left, bottom, right) of whole pixels of a picture (H, W) that holds what of it is in there.

        Raises:
            LIAError: Its middle is outside; the message is made to follow the picture's name.
        """
        height, width = size
        if not (0 < self.x < width and 0 < self.y < height):
            where = f"({self.x:.0f}, {self.y:.0f})"
            raise LIAError(
                f"its landmarks are those of another picture: they are around {where}, and it has {width} x {height}"
            )
        reach = abs(self.right) + abs(self.down)
        return (
            max(0, math.floor(self.y - reach)), max(0, math.floor(self.x - reach)),
            min(height, math.ceil(self.y + reach)), min(width, math.ceil(self.x + reach)),
        )  # fmt: skip

    def _to_picture(self, n: int) -> tuple[float, ...]:
        """Six numbers, see `_sampled`: of places in its image of n x n those in the picture."""
        x, y = self.corner(-1, -1)
        r, d = 2 * self.right / n, 2 * self.down / n
        return r, -d, x, d, r, y

    def _from_picture(self, n: int, left: int, top: int) -> tuple[float, ...]:
        """The inverse, for places in the part of the picture that begins there."""
        r, _, x, d, _, y = self._to_picture(n)
        x, y, size = x - left, y - top, r * r + d * d
        r, d = r / size, d / size
        return r, d, -(r * x + d * y), -d, r, d * x - r * y


def cut(picture: Image.Image, square: Square, n: int) -> Image.Image:
    """What a square shows, n x n pixels; what is outside of the picture is the picture mirrored at its edge.

    As many samples are taken as there are pixels in the square (of one that is 4 n wide or more, of means over small blocks,
    so that time and memory have a bound), and shrunk by Lanczos.
    """
    info = picture.info
    if (shrink := int(square.side / n / 2)) > 1:
        picture, square = picture.reduce(shrink), Square(*(number / shrink for number in square))
    m = n * max(1, math.ceil(square.side / n - 1e-6))
    result = _sampled(picture, square._to_picture(m), (m, m))
    result = result if m == n else result.resize((n, n), Image.Resampling.LANCZOS)
    result.info |= info
    return result


def put(part: Image.Image, square: Square, box: tuple[int, int, int, int]) -> Image.Image:
    """A square's image of n x n, as a box (top, left, bottom, right) of its picture shows it; mirrored around it."""
    top, left, bottom, right = box
    wanted = max(1, math.ceil(square.side))
    if wanted < part.width:
        part = part.resize((wanted, wanted), Image.Resampling.LANCZOS)
    return _sampled(part, square._from_picture(part.width, left, top), (bottom - top, right - left))


def weights(square: Square, box: tuple[int, int, int, int], size: tuple[int, int], width: float) -> NDArray[np.float32]:
    """How much of a square's image is seen in a box of its picture: 1 inside, 0 outside, falling towards the sides.

    Args:
        square: The square.
        box: (top, left, bottom, right), B_h x B_w pixels.
        size: (H, W) of the picture. A side that runs wholly outside of it is no seam.
        width: Of the fall, in pixels.

    Returns:
        [B_h, B_w] in 0..1.
    """
    top, left, bottom, right = box
    x = np.arange(left, right, dtype=np.float32) + np.float32(0.5 - square.x)  # [B_w]
    y = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - square.y)  # [B_h, 1]
    half = square.side / 2
    r, d = np.float32(square.right / half), np.float32(square.down / half)
    result = np.ones((bottom - top, right - left), np.float32)
    across, along = x * r + y * d, y * r - x * d  # pixels from the middle
    for place, first, last in (
        (across, (1, -1), (1, 1)), (-across, (-1, -1), (-1, 1)), (along, (-1, 1), (1, 1)), (-along, (-1, -1), (1, -1))
    ):  # fmt: skip
        far = np.float32(half) - place
        seam = width > 0 and _is_inside(square.corner(*first), square.corner(*last), size)
        result *= smooth(far / np.float32(width)) if seam else far > 0
    return result


def smooth(t: NDArray[np.float32]) -> NDArray[np.float32]:
    """A smooth step from 0 at 0 to 1 at 1: t² (3 - 2 t)."""
    t = t.clip(0, 1)
    return t * t * (3 - 2 * t)


def _is_inside(start: tuple[float, float], end: tuple[float, float], size: tuple[int, int]) -> bool:
    """Whether a line comes more than half a pixel into a picture (H, W)."""
    x, y = (np.linspace(a, b, 1025) for a, b in zip(start, end, strict=True))
    return bool(((x > 0.5) & (x < size[1] - 0.5) & (y > 0.5) & (y < size[0] - 0.5)).any())


def _sampled(picture: Image.Image, matrix: tuple[float, ...], size: tuple[int, int]) -> Image.Image:
    """A picture of size (H, W) whose place (x, y) shows another's (a x + b y + c, d x + e y + f), by Catmull-Rom's kernel.

    Not by Pillow: its cubic kernel (with a = -1) bends straight ramps, and it cuts fractions off, half a level on average.
    """
    mode = picture.mode
    if mode == "RGBA":  # what cannot be seen has no colour to give
        picture = picture.convert("RGBa")
    width, height = picture.size
    planes = [np.asarray(plane).ravel() for plane in picture.split()]  # C of [H' W']: numpy is fast along rows
    result = np.empty((*size, len(planes)), np.uint8)
    a, b, c, d, e, f = matrix
    across = np.arange(size[1]) + 0.5
    rows_at_once = max(1, _AT_ONCE // size[1])
    for first in range(0, size[0], rows_at_once):
        down = np.arange(first, min(first + rows_at_once, size[0]))[:, None] + 0.5
        total = np.zeros((len(planes), len(down), size[1]), np.float32)
        columns = _taps(a * across + b * down + c, width)
        for row, by_row in _taps(d * across + e * down + f, height):
            for column, by_column in columns:
                index, weight = row * width + column, by_row * by_column
                for plane, sum_ in zip(planes, total, strict=True):
                    sum_ += plane.take(index) * weight
        result[first : first + len(down)] = np.rint(total).clip(0, 255).transpose(1, 2, 0)
    made = Image.frombytes(picture.mode, (size[1], size[0]), result.tobytes())
    return made.convert(mode)


def _taps(place: NDArray[np.float64], n: int) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """The four of n pixels around a place, and the weight of each."""
    place = place - 0.5
    first = np.floor(place).astype(np.int64)
    t: NDArray[np.float32] = (place - first).astype(np.float32)
    kernel = (t * (t * (2 - t) - 1) / 2, t * t * (3 * t - 5) / 2 + 1, t * (t * (4 - 3 * t) + 1) / 2, t * t * (t - 1) / 2)
    return [(_mirrored(first + k - 1, n), weight.astype(np.float32)) for k, weight in enumerate(kernel)]


def _mirrored(index: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Which of n pixels are at whole numbers, where those outside are mirrored at the middles of the first and last."""
    if n == 1:
        return np.zeros_like(index)
    found: NDArray[np.int64] = n - 1 - np.abs(index % (2 * (n - 1)) - (n - 1))
    return found
