"""Pictures of at most 256 pixels a side (to be replaced)."""

from torch import Tensor

from lia_adapter.generators.base import Generator
from lia_adapter.resize import resize

__all__ = ["draw_reduced"]


def draw_reduced(generator: Generator, ys: Tensor, max_side: int = 256, noise_mode: str = "const") -> Tensor:
    """Stub."""
    return resize(generator.synthesis(ys, noise_mode=noise_mode))
