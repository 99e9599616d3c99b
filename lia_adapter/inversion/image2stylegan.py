"""Image2StyleGAN (Abdal 2019): a y of its own for every layer, by plain Adam from the mean."""

from collections.abc import Mapping

from torch import Tensor

from lia_adapter.inversion.descend import constant, descend
from lia_adapter.inversion.optimise import Inversion
from lia_adapter.inversion.problem import Problem

__all__ = ["image2stylegan"]

_RATE = 0.01


def image2stylegan(problem: Problem) -> Inversion:
    """Pixels and features, without a bound on where codes may go. The paper's features are four layers of VGG16."""

    def losses(found: Mapping[str, Tensor], step: int) -> Tensor:
        return problem.towards(problem.generator.synthesis(found["ys"])) + problem.prior(found["ys"])

    found, _ = descend(
        {"ys": problem.first}, losses, steps=problem.steps, rate=problem.rate or _RATE, schedule=constant, betas=(0.9, 0.999),
        progress=problem.progress,
    )  # fmt: skip
    return problem.answer(found["ys"])
