"""Runs the two halves of somebody's generator: at rest, in its own precision, with noise that can be held still."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lia_adapter.generators.answers import code_in, image_in
from lia_adapter.generators.calls import Call
from lia_adapter.generators.guest import ConstantNoise, at_rest, modules_behind

__all__ = ["Runner"]


class Runner:
    """The two halves as they are called.

    Attributes:
        to_y: The mapping.
        draw: The synthesis.
        owners: The modules that they run.
        draws_noise: Whether synthesis draws noise although it is told not to, or has nobody to tell.
        channels_last: Whether images come as [N, H, W, C].
        image_range: What black and white are.
        drawn: How often noise was drawn for the last images.
    """

    def __init__(self, owners: tuple[nn.Module, ...], to_y: Call, draw: Call) -> None:
        self.owners, self.to_y, self.draw = owners, to_y, draw
        self.draws_noise, self.channels_last, self.drawn = True, False, 0
        self.image_range = (-1.0, 1.0)
        self._noise: dict[Any, Tensor] = {}
        self._like = [self._first(call) for call in (to_y, draw)]

    def _first(self, call: Call) -> tuple[nn.Module, ...]:
        return modules_behind(call.part) or self.owners

    def like(self, part: int = 0) -> Tensor:
        """A weight of the mapping (0) or the synthesis (1), for device and dtype; a float32 zero where there is none."""
        weights = (p for root in (*self._like[part], *self.owners) for p in root.parameters() if p.is_floating_point())
        return next(weights, torch.zeros(()))

    def map(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """What the mapping makes of z [N, z_dim] and c [N, c_dim], in the dtype of z: y, or one for each layer."""
        with at_rest(self.owners):
            answer = code_in(self.to_y(z.to(self.like().dtype), c=c))
        return answer.to(z.dtype) if answer.is_floating_point() else answer

    def images(self, ys: Tensor, noise_mode: str = "const") -> Tensor:
        """What synthesis draws from ys, [N, C, H, W] in [-1, 1] and in the dtype of ys, where it draws images at all."""
        held = self.draws_noise and noise_mode != "random"
        noise = ConstantNoise(ys.shape[0], zero=noise_mode == "none", kept=self._noise) if held else nullcontext()
        with at_rest(self.owners), noise:
            x = image_in(self.draw(ys.to(self.like(1).dtype), noise_mode=noise_mode))
        if isinstance(noise, ConstantNoise):
            self.drawn = noise.drawn
        if not x.is_floating_point():
            return x
        x = x.movedim(3, 1) if self.channels_last else x
        low, high = self.image_range
        x = x.to(ys.dtype)
        return x if (low, high) == (-1.0, 1.0) else (x - low) * (2 / (high - low)) - 1
