"""What the trained methods share: codes, pictures of them before and after a move, and the run of the loop."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from lia_adapter import ranks
from lia_adapter.budget import in_parts
from lia_adapter.editing.task import Task
from lia_adapter.errors import ConfigError, LIAError
from lia_adapter.generators import (
    MappingSampler,
    at_rest,
    broadcast,
    device_of,
    draw_reduced,
    graphs_at_once,
)
from lia_adapter.loop import Job, StepFunction, adam, cosine, run_loop, step_generator
from lia_adapter.resize import MAX_SIDE, reduced_size, resize

__all__ = ["LookingNetwork", "Moves", "Orthonormal", "Pairs"]

_FRESH = 2**32  # numbers of random streams that no step has
_LEAST_SHIFT = 0.5  # in standard deviations: of a smaller one nothing would be seen (Voynov & Babenko 2020, sec. 3.3)
_EACH = 32  # fresh pairs of each direction
_WIDTH, _WIDEST, _GROUPS = 32, 128, 8  # channels of the network that looks at pairs
_END = 4  # pixels a side of its last maps, at most


class Moves:
    """Codes of a task and pictures of them.

    Args:
        task: Whose.
        most: Pixels a side of the pictures, at most.
    """

    def __init__(self, task: Task, most: int = MAX_SIDE) -> None:
        self.task, self.most = task, most
        self.generator, self.device = task.generator, device_of(task.generator)
        self.at_once, self.drawing = graphs_at_once(task.generator, reduced=True)
        self.root = task.space.root.to(self.device)
        self.layers = torch.zeros(1, task.generator.num_ws, 1, device=self.device)
        self.layers[:, list(task.layers)] = 1
        self.size = reduced_size(task.generator.resolution, most=most)

    @classmethod
    @contextmanager
    def of(cls, task: Task, most: int = MAX_SIDE) -> Iterator[Self]:
        """In it, the generator is at rest, and pictures leave no larger graphs than there is room for.

        Raises:
            LIAError: Nothing of the layers that move is seen in the pictures.
        """
        with at_rest([task.generator]):
            moves = cls(task, most)
            with moves.drawing():
                moves.look()
                yield moves

    def random(self, step: int) -> torch.Generator:
        """The random numbers of a step."""
        return step_generator(self.task.config.seed, step, self.device)

    def fresh(self, number: int = 0) -> torch.Generator:
        """Random numbers that no step has."""
        return self.random(_FRESH + number)

    def codes(self, n: int, random: torch.Generator) -> Tensor:
        """Some y [n, y_dim] of the original mapping, of all classes."""
        return MappingSampler(self.generator).pairs(n, random)[1]

    def ys(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """Codes y [N, y_dim], of which those layers that are to move did so by u [N, y_dim] in white coordinates."""
        ys = broadcast(y, self.generator.num_ws)
        return ys if u is None else ys + self.layers.to(y) * (u.to(y) @ self.root.to(y))[:, None]

    def pictures(self, y: Tensor, u: Tensor | None = None) -> Tensor:
        """Of the same [N, C, h, w], with sides of at most `most`."""
        return resize(draw_reduced(self.generator, self.ys(y, u), min(MAX_SIDE, 2 * self.most)), most=self.most)

    @torch.no_grad()
    def look(self) -> None:
        """Finds out whether pictures change at all where codes move."""
        y = self.codes(1, self.fresh())
        u = torch.randn(y.shape, generator=self.fresh(1), device=self.device, dtype=y.dtype)
        if torch.equal(self.pictures(y), self.pictures(y, u)):
            layers, size = ", ".join(map(str, self.task.layers)), f"{self.size[1]}x{self.size[0]}"
            raise LIAError(
                f"the layers {layers} change nothing in pictures of {size}, which {self.task.config.method} looks at. "
                "Give others as layers, or none for all."
            )

    def train(self, module: nn.Module, step: StepFunction) -> None:
        """Trains the parameters of a module as the config says, or goes on with that."""
        config, task = self.task.config, self.task
        share = max(1, config.batch // ranks.count())
        # A pair has two pictures. The last divisor is the share itself: one at a time.
        parts = next(n for n in range(1, share + 1) if share % n == 0 and (share // n <= max(1, self.at_once // 2)))
        job = Job(
            config.method, module, step, adam(module, config.learning_rate),
            steps=config.steps, batch=config.batch, rate=cosine(config.steps), accumulate=parts,
        )  # fmt: skip
        run_loop(job, state_path=task.state, identity=task.identity, progress=task.progress)
        module.requires_grad_(False)
        if not all(bool(value.isfinite().all()) for value in module.state_dict().values()):
            raise LIAError(f"{config.method}: the training diverged. Use a smaller learning_rate.")


class Orthonormal(nn.Module):
    """Directions of length 1 that are at right angles to one another: from a one-hot vector to a step in white coordinates.

    Args:
        count: Directions, at most `dim`.
        dim: Of codes.
    """

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.columns = nn.Parameter(torch.randn(dim, count) / dim**0.5)

    def forward(self) -> Tensor:
        """[count, D]."""
        q, r = torch.linalg.qr(self.columns)
        signs = torch.where(r.diagonal() < 0, -1.0, 1.0).to(q)  # those of the columns, which no algorithm may choose
        directions: Tensor = (q * signs).t()
        return directions


class LookingNetwork(nn.Module):
    """What a small convolutional network sees in pictures: [N, C, H, W] -> [N, features].

    Args:
        channels: Of the pictures.
        size: (H, W).
        features: Numbers that come out.
    """

    def __init__(self, channels: int, size: tuple[int, int], features: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = _WIDTH
        h, w = size
        while max(h, w) > _END:
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.GroupNorm(_GROUPS, width), nn.LeakyReLU(0.2)]
            channels, width = width, min(2 * width, _WIDEST)
            h, w = (h + 1) // 2, (w + 1) // 2
        self.maps = nn.Sequential(*layers)
        self.answer = nn.Linear(channels * h * w, features)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, features]."""
        answer: Tensor = self.answer(self.maps(x.float()).flatten(1))
        return answer


