"""Finds the sizes of somebody's generator by running it, and proves them.

A size that runs may be wrong: `zip` truncates, slices ignore, single rows are broadcast. So a size counts only where its last
entry matters and one more either does not run or changes nothing; of z, every entry must matter. Where two sizes are left, the
user is asked. What is here serves the three steps: `probe_codes`, `probe_layers` and `probe_images`.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from lia_adapter.errors import WrapError
from lia_adapter.generators.guest import same_random_state
from lia_adapter.generators.runner import Runner

__all__ = ["NAMED", "Answer", "Trials", "announced", "first_line", "listed", "same"]

NAMED = 8
"""Sizes, at most, that an error lists."""

Answer = Tensor | Exception
"""What a trial gave."""

_SAME = 1e-4  # relative difference, below which images count as equal
_EQUAL = 1e-7  # likewise for what a single layer changes


class Trials:
    """Runs a generator by trial; leaves no trace.

    Args:
        runner: The generator; what is found out about its calls is set in it.

    Attributes:
        random: What all trials draw from, one after the other.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.random = torch.Generator().manual_seed(0)

    def quietly(self, work: Callable[[], Tensor]) -> Answer:
        """What the work gives, or the error that it ends with.

        Raises:
            WrapError: The work itself says what is wrong.
        """
        try:
            with torch.no_grad(), same_random_state(self.runner.like().device):
                return work()
        except WrapError:
            raise
        except Exception as error:  # the user's code may raise anything; the message goes into a WrapError
            return error


def same(a: Answer, b: Answer, exactly: bool = False) -> bool:
    """Whether two sets of images are equal but for rounding, of which `exactly` allows next to none."""
    if isinstance(a, Exception) or isinstance(b, Exception) or a.shape != b.shape:
        return False
    return bool((a - b).abs().max() <= (_EQUAL if exactly else _SAME) * (a.abs().max() + 1e-6))


def announced(owners: Iterable[object], names: Sequence[str]) -> list[int]:
    """What modules say about a size, in the order of names, the nearest module first."""
    found = []
    for name, owner in itertools.product(names, owners):
        value = getattr(owner, name, None)
        value = value[0] if isinstance(value, (tuple, list)) and len(value) == 1 else value
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 1 << 16:
            found.append(value)
    return list(dict.fromkeys(found))


def listed(sizes: Sequence[int]) -> str:
    """Sizes in words, some alone where they are many."""
    if len(sizes) > NAMED:
        return f"{', '.join(map(str, sizes[:4]))} and other numbers of"
    return " or ".join(map(str, sizes))


def first_line(answer: object) -> str:
    """An error's kind and the first line of what it says."""
    text = str(answer).strip().splitlines()
    return f"{type(answer).__name__}: {text[0][:160]}" if text else type(answer).__name__
