"""Directions whose changes look alike wherever one sets out from (Lu 2020), by a centroid loss.

Of the paper only the abstract is public: one-hot vectors are taken to shifts of codes, and "a centroid loss" makes what they
change consistent. Its form here is that of the works that it cites: each change is drawn to the mean of its own direction's
and away from the others' (Wen 2016; Wan 2018, eq. 6), with no classifier.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lia_adapter import ranks
from lia_adapter.editing.directions import Direction
from lia_adapter.editing.discover import MOST, by_accuracy
from lia_adapter.editing.moves import LookingNetwork, Moves, Orthonormal, Pairs
from lia_adapter.editing.task import Task
from lia_adapter.loop import Microbatch

__all__ = ["discover_centroid"]

_FEATURES = 64
_SHARPNESS = 10.0  # of the cosines (w of Wan 2018, where it begins)
_NOISE = 0.2  # standard deviation, on pictures in [-1, 1]
_FOLLOW = 0.05  # weight of a step's changes in the mean of their direction


class _Players(nn.Module):
    """The directions, the network that sees pictures, and what it sees change along each direction in the mean."""

    centroids: Tensor

    def __init__(self, task: Task, size: tuple[int, int]) -> None:
        super().__init__()
        count = task.config.count
        self.directions = Orthonormal(count, task.generator.y_dim)
        self.looking = LookingNetwork(task.generator.channels, size, _FEATURES)
        # Far from one another, as what an untrained network sees along all directions is much the same.
        self.register_buffer(
            "centroids", Orthonormal(min(count, _FEATURES), _FEATURES)().detach()[torch.arange(count) % _FEATURES]
        )

    def changes(self, pairs: Pairs, noise: Tensor | None = None) -> Tensor:
        """What changes in a shift forwards [N, features], of length 1.

        Args:
            pairs: N.
            noise: On the pictures before and after [N, 2, C, H, W]. As only the way of a change counts, and not its size,
                directions would do that hardly change anything; with noise, changes must be seen in it.
        """
        pictures = torch.stack([pairs.before, pairs.after])  # [2, N, C, H, W]
        before, after = pictures if noise is None else pictures + noise.transpose(0, 1)
        change = self.looking(after) - self.looking(before)
        return F.normalize(change * pairs.shifts.sign().to(change)[:, None], dim=1)

    def likeness(self, changes: Tensor) -> Tensor:
        """Sizes of the cosines of changes [N, features] and centroids: [N, count].

        Blind to the sign: two directions that do the same, one forwards and one backwards, are not to be told apart.
        """
        return (changes @ F.normalize(self.centroids, dim=1).t()).abs()

    @torch.no_grad()
    def follow(self, changes: Tensor, which: Tensor) -> None:
        """Moves the centroids of directions towards some changes."""
        chosen = F.one_hot(which, len(self.centroids)).to(changes)  # [N, count]
        sums, counts = chosen.t() @ changes, chosen.sum(dim=0)
        ranks.average([sums, counts])  # their quotient is what counts, and is the same on all processes
        weight = _FOLLOW * (counts > 0)
        self.centroids.lerp_(sums / counts.clamp(min=1e-8)[:, None], weight[:, None])


def discover_centroid(task: Task) -> list[Direction]:
    """Learns orthonormal shifts in white coordinates together with a network in whose eyes each does one thing.

    Args:
        task: `count` directions, shifts up to `shift`.

    Returns:
        Those first whose changes are nearest to their own centroid most often: "accuracy" on fresh pairs, by chance 1 / count.

    Raises:
        ConfigError: Fewer than two directions, or more than y has entries.
    """
    Pairs.check(task)
    config = task.config
    with Moves.of(task, MOST) as moves:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            players = _Players(task, moves.size).to(moves.device)

        def step(part: Microbatch) -> dict[str, Tensor]:
            rows = [n % config.batch for n in part.numbers]
            random = moves.random(part.step)
            pairs = Pairs.draw(moves, players.directions(), config.batch, random, rows)
            shape = (config.batch, 2, *pairs.before.shape[1:])
            noise = _NOISE * torch.randn(shape, generator=random, device=moves.device)[rows]
            changes = players.changes(pairs, noise)
            loss = F.cross_entropy(_SHARPNESS * players.likeness(changes), pairs.which)
            players.follow(changes.detach(), pairs.which)
            return {"loss": loss}

        moves.train(players, step)
        directions = players.directions()
        told = [
            (pairs.which, _SHARPNESS * players.likeness(players.changes(pairs))) for pairs in Pairs.fresh(moves, directions)
        ]
    return by_accuracy(task, directions, told)
