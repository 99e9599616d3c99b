"""Whether the images of somebody's generator have the scale that they should have, and are the same every time."""

import torch
from torch import Tensor

from lia_adapter.errors import WrapError
from lia_adapter.generators.base import Generator, broadcast
from lia_adapter.generators.probe import Trials, first_line, same

__all__ = ["look"]

_SCALED = 100  # images that are looked at for a value below 0


def look(trials: Trials, x: Tensor, y: Tensor, c: Tensor | None, generator: Generator, *, checked: bool) -> None:
    """Looks at the scale and the steadiness of images.

    Args:
        trials: Runs the generator.
        x: The first two.
        y: Their codes [2, y_dim].
        c: The label to give [c_dim], or None.
        generator: Draws more.
        checked: Whether their scale is to be looked at.

    Raises:
        WrapError: They are not in [-1, 1], or another one is drawn each time.
    """
    runner = trials.runner
    c = None if c is None else c.to(x.device)[None].expand(8, -1)

    def more() -> Tensor:
        z = torch.randn(8, generator.z_dim, generator=trials.random).to(x.device)
        return generator.synthesis(broadcast(generator.mapping(z, c), generator.num_ws))

    again = trials.quietly(lambda: generator.synthesis(broadcast(y, generator.num_ws)))
    if not same(x, again):
        raise WrapError(
            "synthesis draws another image each time that it is given the same code, by a randomness of its own. Pass "
            "synthesis=lambda ys: … that keeps its noise still."
        )
    runner.draws_noise = runner.drawn > 0
    seen, largest = len(x), float(x.max())
    while checked and float(x.min()) >= 0:
        found = trials.quietly(more)
        if isinstance(found, Exception):
            raise WrapError(f"synthesis draws 2 images, but not 8: {first_line(found)}.") from found
        x = found
        seen, largest = seen + len(x), max(largest, float(x.max()))
        if seen >= _SCALED and float(x.min()) >= 0:
            scale = (0, 1) if largest <= 2 else (0, 255)
            raise WrapError(
                f"in {seen} images nothing is below 0, and the largest value is {largest:.3g}; expected [-1, 1]. Pass "
                f"image_range={scale} where that is black and white, or image_range=(-1, 1) where it is chance."
            )
