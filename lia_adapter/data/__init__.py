"""Real images as tensors."""

from lia_adapter.data.folder import ImageFolder

__all__ = ["ImageFolder"]
