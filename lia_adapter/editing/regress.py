"""Attributes as linear functions of codes."""

import math

import torch
from torch import Tensor

from lia_adapter.editing.directions import Direction
from lia_adapter.editing.task import Examples, Task
from lia_adapter.errors import ConfigError, LIAError

__all__ = ["examples_of", "known", "regress"]

_LEAST = 50  # images
_HELD_OUT = 0.2
_RIDGES = tuple(10.0**k for k in range(-4, 3))


def regress(task: Task) -> list[Direction]:
    """A direction for each attribute, by ridge regression on white codes; its strength by what is least wrong on a fifth.

    Args:
        task: With examples of at least 50 images for each attribute.

    Returns:
        In the order of the attributes; "r2" is the share of the variance told on the held-out fifth.

    Raises:
        LIAError: An attribute that hardly any image has, or that is the same in all.
    """
    examples, space, found = examples_of(task), task.space, []
    for name, values in zip(examples.names, examples.values.t(), strict=True):
        codes, wanted = known(name, examples.codes, values)
        white = space.white(codes - space.mean.to(codes))
        n = len(white) - max(1, round(len(white) * _HELD_OUT))
        middle, centre = float(wanted[:n].mean()), white[:n].mean(dim=0)
        a, b = white[:n] - centre, wanted[:n] - middle
        values_, vectors = torch.linalg.eigh(a.t() @ a / n)
        slopes = vectors.t() @ (a.t() @ b / n)
        variance = float((wanted[n:] - middle).square().mean())

        def weights(ridge: float, values_: Tensor = values_, vectors: Tensor = vectors, slopes: Tensor = slopes) -> Tensor:
            return vectors @ (slopes / (values_.clamp(min=0) + ridge))

        def wrong(
            ridge: float, white: Tensor = white, n: int = n, centre: Tensor = centre, left: Tensor = wanted[n:] - middle
        ) -> float:
            return float((left - (white[n:] - centre) @ weights(ridge)).square().mean())

        best = min(_RIDGES, key=wrong)
        w = weights(best)
        r2 = 1 - wrong(best) / max(variance, 1e-12)
        size = float(w.norm())
        if size == 0:
            raise LIAError(f"nothing in the codes tells {name!r}. Leave it out, or give more images.")
        about = {"r2": r2, "ridge": best, "images": len(wanted)}
        found.append(task.attribute(name, w / size, about, scale=size, bias=middle - float(centre @ w)))
    return found


def examples_of(task: Task) -> Examples:
    """The examples of a task whose method needs them."""
    if task.examples is None:
        raise ConfigError(f"{task.config.method} learns from attributes of images: give images with labels, or a scorer.")
    return task.examples


def known(name: str, codes: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and values of the images whose attribute is known, in float64.

    Raises:
        LIAError: There are too few, or all are the same.
    """
    there = values.isfinite()
    codes, values = codes[there].double(), values[there].double()
    if len(values) < _LEAST:
        raise LIAError(f"{name!r} is known of {len(values)} images; expected at least {_LEAST}.")
    if math.isclose(float(values.min()), float(values.max())):
        raise LIAError(f"{name!r} is {float(values[0]):g} in all {len(values):,} images, so that there is nothing to learn.")
    return codes, values
