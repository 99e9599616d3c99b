"""Several codes for one image (mGANprior, Gu 2020): their feature maps are added up, channel by channel, at one stage."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lia_adapter.generators import broadcast
from lia_adapter.inversion.descend import descend, warm_and_cool
from lia_adapter.inversion.drawing import SHIFT, Stage
from lia_adapter.inversion.optimise import Inversion
from lia_adapter.inversion.problem import Problem

__all__ = ["multi_code"]

_CODE_RATE, _CHANNEL_RATE = 0.05, 0.01


def multi_code(problem: Problem) -> Inversion:
    """y of each image [codes, y_dim] and their weights of each channel [codes, C], which begin as shares of equal size.

    Behind the stage all is drawn by the mean of the codes. What is kept is that code, and what its map lacks to the sum: edits
    of the one take the other along. (The paper takes gradient descent at a rate of 1 on z; Adam on y needs a tenth of its
    3,000 steps.)
    """
    generator, count, n = problem.generator, problem.codes, len(problem.x)
    stage = Stage(generator)
    drawn = torch.stack(
        [torch.randn(count, problem.mapping.y_dim, generator=random, device=problem.x.device) for random in problem.randoms()]
    )
    with torch.no_grad():
        c = None if problem.c is None else problem.c.repeat_interleave(count, dim=0)
        start = problem.mapping.to_y(drawn.flatten(0, 1), c).unflatten(0, [n, count])
        start = start + problem.first.mean(dim=1, keepdim=True) - start.mean(dim=1, keepdim=True)

    def parts(found: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The mean codes ys [N, num_ws, y_dim], and the sum of the maps [N, *shape]."""
        y = found["y"]
        maps = stage.maps(broadcast(y.flatten(0, 1), generator.num_ws)).unflatten(0, [n, count])
        return broadcast(y.mean(dim=1), generator.num_ws), (maps * found["channels"][:, :, :, None, None]).sum(dim=1)

    def losses(found: Mapping[str, Tensor], step: int) -> Tensor:
        ys, maps = parts(found)
        with stage.changed(lambda _: maps):
            images = generator.synthesis(ys)
        return problem.towards(images) + problem.prior(ys)

    found, _ = descend(
        {"y": start, "channels": torch.full((n, count, stage.shape[0]), 1 / count, device=problem.x.device)},
        losses, steps=problem.steps, rate={"y": problem.rate or _CODE_RATE, "channels": _CHANNEL_RATE},
        schedule=warm_and_cool, progress=problem.progress,
    )  # fmt: skip
    with torch.no_grad():
        ys, maps = parts(found)
        return problem.answer(ys.contiguous(), {SHIFT: maps - stage.maps(ys)}, stage)
