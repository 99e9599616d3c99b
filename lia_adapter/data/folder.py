"""A folder of images, cropped and resized to a generator's size."""

import struct
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lia_adapter.errors import LIAError

__all__ = ["ImageFolder"]

# What Pillow raises on damaged files: its own Image.open expects the same.
_DAMAGED = (
    OSError, ValueError, SyntaxError, IndexError, TypeError, struct.error,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


class ImageFolder:
    """All images below a folder, in order of their names; each is cropped in the middle and resized.

    Args:
        path: The folder, searched recursively.
        resolution: (H, W) of the tensors.
        channels: 1 for gray, 3 for RGB.

    Attributes:
        files: All that were found. The list never changes, so that a batch depends on the random numbers alone.
        unreadable: Those of them that turned out to be damaged.

    Raises:
        LIAError: The folder is missing or holds no images.
    """

    def __init__(self, path: str | Path, resolution: tuple[int, int], channels: int) -> None:
        self.path, self.resolution, self.channels = Path(path), resolution, channels
        if channels not in (1, 3):
            raise LIAError(f"--data needs a generator of gray or RGB images; this one draws {channels} channels.")
        if not self.path.is_dir():
            raise LIAError(f"{path} is not a folder; --data takes a folder of images.")
        self.files = sorted(file for file in self.path.rglob("*") if file.suffix.lower() in _ENDINGS and file.is_file())
        if not self.files:
            raise LIAError(f"{path} holds no images ({', '.join(sorted(_ENDINGS))}).")
        self.unreadable: list[Path] = []

    def load(self, file: Path) -> Tensor:
        """One image, [C, H, W] in [-1, 1]."""
        height, width = self.resolution
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):  # Pillow's own conversion would clip at 255
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        upright = upright.convert("L" if self.channels == 1 else "RGB")
        fitted = ImageOps.fit(upright, (width, height), Image.Resampling.LANCZOS)
        array = np.asarray(fitted, dtype=np.float32).reshape(height, width, self.channels)
        return torch.from_numpy(array.transpose(2, 0, 1) / 127.5 - 1)

    def batch(self, n: int, random: torch.Generator) -> Tensor:
        """Draws n images at random, [n, C, H, W]. Those that can't be read are listed in `unreadable` and passed over.

        Raises:
            LIAError: None of the images can be read.
        """
        images: list[Tensor] = []
        while len(images) < n:
            if len(self.unreadable) == len(self.files):
                raise LIAError(f"none of the {len(self.files)} images in {self.path} can be read.")
            file = self.files[int(torch.randint(len(self.files), [], generator=random, device=random.device))]
            if file in self.unreadable:
                continue
            try:
                images.append(self.load(file))
            except _DAMAGED:
                self.unreadable.append(file)
        return torch.stack(images)
