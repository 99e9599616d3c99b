"""What directions do to pictures: to their own attribute, and to all others (the leakage matrix)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lia_adapter.metrics.features import Features
from lia_adapter.metrics.identity import identity_similarity

__all__ = ["STRENGTHS", "Effects", "identity_kept", "leakage", "measure_effects", "moved_pictures"]

STRENGTHS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
"""At which directions are looked, in standard deviations."""

_FARTHEST = 8.0  # standard deviations: what changes its attribute by one only beyond that is not compared


@dataclass(frozen=True)
class Effects:
    """What K directions do to F attributes of N codes' pictures.

    Attributes:
        slopes: Change of each attribute, in its own standard deviations over the codes, for a strength of 1: [K, F], float64.
        errors: Their standard errors over codes [K, F].
        monotone: Share of the codes whose attribute rises, or falls, with each of the steps [K, F].
    """

    slopes: Tensor
    errors: Tensor
    monotone: Tensor


def measure_effects(values: Tensor) -> Effects:
    """From attributes of moved codes' pictures.

    Args:
        values: [K, N, len(STRENGTHS), F], at `STRENGTHS` of each of K directions from the same N codes.

    Returns:
        Slopes are those of least squares between strengths of -2 and 2, beyond which attributes saturate.
    """
    values = values.double()
    middle = STRENGTHS.index(0.0)
    spread = values[0, :, middle].std(dim=0).clamp(min=1e-12)  # [F]
    strengths = torch.tensor(STRENGTHS, dtype=torch.float64, device=values.device)
    near = strengths.abs() <= 2
    s = strengths[near]
    each = torch.einsum("s,knsf->knf", s, values[:, :, near]) / s.square().sum() / spread  # [K, N, F]
    steps = values.diff(dim=2)
    monotone = ((steps > 0).all(dim=2) | (steps < 0).all(dim=2)).double().mean(dim=1)
    return Effects(each.mean(dim=1), each.std(dim=1) / each.shape[1] ** 0.5, monotone)


def leakage(effects: Effects, own: Sequence[int | None]) -> Tensor:
    """How much else changes for equal effect on a direction's own attribute: |slope| / |slope of its own| [K, F].

    Args:
        effects: Of K directions.
        own: Number of each direction's attribute; None: the one that it changes most.
    """
    sizes = effects.slopes.abs()
    rows = torch.arange(len(sizes))
    mine = torch.tensor([int(row.argmax()) if i is None else i for row, i in zip(sizes, own, strict=True)])
    return sizes / sizes[rows, mine][:, None].clamp(min=1e-12)


def moved_pictures(draw: Callable[[Tensor, float], Tensor], judge: Callable[[Tensor], Tensor], ys: Tensor) -> Tensor:
    """Attributes [N, len(STRENGTHS), F] of the pictures of codes moved along one direction.

    Args:
        draw: ys [n, num_ws, y_dim] and how far they are to move -> x.
        judge: x [n, C, H, W] -> attributes [n, F].
        ys: [N, num_ws, y_dim].
    """
    return torch.stack([judge(draw(ys, strength)).double().cpu() for strength in STRENGTHS], dim=1)


def identity_kept(draw: Callable[[Tensor, float], Tensor], look: Features, ys: Tensor, effect: float) -> Tensor | None:
    """Whether pictures still show the same one after an edit of equal effect: one standard deviation of the attribute.

    Args:
        draw: ys [n, num_ws, y_dim] and how far they are to move -> x.
        look: Tells who, or what, pictures show.
        ys: [N, num_ws, y_dim].
        effect: Change of the direction's own attribute, in its standard deviations, for a strength of 1.

    Returns:
        Cosine of what the network sees before and after, mean of both ways [N]; None where no usual strength has that effect.
    """
    if not abs(effect) * _FARTHEST >= 1:  # nor NaN
        return None
    before = draw(ys, 0.0).clamp(-1, 1)
    sides = [identity_similarity(look, before, draw(ys, way / effect).clamp(-1, 1)) for way in (-1.0, 1.0)]
    return torch.stack(sides).mean(dim=0).cpu()
