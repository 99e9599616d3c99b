"""ProGAN's sliced Wasserstein distance between two sets of images (Karras 2018, sec. 5)."""

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from lia_adapter.errors import LIAError
from lia_adapter.ops import upfirdn2d

__all__ = ["Patches", "image_swd", "patch_bytes"]

_LEAST = 16  # pixels: the short side of the coarsest level
_PATCH = 7
_PATCHES = 128  # an image a level
_REPEATS, _PROJECTIONS = 4, 128
_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # the filter of Burt & Adelson 1983


def image_swd(a: Tensor | Iterable[Tensor], b: Tensor | Iterable[Tensor], *, seed: int = 0) -> dict[str, float]:
    """How far the patches of two sets of images are apart, at every scale from that of the images down to 16 pixels.

    Each level of a Laplacian pyramid gives 128 patches of 7x7 an image; the patches of a set are normalised, by channel, to
    mean 0 and standard deviation 1; the distance is the mean absolute difference of their sorted projections onto 4 x 128
    random directions. Unlike ProGAN, the k-th images of both sets give patches at the same positions, so that equal sets
    have distance 0; between sets of other images nothing changes.

    What is held in memory are the patches (75 KB an image and level in RGB), and the images only if they are given whole.

    Args:
        a: Images [N, C, H, W] on any scale, or batches of them. H and W may differ, and be odd.
        b: As many images, of the same size.
        seed: Of positions and directions.

    Returns:
        The distance times 1000 by level, which is named by its short side in pixels, finest first, and their "mean".

    Raises:
        LIAError: The sets are empty, differ in number or size, or the images are smaller than 7x7.
    """
    sides = Patches(seed), Patches(seed)
    for patches, images in zip(sides, (a, b), strict=True):
        for x in [images] if isinstance(images, Tensor) else images:
            patches.add(x)
    return sides[0].distance(sides[1])


def patch_bytes(resolution: tuple[int, int], channels: int) -> int:
    """What the patches of one image of (H, W) take in memory."""
    side, levels = min(resolution), 1
    while (side + 1) // 2 >= _LEAST:
        side, levels = (side + 1) // 2, levels + 1
    return levels * _PATCHES * channels * _PATCH**2 * 4


class Patches:
    """The patches of a set of images that come one batch after another and are not kept.

    Args:
        seed: Of the patches' positions, and of the directions that they are compared along.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._found: dict[str, list[Tensor]] = {}
        self._random: dict[str, torch.Generator] = {}

    def add(self, x: Tensor) -> None:
        """Takes 128 patches of each level from images [n, C, H, W].

        Raises:
            LIAError: They are smaller than 7x7.
        """
        if not len(x):
            return
        if min(x.shape[2:]) < _PATCH:
            raise LIAError(f"SWD takes patches of 7x7 from each image; got images of {x.shape[2]}x{x.shape[3]}.")
        for level in _laplacian_pyramid(x.float()):
            name = str(min(level.shape[2:]))
            # One generator a level, so that the positions do not depend on the sizes of the batches.
            draw = self._random.setdefault(name, torch.Generator().manual_seed(self.seed))
            self._found.setdefault(name, []).append(_cut(level, draw).cpu())

    def distance(self, other: "Patches") -> dict[str, float]:
        """As `image_swd` gives it; the patches are gone afterwards."""
        return _compare(self._whole(), other._whole(), self.seed)

    def _whole(self) -> dict[str, Tensor]:
        """Patches [N * 128, C, 49] by level."""
        found, self._found = self._found, {}
        return {name: torch.cat(parts) for name, parts in found.items()}


def _compare(patches_a: dict[str, Tensor], patches_b: dict[str, Tensor], seed: int) -> dict[str, float]:
    shapes_a, shapes_b = ({level: list(p.shape[:2]) for level, p in patches.items()} for patches in (patches_a, patches_b))
    if not shapes_a or shapes_a != shapes_b:
        raise LIAError(
            "SWD compares as many images of the same size and channels on both sides; got patches and channels by level "
            f"{shapes_a} and {shapes_b}."
        )
    result = {level: 1e3 * _distance(patches_a.pop(level), patches_b.pop(level), seed) for level in list(patches_a)}
    return {**result, "mean": sum(result.values()) / len(result)}


def _cut(x: Tensor, random: torch.Generator) -> Tensor:
    """128 patches of each image: [N, C, H, W] -> [N * 128, C, 49]."""
    n, channels, height, width = x.shape
    at = torch.rand(n, _PATCHES, 2, generator=random, dtype=torch.float64)
    corner = (at * torch.tensor([height - _PATCH + 1, width - _PATCH + 1])).long()  # [N, 128, 2]
    steps = torch.arange(_PATCH)
    rows, columns = corner[..., 0, None] + steps, corner[..., 1, None] + steps  # [N, 128, 7]
    inside = (rows[..., :, None] * width + columns[..., None, :]).reshape(n, 1, -1)  # [N, 1, 128 * 49]
    values = x.flatten(2).gather(2, inside.to(x.device).expand(-1, channels, -1))
    return values.reshape(n, channels, _PATCHES, -1).transpose(1, 2).flatten(0, 1)


def _laplacian_pyramid(x: Tensor) -> Iterator[Tensor]:
    """What each scale adds to the next coarser one, finest first, and what is left at last [N, C, H_i, W_i]."""
    while (min(x.shape[2:]) + 1) // 2 >= _LEAST:
        coarse = _blur(x)[:, :, ::2, ::2]
        spread = torch.zeros_like(x)
        spread[:, :, ::2, ::2] = coarse
        yield x - 4 * _blur(spread)
        x = coarse
    yield x


def _blur(x: Tensor) -> Tensor:
    return upfirdn2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), torch.tensor(_BINOMIAL).to(x))


def _normalised(patches: Tensor) -> Tensor:
    """[N, C, 49] -> [N, C * 49], each channel with mean 0 and standard deviation 1 over all patches."""
    std, mean = torch.std_mean(patches, dim=(0, 2), keepdim=True, correction=0)
    return ((patches - mean) / std.clamp(min=1e-8)).flatten(1)


def _distance(a: Tensor, b: Tensor, seed: int) -> float:
    a, b = _normalised(a), _normalised(b)
    random = torch.Generator().manual_seed(seed)
    total = 0.0
    for _ in range(_REPEATS):
        directions = torch.randn(a.shape[1], _PROJECTIONS, generator=random).to(a)
        directions = directions / directions.norm(dim=0)
        # [128, N], so that what is sorted lies together
        gap = (directions.t() @ a.t()).sort(dim=1).values - (directions.t() @ b.t()).sort(dim=1).values
        total += float(gap.abs().mean(dtype=torch.float64))
    return total / _REPEATS
