"""StyleGAN's seeds."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

__all__ = ["seed_to_z"]


def seed_to_z(seeds: Iterable[int], z_dim: int) -> Tensor:
    """z of StyleGAN's seeds: row s is numpy.random.RandomState(s).randn(z_dim), whatever the other rows are.

    They are for the original mapping; the invertible one, whose z is that of codes, makes other pictures of them.

    Args:
        seeds: Each in 0 .. 2³² - 1.
        z_dim: Entries of z.

    Returns:
        float32 [N, z_dim].
    """
    rows = [np.random.RandomState(seed).randn(z_dim) for seed in seeds]
    return torch.from_numpy(np.stack(rows)).float() if rows else torch.zeros(0, z_dim)
