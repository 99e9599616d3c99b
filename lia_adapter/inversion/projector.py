"""The projector of StyleGAN2 (Karras 2020, app. D): one y and the noise images, from the mean."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from lia_adapter.generators import broadcast
from lia_adapter.inversion.descend import descend, projector_ramps
from lia_adapter.inversion.drawing import NOISE, noise_sizes, with_noise
from lia_adapter.inversion.optimise import Inversion
from lia_adapter.inversion.problem import Problem

__all__ = ["noise_structure", "projector"]

_RATE = 0.1
_CODE_NOISE, _CODE_NOISE_SHARE = 0.05, 0.75  # of y's spread at the start; the share of the steps in which it falls to 0
_STRUCTURE = 1e5
_LEAST = 8  # side of a noise image below which its structure is not looked at


def projector(problem: Problem) -> Inversion:
    """Adam from the mean y at a rate of 0.1 with ramps; noise on y that fades; noise images that are kept free of structure."""
    generator, steps = problem.generator, problem.steps
    mean, spread = problem.mean_and_spread()
    randoms = problem.randoms()

    def normal(*shape: int) -> Tensor:
        return torch.stack([torch.randn(shape, generator=random, device=problem.x.device) for random in randoms])

    start = {"y": mean.expand(len(problem.x), -1)}
    start |= {f"{NOISE}{i}": normal(1, height, width) for i, (height, width) in enumerate(noise_sizes(generator))}
    names = [name for name in start if name.startswith(NOISE)]

    def losses(found: Mapping[str, Tensor], step: int) -> Tensor:
        fade = max(0.0, 1 - step / max(steps, 1) / _CODE_NOISE_SHARE) ** 2
        y = found["y"] + _CODE_NOISE * spread * fade * normal(generator.y_dim)
        ys = broadcast(y, generator.num_ws)
        loss = problem.towards(with_noise(generator, ys, [found[name] for name in names])) + problem.prior(ys)
        for name in names:
            loss = loss + _STRUCTURE * noise_structure(found[name])
        return loss

    def normalise(found: Mapping[str, Tensor]) -> None:
        for name in names:
            noise = found[name]
            noise.sub_(noise.mean(dim=(2, 3), keepdim=True))
            noise.mul_(noise.square().mean(dim=(2, 3), keepdim=True).clamp(min=1e-20).rsqrt())

    found, _ = descend(
        start, losses, steps=steps, rate=problem.rate or _RATE, schedule=projector_ramps, betas=(0.9, 0.999), after=normalise,
        keep="last", progress=problem.progress,
    )  # fmt: skip
    ys = broadcast(found["y"], generator.num_ws).contiguous()
    return problem.answer(ys, {name: found[name] for name in names})


def noise_structure(noise: Tensor) -> Tensor:
    """How much neighbours in noise images [N, 1, H, W] have in common, on all scales (Karras 2020, eq. 5), [N]."""
    total = noise.new_zeros(len(noise))
    while True:
        for axis in (2, 3):
            total = total + (noise * noise.roll(1, axis)).mean(dim=(1, 2, 3)).square()
        if min(noise.shape[2:]) <= _LEAST:
            return total
        noise = F.avg_pool2d(noise, 2)
