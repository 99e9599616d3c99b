"""Toy faces: drawn, at any size, as many as one likes, with known factors. Data that need no download.

    images = open_images("toyfaces", (32, 32), 3)       # 100,000 faces; "toyfaces:1000" are the first 1,000 of them

Face s is a function of s alone, whatever the size: image 42 at 32x32 and at 256x256 show the same face.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lia_adapter.data.fit import fit_pixels
from lia_adapter.data.images import Item
from lia_adapter.data.toyfaces_draw import draw_faces

__all__ = ["FACTORS", "Factor", "ToyFaces", "draw", "face_name", "sample_factors"]


@dataclass(frozen=True)
class Factor:
    """One thing in which faces differ.

    Attributes:
        name: As in tables and labels.
        low: Least value.
        high: Largest value.
        binary: Whether there is nothing between the two. Otherwise all values are equally likely.
        text: What it does.
    """

    name: str
    low: float
    high: float
    binary: bool
    text: str


FACTORS = (
    Factor("smile", -1, 1, False, "corners of the mouth down to up"),
    Factor("mouth_opening", 0, 1, False, "closed to wide open"),
    Factor("eye_opening", 0, 1, False, "closed to wide open"),
    Factor("glasses", 0, 1, True, "without, with"),
    Factor("hair_colour", 0, 1, False, "black, brown, auburn, blond, silver"),
    Factor("hair_length", 0, 1, False, "above the ears to the shoulders"),
    Factor("skin", 0, 1, False, "light to dark"),
    Factor("turn", -1, 1, False, "looks to the left to the right, 23 degrees either way"),
    Factor("tilt", -1, 1, False, "head leans to the left to the right, 14 degrees either way"),
    Factor("light", -1, 1, False, "comes from the left to the right"),
    Factor("background", 0, 1, False, "a circle of five colours"),
)
_NAMES = tuple(factor.name for factor in FACTORS)
_GLASSES = _NAMES.index("glasses")


def sample_factors(seeds: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
    """The factors of faces, independent of each other and uniform.

    Args:
        seeds: N numbers, 0 or more.

    Returns:
        [N, len(FACTORS)]; row s depends on seed s alone.
    """
    # A counter-based generator (SplitMix64, Steele 2014): no state to set up for every seed.
    first = np.asarray(seeds, np.uint64) * np.uint64(len(FACTORS))
    counters = np.add.outer(first, np.arange(1, len(FACTORS) + 1, dtype=np.uint64))  # [N, F]
    with np.errstate(over="ignore"):
        mixed: NDArray[np.uint64] = counters * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    uniform = ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(40)).astype(np.float32) / np.float32(2**24)  # [0, 1)
    low, high, binary = (
        np.array([getattr(factor, key) for factor in FACTORS], np.float32) for key in ("low", "high", "binary")
    )
    uniform = np.where(binary > 0, uniform >= 0.5, uniform)
    values: NDArray[np.float32] = (low + (high - low) * uniform).astype(np.float32)
    return values


def draw(factors: NDArray[np.float32], resolution: tuple[int, int]) -> NDArray[np.uint8]:
    """Draws faces.

    Args:
        factors: [N, len(FACTORS)]; what is out of range is clipped to it.
        resolution: (H, W), 8 or more each; the face fills the shorter side.

    Returns:
        sRGB [N, H, W, 3]. A row depends on its own factors alone.
    """
    low, high = (np.array([getattr(factor, key) for factor in FACTORS], np.float32) for key in ("low", "high"))
    return draw_faces(np.clip(factors, low, high), _NAMES, resolution)


def face_name(seed: int) -> str:
    """What stands for a file name."""
    return f"{seed:08d}.png"


class ToyFaces:
    """Toy faces as a data set: what `ImageSet` offers, drawn when asked for.

    Args:
        seeds: Of the faces.
        resolution: (H, W).
        channels: 3, or 1 for gray.
        c_dim: 0, or 2 for labels that tell whether there are glasses.
    """

    def __init__(self, seeds: Sequence[int], resolution: tuple[int, int], channels: int, c_dim: int = 0) -> None:
        self.names = tuple(map(face_name, seeds))
        self.path, self.resolution, self.channels = Path("toyfaces"), resolution, channels
        self.factors, self._c_dim = sample_factors(seeds), c_dim

    def __len__(self) -> int:
        return len(self.names)

    @property
    def unreadable(self) -> dict[str, str]:
        """None: nothing is read."""
        return {}

    def load(self, index: int) -> Item:
        """Draws a face."""
        return Item(*fit_pixels(self.original(index), self.resolution, self.channels, "crop"))

    def original(self, index: int) -> Image.Image:
        """The same as a picture."""
        return Image.fromarray(draw(self.factors[index : index + 1], self.resolution)[0])

    def labels(self, indices: Sequence[int]) -> Tensor | None:
        """c of some faces, float32 [n, 2], without and with glasses; None with c_dim 0."""
        if not self._c_dim:
            return None
        return F.one_hot(torch.from_numpy(self.factors[list(indices), _GLASSES]).long(), 2).float()

    def identity(self) -> str:
        """SHA-256 over what the faces are."""
        text = f"toyfaces {self.resolution} {self.channels} {self._c_dim} {len(self.names)}\n".encode()
        return hashlib.sha256(text + self.factors.tobytes() + draw(sample_factors([0]), (32, 32)).tobytes()).hexdigest()
