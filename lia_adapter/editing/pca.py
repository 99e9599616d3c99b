"""GANSpace (Härkönen 2020): the principal components of y, of styles, or of an early feature map, regressed back to codes."""

import math

import torch
from torch import Tensor

from lia_adapter.budget import VARIABLE, at_once, human, in_parts, room
from lia_adapter.editing.directions import Direction
from lia_adapter.editing.style_space import StyleSpace
from lia_adapter.editing.task import Task
from lia_adapter.errors import ConfigError, LIAError, argument
from lia_adapter.generators import broadcast, picture_bytes
from lia_adapter.inversion import Stage

__all__ = ["pca", "principal_components"]

_MAPS, _SLACK, _ROUNDS = 5000, 10, 2
_COPIES = 3  # of all maps, that the decomposition holds at once
_MAP_CODES = 2**31  # first number of their random streams


def principal_components(covariance: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Variances [count], falling, and components [count, D] of a covariance [D, D]."""
    values, vectors = torch.linalg.eigh(covariance)
    return values.flip(0)[:count], vectors.flip(1).t()[:count]


def pca(task: Task) -> list[Direction]:
    """Directions of the largest variance; of s with each channel in its own standard deviations, as layers differ in size.

    Args:
        task: `count` directions, of statistics of `samples` codes; with `activation` of at most 5,000 feature maps.

    Raises:
        ConfigError: More directions than y has entries.
        LIAError: The style layers of this generator are not known, or there is no memory for enough feature maps.
    """
    config, dim = task.config, task.generator.y_dim
    if config.count > dim:
        raise ConfigError(f"count is {config.count}; y has {dim} entries: set count={dim}, or less.")
    if config.activation:
        return _of_maps(task)
    if task.styles is not None:
        values, vectors = _of_styles(task.styles)
    else:
        values, vectors = principal_components(task.space.covariance, dim)
    shares = (values / values.sum()).tolist()[: config.count]
    return task.numbered(vectors[: config.count], [{"share_of_variance": share} for share in shares])


def _of_styles(styles: StyleSpace) -> tuple[Tensor, Tensor]:
    """Variances [D], falling, and components [D, S] of all styles; channels that do not vary have no part in them."""
    sizes = styles.factor.norm(dim=1, keepdim=True)  # [S, 1]
    u, s, _ = torch.linalg.svd(styles.factor / sizes.clamp(min=1e-12), full_matrices=False)
    return s.square(), (u * sizes).t()


@torch.no_grad()
def _of_maps(task: Task) -> list[Direction]:
    """Components of feature maps, and of each the slope of y over it (sec. 3.2, by least squares)."""
    config, stage = task.config, Stage(task.generator)
    numbers = math.prod(stage.shape)
    total = min(config.samples, _MAPS, room() // (_COPIES * 4 * numbers))  # 5,000 maps of 512 x 64 x 64 are 42 GB
    if total < (least := 2 * (config.count + _SLACK)):
        raise LIAError(
            f"{config.count} components take at least {least} feature maps of {_COPIES} x {human(4 * numbers)}; there is room "
            f"for {total}. Give more memory, {argument(VARIABLE)}, or find components of y itself: activation=false."
        )
    y, _ = task.y(total, _MAP_CODES)
    maps = torch.empty(total, numbers)
    first, size = 0, at_once(picture_bytes(task.generator), task.device)
    for part in in_parts(lambda part: stage.maps(broadcast(part, task.generator.num_ws)).flatten(1).cpu(), y, size):
        maps[first : first + len(part)] = part
        first += len(part)
        if task.progress:
            task.progress("feature maps", first, total)
    maps -= maps.mean(dim=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        u, s, _ = torch.svd_lowrank(maps, q=min(config.count + _SLACK, *maps.shape), niter=_ROUNDS)  # Halko 2011
    scores = u[:, : config.count].double()  # orthonormal: the slopes are products
    slopes = scores.t() @ (y.cpu().double() - y.cpu().double().mean(dim=0))
    shares = (s[: config.count].square() / maps.square().sum()).tolist()
    return task.numbered(slopes.to(task.device), [{"share_of_variance": share} for share in shares])
