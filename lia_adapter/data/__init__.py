"""Real images as tensors: a folder or a zip, fitted, split, and in an order that the seed alone decides."""

from lia_adapter.data.batches import Batch, in_batches, none_readable
from lia_adapter.data.fit import Placement, fit_image, to_floats, to_pixels
from lia_adapter.data.images import ImageSet, Item
from lia_adapter.data.open import open_images
from lia_adapter.data.paste import paste_back
from lia_adapter.data.stream import Stream, in_order

__all__ = [
    "Batch",
    "ImageSet",
    "Item",
    "Placement",
    "Stream",
    "fit_image",
    "in_batches",
    "in_order",
    "none_readable",
    "open_images",
    "paste_back",
    "to_floats",
    "to_pixels",
]
