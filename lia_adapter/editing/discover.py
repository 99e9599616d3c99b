"""Directions that a network can tell from one another (Voynov & Babenko 2020)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lia_adapter.editing.directions import Direction
from lia_adapter.editing.moves import LookingNetwork, Moves, Orthonormal, Pairs
from lia_adapter.editing.task import Task
from lia_adapter.loop import Microbatch

__all__ = ["MOST", "by_accuracy", "discover"]

MOST = 64  # pixels a side of what the networks look at
_WEIGHT, _PAPER_SHIFT = 0.25, 6.0  # of the shift in the loss, where shifts go up to 6


class _Players(nn.Module):
    """The directions, and the network that tells by two pictures which one was gone, and how far."""

    def __init__(self, task: Task, size: tuple[int, int]) -> None:
        super().__init__()
        self.directions = Orthonormal(task.config.count, task.generator.y_dim)
        self.reconstructor = LookingNetwork(2 * task.generator.channels, size, task.config.count + 1)

    def guess(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Logits of the directions [N, count], and shifts [N] as fractions of the largest."""
        answer = self.reconstructor(torch.cat([pairs.before, pairs.after], dim=1))
        return answer[:, :-1], answer[:, -1]


def discover(task: Task) -> list[Direction]:
    """Learns a matrix of orthonormal columns in white coordinates together with a network that recognises them (eq. 1).

    Args:
        task: `count` directions, shifts up to `shift`.

    Returns:
        Those first that are told best: "accuracy" on fresh pairs, by chance 1 / count.

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
            pairs = Pairs.draw(moves, players.directions(), config.batch, moves.random(part.step), rows)
            logits, shifts = players.guess(pairs)
            which = F.cross_entropy(logits, pairs.which)
            far = _PAPER_SHIFT * (shifts - pairs.shifts / config.shift).abs().mean()
            return {"loss": which + _WEIGHT * far, "which": which, "far": far}

        moves.train(players, step)
        directions = players.directions()
        told = [(pairs.which, players.guess(pairs)[0]) for pairs in Pairs.fresh(moves, directions)]
    return by_accuracy(task, directions, told)


def by_accuracy(task: Task, directions: Tensor, told: list[tuple[Tensor, Tensor]]) -> list[Direction]:
    """Directions, the best told first; of those that are told as often, the one of which the network is surer.

    Args:
        task: Their task.
        directions: In white coordinates [count, D].
        told: Of some fresh pairs each, the numbers of their directions [n], and the logits [n, count] of what was guessed.
    """
    which, logits = (torch.cat(parts) for parts in zip(*told, strict=True))
    right = (which == logits.argmax(dim=1)).double()
    doubt = F.cross_entropy(logits.double(), which, reduction="none")
    accuracies, doubts = ([float(of[which == k].mean()) for k in range(len(directions))] for of in (right, doubt))
    order = sorted(range(len(directions)), key=lambda k: (-accuracies[k], doubts[k]))
    about = [{"accuracy": accuracies[k], "accuracy_of_all": float(right.mean())} for k in order]
    return task.numbered(task.space.coloured(directions[order]), about)