@dataclass(frozen=True)
class Pairs:
    """Pictures before and after a shift.

    Attributes:
        before: [N, C, H, W].
        after: The same.
        which: Number of the direction [N].
        shifts: How far, in standard deviations [N].
    """

    before: Tensor
    after: Tensor
    which: Tensor
    shifts: Tensor

    @staticmethod
    def check(task: Task) -> None:
        """Refuses a number of directions that cannot be told apart, or are not there.

        Raises:
            ConfigError: Fewer than two directions, or more than y has entries.
        """
        count, dim = task.config.count, task.generator.y_dim
        if count < 2:
            raise ConfigError(f"count is {count}; {task.config.method} tells directions from one another: at least 2.")
        if count > dim:
            raise ConfigError(f"count is {count}; y has {dim} entries, and so many directions at most.")

    @staticmethod
    def draw(
        moves: Moves, directions: Tensor, n: int, random: torch.Generator, rows: Sequence[int], which: Tensor | None = None
    ) -> "Pairs":
        """Some of n random pairs; gradients reach the directions.

        Args:
            moves: Draws them.
            directions: In white coordinates [count, D].
            n: Pairs.
            random: Of their codes, directions and shifts.
            rows: Which of the n.
            which: Their directions [n]; None: random ones.
        """
        config, device = moves.task.config, moves.device
        y = moves.codes(n, random)
        drawn = torch.randint(len(directions), [n], generator=random, device=device)
        shifts = (2 * torch.rand(n, generator=random, device=device) - 1) * config.shift
        shifts = torch.where(shifts < 0, -1.0, 1.0) * shifts.abs().clamp(min=min(_LEAST_SHIFT, config.shift))
        which = drawn if which is None else which
        chosen = list(rows)
        y, which, shifts = y[chosen], which[chosen], shifts[chosen]
        with torch.no_grad():
            before = moves.pictures(y)
        return Pairs(before, moves.pictures(y, shifts[:, None] * directions[which]), which, shifts)

    @staticmethod
    @torch.no_grad()
    def fresh(moves: Moves, directions: Tensor) -> Iterator["Pairs"]:
        """Pairs that no training saw, as many of each direction, some at a time."""
        n = _EACH * len(directions)
        which = torch.arange(n, device=moves.device) % len(directions)

        def part(rows: range) -> Pairs:
            return Pairs.draw(moves, directions, n, moves.fresh(), rows, which)

        yield from in_parts(part, range(n), moves.at_once)
