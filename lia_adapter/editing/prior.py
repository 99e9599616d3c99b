"""Moving z where the prior N(0, I) has its codes: near a code, and between two."""

import torch
from torch import Tensor

from lia_adapter.errors import LIAError, argument

__all__ = ["between", "vary"]


def vary(z: Tensor, amount: float, random: torch.Generator) -> Tensor:
    """A variation of each code: z' = √(1 - a²) z + a ε with ε ~ N(0, I), which leaves the prior as it is.

    Args:
        z: [N, D].
        amount: a, from 0, the same code, to 1, any other.
        random: On the device of z.

    Returns:
        [N, D], in the dtype of z.

    Raises:
        LIAError: The amount is none from 0 to 1.
    """
    if not 0 <= amount <= 1:
        raise LIAError(f"{argument('amount')} is {amount}; expected 0, for the same code, to 1, for any other.")
    noise = torch.randn(z.shape, generator=random, device=z.device, dtype=z.dtype)
    return float((1 - amount**2) ** 0.5) * z + amount * noise


def between(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """From one code to another along a great circle (Shoemake 1985), sizes in between: a straight line comes too near the mean.

    Args:
        a: Where it begins [D].
        b: Where it ends [D].
        steps: Codes, the first a and the last b; at least 2.

    Returns:
        [steps, D].

    Raises:
        LIAError: Fewer than 2 steps.
    """
    if steps < 2:
        raise LIAError(f"{argument('steps')} is {steps}; expected at least 2, the two ends.")
    t = torch.linspace(0, 1, steps, device=a.device, dtype=a.dtype)[:, None]
    size_a, size_b = a.norm(), b.norm()
    straight = (1 - t) * a + t * b
    if min(size_a, size_b) == 0:
        return straight
    angle = torch.dot(a / size_a, b / size_b).clamp(-1, 1).arccos()
    if angle.sin() < 1e-6:  # along a line through the centre there is no circle, or any
        return straight
    turned = (((1 - t) * angle).sin() * (a / size_a) + (t * angle).sin() * (b / size_b)) / angle.sin()
    path: Tensor = ((1 - t) * size_a + t * size_b) * turned
    return path
