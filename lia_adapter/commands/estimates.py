"""What a job will take, in memory and time, on the machine at hand: for `-n`, before anything starts."""

from dataclasses import dataclass

import torch

from lia_adapter.budget import at_once, human, room, seconds_of, used_memory
from lia_adapter.encoder import Encoder
from lia_adapter.generators import draw_reduced, graphs_at_once, picture_bytes
from lia_adapter.lia import LIA

__all__ = ["Work", "estimate"]

_GRADIENT = 4  # drawings that a drawing and its gradient take


@dataclass(frozen=True)
class Work:
    """What a job does with pictures.

    Attributes:
        drawn: How many are drawn.
        reduced: How many are drawn at 256 pixels a side at most.
        encoded: How many are encoded.
        gradients: How many are drawn with the gradient of what they are compared by.
        seconds: What it does besides.
    """

    drawn: int = 0
    reduced: int = 0
    encoded: int = 0
    gradients: int = 0
    seconds: float = 0.0


@torch.no_grad()
def estimate(lia: LIA, work: Work, encoder: Encoder | None = None) -> dict[str, str]:
    """Memory and time of a job, in words, by drawing and encoding a picture or two.

    Args:
        lia: On the device where the job would run.
        work: The job's.
        encoder: One that is not in the LIA yet.

    Raises:
        LIAError: There is no memory for a single picture.
    """
    generator, device = lia.generator, lia.device
    n = at_once(picture_bytes(generator), device) if work.drawn or work.gradients or not work.reduced else 1
    ys = lia.whitening()[0].to(lia.device).expand(n, generator.num_ws, -1)

    def each(function: object) -> float:
        assert callable(function)  # noqa: S101
        function()  # the first time is slower
        return seconds_of(function) / n

    drawing = each(lambda: generator.synthesis(ys)) if work.drawn or work.gradients else 0.0
    seconds = work.seconds + drawing * (work.drawn + _GRADIENT * work.gradients)
    if work.reduced:
        seconds += work.reduced * each(lambda: draw_reduced(generator, ys))
    if work.encoded and (encoder or lia.encoder) is not None:
        x = torch.zeros(n, generator.channels, *generator.resolution, device=device)
        seconds += work.encoded * each(lambda: (encoder or lia.encoder)(x))  # type: ignore[misc]
    parts, one = n, picture_bytes(generator)
    if work.gradients:
        parts, _ = graphs_at_once(generator)
        one = picture_bytes(generator, graph=True)
    held = used_memory(device)
    return {
        "memory": f"about {human(held + parts * one)}: {human(held)} are there already, {human(one)} for each of {parts} "
        f"picture{'s' if parts > 1 else ''} at once; {human(room(device))} may be taken",
        "time": f"about {_duration(seconds)}",
    }


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
