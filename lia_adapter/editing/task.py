"""What a method of finding directions is given."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lia_adapter.direction_keys import FindConfig
from lia_adapter.editing.directions import Direction
from lia_adapter.editing.space import CodeSpace, Metric, oriented
from lia_adapter.editing.style_space import StyleSpace
from lia_adapter.errors import ConfigError, LIAError
from lia_adapter.generators import Generator, MappingSampler, style_sizes
from lia_adapter.loop import step_generator
from lia_adapter.metrics.distances import Moments
from lia_adapter.progress import Progress

__all__ = ["Examples", "Task"]

_PART = 8192  # codes mapped at once
_STATISTICS = 2**33  # first number of the random streams that statistics are drawn by


@dataclass(frozen=True)
class Examples:
    """Codes of images, and what is known of the images.

    Attributes:
        codes: [N, D], z where directions of z are wanted, else y: what styles tell, the y tells that they are made of.
        values: Attributes of the same images [N, F]; NaN where one is not known.
        names: Of the attributes.
    """

    codes: Tensor
    values: Tensor
    names: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """A search for directions.

    Attributes:
        generator: Whose codes are to move; its weights do not change.
        config: How.
        examples: Of methods that learn from attributes; else None.
        state: File for what a training has reached, which the same task goes on from; None: nothing is kept.
        identity: Of that training: what the generator and the config are known by.
        progress: Is told what is done.
    """

    generator: Generator
    config: FindConfig
    examples: Examples | None = None
    state: Path | None = None
    identity: str = ""
    progress: Progress | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the generator is."""
        return next((p.device for p in self.generator.parameters()), torch.device("cpu"))

    @property
    def layers(self) -> tuple[int, ...]:
        """Which ys the directions move.

        Raises:
            ConfigError: There is no such layer.
        """
        n = self.generator.num_ws
        chosen = tuple(range(n)) if self.config.layers is None else self.config.layers
        if (wrong := max(chosen)) >= n:
            raise ConfigError(f"layers has {wrong}; this generator's are 0 to {n - 1}.")
        return chosen

    @cached_property
    def space(self) -> CodeSpace:
        """That of the codes that are learnt from: of y, by samples of the original mapping; of z the standard one."""
        if self.config.space == "z":
            return CodeSpace.standard(self.generator.y_dim, self.device)
        moments, wanted = Moments(torch.float32), self.config.samples  # what is far below the mean variance is raised anyhow
        for first in range(0, wanted, _PART):
            moments.add(self.y(min(_PART, wanted - first), _STATISTICS + first)[0])
            if self.progress:
                self.progress("statistics of codes", min(first + _PART, wanted), wanted)
        return CodeSpace(moments.mean.to(self.device), moments.covariance.to(self.device))

    @cached_property
    def styles(self) -> StyleSpace | None:
        """The space of s, where directions of s are wanted.

        Raises:
            LIAError: The style layers of this generator are not known.
        """
        return StyleSpace(self.space, self.generator.affines()) if self.config.space == "s" else None

    @property
    def metric(self) -> Metric:
        """What lengths and angles mean among the directions."""
        return self.styles or self.space

    def y(self, n: int, number: int) -> tuple[Tensor, Tensor | None]:
        """Some y [n, y_dim] of the original mapping, and their labels; the same for the same number.

        Raises:
            LIAError: The mapping gives each layer a y of its own, so that there is none for a direction to move.
        """
        random = step_generator(self.config.seed, number, self.device)
        _, y, c = MappingSampler(self.generator).pairs(n, random)
        if y.shape[1] != self.generator.y_dim:
            raise LIAError(
                f"the mapping of this generator gives each of its {self.generator.num_ws} layers a y of its own; directions "
                "are found in the one y of all layers that other generators have."
            )
        return y, c

    def directions(
        self, vectors: Tensor, names: Sequence[str], about: Sequence[dict[str, Any]] | None = None
    ) -> list[Direction]:
        """Directions of y [N, y_dim] or s [N, S] that no attribute gives a sign to, as long as one standard deviation."""
        steps = self.metric.step(oriented(vectors))
        told = [{} for _ in names] if about is None else about
        return [self._direction(name, step, more) for name, step, more in zip(names, steps, told, strict=True)]

    def numbered(self, vectors: Tensor, about: Sequence[dict[str, Any]] | None = None) -> list[Direction]:
        """The same, named by method and number."""
        return self.directions(vectors, [f"{self.config.method}-{i}" for i in range(1, len(vectors) + 1)], about)

    def attribute(self, name: str, u: Tensor, about: dict[str, Any], scale: float = 1.0, bias: float = 0.0) -> Direction:
        """A direction of an attribute that a linear function of white codes reads: attribute = scale · uᵀ(white code) + bias.

        A direction of s is what the direction of y makes of the styles, and its reader reads there what that of y reads.
        Moving along root @ u changes the reading, and nothing that is independent of it (Haufe et al. 2014).

        Args:
            name: Of the attribute.
            u: In white coordinates, of length 1 [D].
            about: What is known of it.
            scale: Units of the attribute for one of u.
            bias: The attribute where u is 0.
        """
        space, step = self.space, self.space.coloured(u)
        reader = scale * space.white(u)  # inv(root) is symmetric: u·((code - mean) @ inv(root)) = (code - mean)·(u @ inv(root))
        if self.styles is not None:
            step, reader = self.styles.weight @ step, self.styles.reader(reader)
        bias -= float(self.metric.mean @ reader)
        return self._direction(name, self.metric.step(step), about, reader=reader, bias=bias)

    def _direction(self, name: str, step: Tensor, about: dict[str, Any], **reading: Any) -> Direction:
        config = self.config
        styles = None if self.styles is None else style_sizes(self.generator)
        return Direction(name, config.space, step, config.method, config.layers, about=about, styles=styles, **reading)
