"""What every method of inversion is given."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lia_adapter.encoder import one_code
from lia_adapter.errors import LIAError
from lia_adapter.generators import Generator, MappingSampler, broadcast
from lia_adapter.inversion.drawing import Stage, redraw
from lia_adapter.inversion.loss import ReconstructionLoss, prior_loss
from lia_adapter.inversion.optimise import Inversion
from lia_adapter.mapping import InvertibleMapping

__all__ = ["Problem"]


@dataclass(frozen=True)
class Problem:
    """Images to invert, as many as there is memory for at once.

    Attributes:
        generator: Draws.
        mapping: Gives codes their z.
        x: The images [N, C, H, W] in [-1, 1].
        c: Labels [N, c_dim] of a conditional generator.
        loss: What is minimised.
        first: Codes to begin with: ys [N, num_ws, y_dim].
        steps: Of the search; what a method's own steps are stands at the method.
        rate: Of Adam; None: the method's own.
        prior_weight: Of the prior's part of the loss; 0: none.
        codes: Codes of an image, where a method takes several.
        coordinates: The matrix [y_dim, y_dim] of `search_coordinates`, where a method searches; None: in y as it is.
        quality, faithful: Of the ladder.
        encode: x [n, C, H, W] -> y or ys; None where there is no encoder.
        seeds: Of what is random, one for each image.
        progress: Is told the steps done and to do.
    """

    generator: Generator
    mapping: InvertibleMapping
    x: Tensor
    c: Tensor | None
    loss: ReconstructionLoss
    first: Tensor
    steps: int
    seeds: Sequence[int]
    rate: float | None = None
    prior_weight: float = 0.0
    codes: int = 1
    coordinates: Tensor | None = None
    quality: str = "good"
    faithful: bool = False
    encode: Callable[[Tensor], Tensor] | None = None
    progress: Callable[[int, int], None] | None = None

    @cached_property
    def towards(self) -> Callable[[Tensor], Tensor]:
        """Drawn images [N, C, H, W] -> their loss [N]."""
        with torch.no_grad():
            return self.loss.towards(self.x)

    def encoder(self) -> Callable[[Tensor], Tensor]:
        """x [n, C, H, W] -> ys [n, num_ws, y_dim], differentiable.

        Raises:
            LIAError: There is no encoder.
        """
        if (encode := self.encode) is None:
            raise LIAError("this method asks the encoder, and the file has none. Run lia-adapt train-encoder on it first.")
        return lambda x: broadcast(encode(x), self.generator.num_ws)

    def prior(self, ys: Tensor) -> Tensor | float:
        """The prior's part of the loss of ys [N, num_ws, y_dim], [N]."""
        return self.prior_weight * prior_loss(self.mapping, ys, self.c) if self.prior_weight else 0.0

    def part(self, before: int) -> Callable[[int, int], None] | None:
        """Progress of a part of the steps, behind others."""
        tell = self.progress
        return None if tell is None else lambda step, _: tell(before + step, self.steps)

    def randoms(self) -> list[torch.Generator]:
        """One for each image, so that batches change nothing."""
        return [torch.Generator(self.x.device).manual_seed(seed) for seed in self.seeds]

    def mean_and_spread(self, count: int = 10_000) -> tuple[Tensor, float]:
        """Mean [y_dim] of the original mapping's y, and the root of their mean squared distance (Karras 2020, app. D)."""
        _, y, _ = MappingSampler(self.generator).pairs(count, torch.Generator(self.x.device).manual_seed(0))
        mean = y.mean(dim=0)
        return mean, float((y - mean).square().sum(dim=1).mean().sqrt())

    @torch.no_grad()
    def answer(self, ys: Tensor, kept: Mapping[str, Tensor] | None = None, stage: Stage | None = None) -> Inversion:
        """What was found: its images are drawn, and its loss is measured without any noise of the search."""
        found = dict(kept or {})
        images = redraw(self.generator, ys, found, stage)
        return Inversion(ys, self.mapping.to_z(one_code(ys), self.c), images, self.towards(images), found)
