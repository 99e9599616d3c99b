"""In-domain inversion (Zhu 2020), and with a discriminator on codes (Leng 2021): codes stay where the encoder's are."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from lia_adapter.generators import MappingSampler, broadcast
from lia_adapter.inversion.descend import constant, descend
from lia_adapter.inversion.optimise import Inversion
from lia_adapter.inversion.problem import Problem
from lia_adapter.linalg import covariance_root

__all__ = ["force_in_domain", "in_domain"]

_RATE = 0.01
_DOMAIN = 2.0  # weight of the distance to what the encoder says of the drawn image
_WIDTH, _JUDGE_RATE, _JUDGE_WEIGHT = 128, 1e-3, 0.1  # of the discriminator on codes, and its weight in the loss
_CODES = 20_000


def in_domain(problem: Problem) -> Inversion:
    """Adam on ys from the encoder's codes: the loss, and twice the mean (ys - f(g(ys)))², so that f knows the image again."""
    return _search(problem, lambda ys: 0.0, keep="best")


def force_in_domain(problem: Problem) -> Inversion:
    """The same with a discriminator that tells an image's codes from the original mapping's.

    Each image has one of its own, three dense layers on whitened y, that learns along: what one image gets does not depend on
    the others. (Of the paper, its abstract is public; the weight 0.1 is that of e4e's discriminator on codes, Tov 2021.)
    """
    judges = _Judges(problem)

    def judged(ys: Tensor) -> Tensor:
        judges.learn(ys.detach())
        return _JUDGE_WEIGHT * F.softplus(-judges(ys)).mean(dim=1)

    return _search(problem, judged, keep="last")  # what the judge says at one step is no measure of another's codes


def _search(problem: Problem, more: Callable[[Tensor], Tensor | float], *, keep: str) -> Inversion:
    encode, generator = problem.encoder(), problem.generator

    def losses(found: Mapping[str, Tensor], step: int) -> Tensor:
        ys = found["ys"]
        drawn = generator.synthesis(ys)
        domain = (ys - encode(drawn)).square().mean(dim=(1, 2))
        return problem.towards(drawn) + _DOMAIN * domain + problem.prior(ys) + more(ys)

    with torch.no_grad():
        start = encode(problem.x)
    found, _ = descend(
        {"ys": start}, losses, steps=problem.steps, rate=problem.rate or _RATE, schedule=constant, betas=(0.9, 0.999),
        keep=keep, progress=problem.progress,
    )  # fmt: skip
    return problem.answer(found["ys"])


class _Judges:
    """Discriminators on whitened codes, one for each image: weights are [N, in, out]."""

    @torch.no_grad()
    def __init__(self, problem: Problem) -> None:
        self.randoms = problem.randoms()
        device = problem.x.device
        _, self.real, _ = MappingSampler(problem.generator).pairs(_CODES, torch.Generator(device).manual_seed(0))
        self.mean, root = covariance_root(self.real)
        self.inverse = torch.linalg.inv(root).to(self.real)
        self.mean = self.mean.to(self.real)
        self.layers = problem.generator.num_ws
        sizes = [problem.generator.y_dim, _WIDTH, _WIDTH, 1]
        self.weights = [
            torch.stack([torch.randn(a, b, generator=random, device=device) * a**-0.5 for random in self.randoms])
            for a, b in zip(sizes, sizes[1:], strict=False)
        ]
        for weight in self.weights:
            weight.requires_grad_(True)
        self.adam = torch.optim.Adam(self.weights, lr=_JUDGE_RATE, betas=(0.0, 0.99))

    def __call__(self, ys: Tensor) -> Tensor:
        """ys [N, n, y_dim] -> logits [N, n], positive for the mapping's."""
        x = (ys - self.mean) @ self.inverse
        for weight in self.weights[:-1]:
            x = F.leaky_relu(torch.bmm(x, weight), 0.2)
        return torch.bmm(x, self.weights[-1])[:, :, 0]

    def learn(self, ys: Tensor) -> None:
        """A step: the layers' codes of each image against as many of the mapping's."""
        picked = [torch.randint(len(self.real), [self.layers], generator=random, device=ys.device) for random in self.randoms]
        with torch.enable_grad():
            loss = (F.softplus(-self(self.real[torch.stack(picked)])) + F.softplus(self(broadcast(ys, self.layers)))).mean(
                dim=1
            )
            for weight, gradient in zip(self.weights, torch.autograd.grad(loss.sum(), self.weights), strict=True):
                weight.grad = gradient
        self.adam.step()
