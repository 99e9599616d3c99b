"""SeFa (Shen & Zhou 2021): the directions that move the styles most, from the weights alone."""

import torch

from lia_adapter.editing.directions import Direction
from lia_adapter.editing.task import Task
from lia_adapter.errors import ConfigError

__all__ = ["sefa"]


@torch.no_grad()
def sefa(task: Task) -> list[Direction]:
    """Eigenvectors of AᵀA (eq. 5), the largest first; A: the style weights of the layers, each row scaled to length 1.

    The rows are scaled as in the authors' program, which the paper does not say.

    Args:
        task: `count` directions of `layers`.

    Raises:
        LIAError: The style layers of this generator are not known.
        ConfigError: No layer has a style, or there are fewer directions than are wanted.
    """
    layers, config = set(task.layers), task.config
    weights = [affine.weight.double() for affine in task.generator.affines() if affine.layer in layers]
    if not weights:
        raise ConfigError(f"no style is made by the layers {sorted(layers)}.")
    if config.count > (dim := weights[0].shape[1]):
        raise ConfigError(f"count is {config.count}; y has {dim} entries: set count={dim}, or less.")
    rows = torch.nn.functional.normalize(torch.cat(weights), dim=1)
    values, vectors = torch.linalg.eigh(rows.t() @ rows)
    values, vectors = values.flip(0)[: config.count], vectors.flip(1)[:, : config.count]
    return task.numbered(vectors.t(), [{"eigenvalue": value} for value in values.tolist()])
