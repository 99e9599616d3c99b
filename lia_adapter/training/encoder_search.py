"""What a search gains on the codes of a trained encoder: an experiment that tells the encoder's errors from the generator's.

The codes of real images are optimised from where the encoder put them. What that gains, the encoder missed: codes that draw the
images better were there. What is left, no code that the search found draws better: it is the generator's, or that of a search
which was too short.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lia_adapter.data import ImageSet, in_batches
from lia_adapter.inversion import ReconstructionLoss
from lia_adapter.lia import LIA
from lia_adapter.metrics.images import mse
from lia_adapter.metrics.intervals import jackknife
from lia_adapter.pictures import paired_grid
from lia_adapter.progress import Progress
from lia_adapter.resize import resize

__all__ = ["SEARCHED", "STEPS", "search_figures", "search_from_codes"]

STEPS = 100
"""Of the search, for each image."""
SEARCHED = 50
"""Images, at most."""
_SHOWN = 16
_VALUES = 2**24  # of images that are read at once
_LEVEL = 2 / 255  # between two values of 8 bits, on [-1, 1]


@torch.no_grad()
def search_from_codes(
    lia: LIA,
    images: ImageSet,
    n: int,
    loss: ReconstructionLoss,
    *,
    space: str = "y",
    prior_weight: float = 0.0,
    steps: int = STEPS,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], Any] | None:
    """Searches on from the encoder's codes of some images.

    Args:
        lia: With a mapping and an encoder.
        images: Of a set, best one that the encoder was not trained on; with labels for a conditional generator.
        n: How many of them, evenly spread over the set.
        loss: What the encoder was trained with, as far as it compares images.
        space: The encoder's: y or ys.
        prior_weight: Of each code, as in `invert`; what is told is of images alone.
        steps: Of the search.
        progress: Is told the steps done and to do, over all images.

    Returns:
        `search_figures`, and a picture: rows of images, below each what is drawn from the encoder's codes, and below that from
        those that the search found. None where no image could be read.
    """
    numbers = sorted({i * len(images) // n for i in range(n)})
    height, width = images.resolution
    size = max(1, _VALUES // (images.channels * height * width))
    losses, squares, rounding = [], [], []
    shown: list[tuple[Tensor, ...]] = []
    done = 0
    for part in in_batches(images, numbers, size, lia.device):
        x, c, tell = part.x, part.c, _told(progress, done * steps, len(numbers) * steps)
        encoded, found = (
            lia.invert(x, c, steps=many, space=space, loss=loss, prior_weight=prior_weight, progress=tell if many else None)
            for many in (0, steps)
        )
        towards = loss.towards(x)  # of images alone, whatever the prior had to say in the search
        losses.append(torch.stack([towards(encoded.images), towards(found.images)]))
        squares.append(torch.stack([mse(encoded.images, x), mse(found.images, x)]))
        noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(done)).to(x) - 0.5
        rounding += [loss(one + _LEVEL * by, one) for one, by in zip(x.split(1), noise.split(1), strict=True)]
        if done < _SHOWN:
            shown.append(tuple(resize(row[:_SHOWN]).cpu() for row in (x, encoded.images, found.images)))
        done += len(x)
    if not done:
        return None
    if progress:  # also where some could not be read
        progress("search from the encoder's codes", len(numbers) * steps, len(numbers) * steps)
    plain = loss.network is None and loss.pixel_weight == 1 and not loss.pyramid_weight
    figures = {
        **search_figures(*torch.cat(losses, dim=1)),
        "mse": dict(zip(("encoder", "found"), torch.cat(squares, dim=1).double().mean(dim=1).tolist(), strict=True)),
        "rounding": float(torch.cat(rounding).double().mean()),
        "measure": "mean squared error" if plain else "loss",
        "steps": steps,
        "space": space,
    }
    return figures, paired_grid(*(torch.cat(row)[:_SHOWN] for row in zip(*shown, strict=True)))


def _told(progress: Progress | None, done: int, total: int) -> Callable[[int, int], None] | None:
    """What `LIA.invert` tells of some of the images, as steps over all of them."""
    if progress is None:
        return None
    return lambda now, _: progress("search from the encoder's codes", done + now, total)


def search_figures(encoder: Tensor, found: Tensor) -> dict[str, Any]:
    """What the errors of the same images say before and after a search.

    Args:
        encoder: From the encoder's codes [n].
        found: From those that the search found [n].

    Returns:
        images: n; encoder, found: mean errors; gain: their difference; share: the gain's of the encoder's error. With the 95 %
        interval of each, over images, as encoder_interval and so on (paired; None for fewer than three images).
    """
    before, after = encoder.double(), found.double()

    def share(some: Tensor) -> float:
        whole = float(before[some].sum())
        return float((before - after)[some].sum()) / whole if whole > 0 else 0.0

    of: dict[str, Callable[[Tensor], float]] = {
        "encoder": lambda some: float(before[some].mean()),
        "found": lambda some: float(after[some].mean()),
        "gain": lambda some: float((before - after)[some].mean()),
        "share": share,
    }
    n = len(before)
    figures: dict[str, Any] = {"images": n} | {name: figure(torch.arange(n)) for name, figure in of.items()}
    for name, figure in of.items():
        between = jackknife(figure, n)
        figures[f"{name}_interval"] = None if between is None else list(between)
    return figures
