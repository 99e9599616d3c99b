"""Timing several functions against each other: interleaved, in one process, medians."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

__all__ = ["interleaved"]


def interleaved(
    functions: Mapping[str, Callable[[], Any]], device: str, *, repeats: int = 7, seconds: float = 0.02
) -> dict[str, float]:
    """Median seconds a call of each function. The functions take turns, so that all meet the same disturbances.

    Args:
        functions: Name -> what to call.
        device: "cuda" waits for the GPU before every reading of the clock.
        repeats: Turns.
        seconds: How long a turn is at least; short functions are called more often.
    """

    def clock() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    calls = {}
    for name, function in functions.items():
        function()  # Compiles, allocates, and chooses algorithms.
        begin = clock()
        function()
        calls[name] = max(1, round(seconds / max(clock() - begin, 1e-6)))
    turns: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            begin = clock()
            for _ in range(calls[name]):
                function()
            turns[name].append((clock() - begin) / calls[name])
    return {name: statistics.median(values) for name, values in turns.items()}
