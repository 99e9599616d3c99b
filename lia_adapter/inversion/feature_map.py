"""ys and an early feature map (Kang 2021, Yao 2022, Bobkov 2024), and layer by layer (Bau 2019)."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from lia_adapter.inversion.descend import descend, warm_and_cool
from lia_adapter.inversion.drawing import SHIFT, Stage
from lia_adapter.inversion.optimise import Inversion
from lia_adapter.inversion.problem import Problem
from lia_adapter.inversion.search import searched

__all__ = ["feature_map", "layerwise"]

_CODE_RATE, _MAP_RATE = 0.02, 0.01
_FAR = 0.1  # weight of the map's distance to that of the codes, in mean squares of that map
_LAYER_SHARE = 0.5  # of layerwise's steps, for the map
MISSED = "missed"


def feature_map(problem: Problem) -> Inversion:
    """ys first, for half of the steps, then ys and what is added to a feature map, which is kept near what ys alone draw.

    The map is kept as a difference: edited codes draw their own map, and the difference is added to it, so that edits move
    the map by what they change in it.
    """
    stage, generator = Stage(problem.generator), problem.generator
    first = searched(replace(problem, steps=problem.steps // 2, progress=problem.part(0)))
    with torch.no_grad():
        size = stage.maps(first.ys).square().mean(dim=(1, 2, 3)).sqrt()[:, None, None, None]
    left = first.loss  # the bound counts in shares of it, so that it means the same with and without a network

    def losses(found: Mapping[str, Tensor], step: int) -> Tensor:
        with stage.changed(lambda maps: maps + found[SHIFT] * size):
            images = generator.synthesis(found["ys"])
        far = found[SHIFT].square().mean(dim=(1, 2, 3))
        return problem.towards(images) + problem.prior(found["ys"]) + _FAR * left * far

    found, _ = descend(
        {"ys": first.ys, SHIFT: problem.x.new_zeros(len(problem.x), *stage.shape)}, losses,
        steps=problem.steps - problem.steps // 2,
        rate={"ys": 0.2 * (problem.rate or _CODE_RATE), SHIFT: _MAP_RATE}, schedule=warm_and_cool,
        progress=problem.part(problem.steps // 2),
    )  # fmt: skip
    return problem.answer(found["ys"], {SHIFT: found[SHIFT] * size}, stage)


def layerwise(problem: Problem) -> Inversion:
    """A feature map first, then the codes that make it and the image: what not even the map can draw is kept as a picture.

    missed [N, 1, H, W] is how far the image is from what the free map draws, a pixel, mean over channels: what the layers
    behind the stage cannot draw, whatever comes before them.
    """
    stage, generator = Stage(problem.generator), problem.generator
    share = int(_LAYER_SHARE * problem.steps)
    with torch.no_grad():
        maps = stage.maps(problem.first)
        scale = maps.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()

    def of_map(found: Mapping[str, Tensor], step: int) -> Tensor:
        with stage.changed(lambda _: found["maps"] * scale):
            return problem.towards(generator.synthesis(problem.first))

    free, _ = descend(
        {"maps": maps / scale}, of_map, steps=share, rate=_MAP_RATE, schedule=warm_and_cool, progress=problem.part(0)
    )
    with torch.no_grad(), stage.changed(lambda _: free["maps"] * scale):
        missed = (generator.synthesis(problem.first) - problem.x).abs().mean(dim=1, keepdim=True)

    def of_codes(found: Mapping[str, Tensor], step: int) -> Tensor:
        own = stage.maps(found["ys"]) / scale
        towards = (own - free["maps"]).square().mean(dim=(1, 2, 3))
        fade = 1 - step / max(problem.steps - share, 1)
        loss = problem.towards(generator.synthesis(found["ys"]))
        return loss + fade * towards * loss.detach() + problem.prior(found["ys"])

    found, _ = descend(
        {"ys": problem.first}, of_codes, steps=problem.steps - share, rate=problem.rate or _CODE_RATE, schedule=warm_and_cool,
        keep="last", progress=problem.part(share),
    )  # fmt: skip
    answer = problem.answer(found["ys"])
    answer.kept[MISSED] = missed
    return answer
