"""Codes that change over time: through key codes, around in the prior, and as those of a video, smoothed."""

import math

import torch
from torch import Tensor

__all__ = ["closed_walk", "smoothed", "spline", "spline_in_z"]


def spline(keys: Tensor, t: Tensor, *, closed: bool = False) -> Tensor:
    """A curve through codes with a continuous first derivative: cubic Hermite pieces by Catmull and Rom (1974).

    Args:
        keys: [n, ...], at least 2, which the curve passes at t = 0, 1, 2, ...
        t: Where on it [T], in 0..n - 1; of a closed one in 0..n, where n is 0 again.
        closed: Whether the last is followed by the first.

    Returns:
        [T, ...]. At the ends of an open one it sets out straight for the next key; of two keys it is the straight line.
    """
    n = len(keys)
    if closed:
        slopes = (keys.roll(-1, 0) - keys.roll(1, 0)) / 2
    else:
        steps = keys.diff(dim=0)
        slopes = torch.cat([steps[:1], (steps[1:] + steps[:-1]) / 2, steps[-1:]])
    first = t.floor().long().clamp(0, n - 1 if closed else n - 2)
    last = (first + 1) % n
    s = (t - first).to(keys).reshape(-1, *[1] * (keys.ndim - 1))
    return (
        (1 + 2 * s) * (1 - s) ** 2 * keys[first] + s * (1 - s) ** 2 * slopes[first]
        + s**2 * (3 - 2 * s) * keys[last] + s**2 * (s - 1) * slopes[last]
    )  # fmt: skip


def spline_in_z(keys: Tensor, t: Tensor, *, closed: bool = False) -> Tensor:
    """The same through z [n, D], whose directions and sizes change apart: between two z that are usual, all are.

    A `spline` of z alone would come near the mean: half-way between two independent codes, z has 0.7 of its size.
    """
    tiny = torch.finfo(keys.dtype).tiny
    sizes = keys.norm(dim=1, keepdim=True).clamp(min=tiny)
    ways = spline(keys / sizes, t, closed=closed)
    lengths = ways.norm(dim=1, keepdim=True).clamp(min=tiny)
    moved: Tensor = ways / lengths * spline(sizes.log(), t, closed=closed).exp()
    return moved


def smoothed(codes: Tensor, frames: float) -> Tensor:
    """Codes over time, each the mean of those around it by a Gaussian window, which at the ends has only one side.

    Args:
        codes: [T, ...].
        frames: Standard deviation of the window; 0 leaves them as they are.

    Returns:
        [T, ...].
    """
    if frames == 0:
        return codes
    count = len(codes)
    total, weights = torch.zeros_like(codes), codes.new_zeros(count)
    for shift in range(-min(math.ceil(3 * frames), count - 1), min(math.ceil(3 * frames), count - 1) + 1):
        weight = math.exp(-0.5 * (shift / frames) ** 2)
        to, of = slice(max(0, -shift), min(count, count - shift)), slice(max(0, shift), min(count, count + shift))
        total[to] += weight * codes[of]
        weights[to] += weight
    means: Tensor = total / weights.reshape(-1, *[1] * (codes.ndim - 1))
    return means


def closed_walk(dim: int, t: Tensor, turns: int, random: torch.Generator) -> Tensor:
    """A smooth walk in z that comes back to where it began, at each moment as usual as any z: N(0, I).

    z(t) = Σ_k (a_k cos 2πkt + b_k sin 2πkt) / √turns, k = 1..turns, with a_k and b_k from N(0, I): as cos² + sin² = 1, so is z.

    Args:
        dim: D, entries of z.
        t: [T], in turns; 1 is 0 again.
        turns: The more, the faster and the less regular.
        random: Of a and b, on the CPU; the same gives the same walk.

    Returns:
        [T, D], float64.
    """
    a, b = torch.randn(2, turns, dim, generator=random, dtype=torch.float64)
    angles = 2 * torch.pi * t.double()[:, None] * torch.arange(1, turns + 1)
    z: Tensor = (angles.cos() @ a + angles.sin() @ b) / math.sqrt(turns)
    return z
