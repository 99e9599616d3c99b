"""What an encoder learns from: photographs, and among them images that the generator drew, whose codes are known."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lia_adapter.budget import in_parts
from lia_adapter.data import Stream, to_pixels
from lia_adapter.generators import MappingSampler
from lia_adapter.loop import Microbatch, step_generator

__all__ = ["Mixed", "Source"]

_STREAM = 2**40  # the random streams of codes begin here, far from those of steps
_SPREAD = 2**0.5 - 1


@dataclass(frozen=True)
class Mixed:
    """A part of a batch.

    Attributes:
        pixels: uint8 [n, C, H, W].
        c: Labels of all [n, c_dim], or None.
        drawn: Which of them the generator drew, bool [n].
        y: Their codes [k, y_dim]; k may be 0.
        real: What a discriminator compares with, if one does: as many photographs, uint8 [n, C, H, W], and their labels.
    """

    pixels: Tensor
    c: Tensor | None
    drawn: Tensor
    y: Tensor
    real: tuple[Tensor, Tensor | None] | None


class Source:
    """Makes such parts. What a sample is depends on its number, not on how a batch is cut into parts and shares.

    Args:
        stream: The photographs.
        sampler: The original mapping, which gives codes.
        draw: Codes y [k, y_dim] -> images [k, C, H, W] in [-1, 1].
        share: Of drawn images, at least 0, below 1; at least one of a batch is a photograph.
        seed: Of their codes.
        batch: Samples a step, over all processes.
        at_once: How many images may be drawn at once.
        judged: Whether a discriminator wants photographs in the place of the drawn images, too.
    """

    def __init__(
        self, stream: Stream, sampler: MappingSampler, draw: Callable[[Tensor], Tensor], *,
        share: float, seed: int, batch: int, at_once: int, judged: bool = False,
    ) -> None:  # fmt: skip
        self.stream, self._sampler, self._draw, self._seed, self._at_once = stream, sampler, draw, seed, at_once
        self._batch, self._judged = batch, judged
        # By multiples of an irrational number: spread over the parts of a batch and over every second, fourth, ... of it.
        spread = sorted(range(batch), key=lambda position: (position + 1) * _SPREAD % 1)
        self._drawn = frozenset(spread[: min(round(share * batch), batch - 1)])

    @property
    def share(self) -> float:
        """Of drawn images, in a batch as it is."""
        return len(self._drawn) / self._batch

    @torch.no_grad()
    def part(self, part: Microbatch, device: torch.device) -> Mixed:
        """The images of a part, in the order of their numbers."""
        drawn = torch.tensor([self._is_drawn(g) for g in part.numbers], device=device)
        pixels, c = self.stream.batch(self._photographs(part.numbers), self._photographs(part.following))
        pixels, c = pixels.to(device, non_blocking=True), None if c is None else c.to(device)
        real = None
        if self._judged:
            real, pixels, c = (pixels, c), pixels[~drawn], None if c is None else c[~drawn]
        if not drawn.any():
            return Mixed(pixels, c, drawn, torch.zeros(0, self._sampler.dim, device=device), real)
        _, y, labels = self._sampler.pairs(self._batch, step_generator(self._seed, _STREAM + part.step, device))
        here = torch.tensor([g % self._batch for g in part.numbers], device=device)[drawn]
        y = y[here]
        made = torch.cat(list(in_parts(lambda some: to_pixels(self._draw(some)), y, self._at_once)))
        if c is not None and labels is not None:
            c = _merged(c, labels[here].to(c), drawn)
        return Mixed(_merged(pixels, made, drawn), c, drawn, y, real)

    def _photographs(self, numbers: range | None) -> list[int]:
        return [g for g in numbers or () if self._judged or not self._is_drawn(g)]

    def _is_drawn(self, number: int) -> bool:
        return number % self._batch in self._drawn


def _merged(photographs: Tensor, made: Tensor, drawn: Tensor) -> Tensor:
    """Both in the order of the mask."""
    merged = made.new_empty(len(drawn), *made.shape[1:])
    merged[~drawn], merged[drawn] = photographs, made
    return merged
