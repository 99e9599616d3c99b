"""How large images are that encoders and feature networks see, and that reports show: at most 256 pixels a side."""

import torch.nn.functional as F
from torch import Tensor

__all__ = ["MAX_SIDE", "resize"]

MAX_SIDE = 256


def resize(x: Tensor, least: int = 1, most: int = MAX_SIDE) -> Tensor:
    """Images [N, C, H, W] with sides of at most `most` pixels, and of at least `least`, in their proportions where both fit."""
    sides = x.shape[2:]
    scale = max(min(1.0, most / max(sides)), least / min(sides))
    size = [min(max(round(side * scale), least), most) for side in sides]
    return x if size == list(sides) else F.interpolate(x, size=size, mode="bilinear", antialias=True)
