"""How many pictures of a generator are worked on at once."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from lia_adapter.budget import at_once, held_by, room
from lia_adapter.generators.base import Generator, checkpointed
from lia_adapter.generators.reduced import draw_reduced

__all__ = ["device_of", "graphs_at_once", "picture_bytes", "pictures_at_once"]

_LARGE = 128 * 128  # pixels; drawing a larger picture once takes as long as working out what it would take


def device_of(generator: Generator) -> torch.device:
    """Where its weights are; the processor for one that has none."""
    return next((p.device for p in generator.parameters()), torch.device("cpu"))


def picture_bytes(
    generator: Generator, use: Callable[[Tensor], Tensor] | None = None, *, graph: bool = False, reduced: bool = False
) -> int:
    """About what it takes to draw one picture and to use it.

    Args:
        generator: Draws a picture of the code 0.
        use: What is done with the picture [1, C, H, W].
        graph: Whether the gradient of the answer's sum, with respect to the code, is taken, too.
        reduced: Whether `draw_reduced` draws it.
    """
    like = next(generator.parameters(), torch.zeros(()))

    def work() -> None:
        ys = torch.zeros(1, generator.num_ws, generator.y_dim, device=like.device, dtype=like.dtype, requires_grad=graph)
        with torch.set_grad_enabled(graph):
            x = draw_reduced(generator, ys) if reduced else generator.synthesis(ys)
            answer = x if use is None else use(x)
            if graph:
                torch.autograd.grad(answer.sum(), ys)

    height, width = generator.resolution
    return held_by(work, pretend=height * width > _LARGE)


def pictures_at_once(
    generator: Generator, use: Callable[[Tensor], Tensor] | None = None, *, reduced: bool = False, most: int | None = None
) -> int:
    """How many pictures to draw and use at once, without gradients.

    Args:
        generator: Draws a picture of the code 0, to measure what one takes.
        use: What is done with the pictures [N, C, H, W].
        reduced: Whether `draw_reduced` draws them.
        most: No more than this.

    Raises:
        LIAError: There is no memory for a single one.
    """
    return _at_once(generator, picture_bytes(generator, use, reduced=reduced), most)


def graphs_at_once(
    generator: Generator, use: Callable[[Tensor], Tensor] | None = None, *, reduced: bool = False, most: int | None = None
) -> tuple[int, Callable[[], AbstractContextManager[None]]]:
    """How many pictures to draw and use at once where the gradient of what comes out is taken.

    Args:
        generator: Draws a picture of the code 0, to measure what one takes.
        use: What is done with the pictures [N, C, H, W].
        reduced: Whether `draw_reduced` draws them.
        most: No more than this.

    Returns:
        The number, and in what context to draw: `checkpointed` where not even one picture would fit otherwise.

    Raises:
        LIAError: There is no memory for a single one.
    """
    each = picture_bytes(generator, use, graph=True, reduced=reduced)
    if each <= room(device_of(generator)):
        return _at_once(generator, each, most), nullcontext
    with checkpointed():
        each = picture_bytes(generator, use, graph=True, reduced=reduced)
    return _at_once(generator, each, most), checkpointed


def _at_once(generator: Generator, each: int, most: int | None) -> int:
    height, width = generator.resolution
    return at_once(each, device_of(generator), most=most, what=f"picture of {width}x{height}")
