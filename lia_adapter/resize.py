"""How large images are that encoders and feature networks see, and that reports show: at most 256 pixels a side."""

import torch.nn.functional as F
from torch import Tensor

__all__ = ["MAX_SIDE", "reduced_size", "resize"]

MAX_SIDE = 256


def reduced_size(size: tuple[int, int], least: int = 1, most: int = MAX_SIDE) -> tuple[int, int]:
    """What `resize` makes of images of (H, W)."""
    scale = max(min(1.0, most / max(size)), least / min(size))
    height, width = (min(max(round(side * scale), least), most) for side in size)
    return height, width


def resize(x: Tensor, least: int = 1, most: int = MAX_SIDE) -> Tensor:
    """Images [N, C, H, W] with sides of at most `most` pixels, and of at least `least`, in their proportions where both fit."""
    sides = (x.shape[2], x.shape[3])
    size = reduced_size(sides, least, most)
    return x if size == sides else F.interpolate(x, size=size, mode="bilinear", antialias=True)
