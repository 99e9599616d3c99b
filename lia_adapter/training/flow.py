"""Fits a flow by maximum likelihood: coordinates in which the original mapping's y, with a little noise, is N(0, I)."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from lia_adapter.generators import MappingSampler
from lia_adapter.linalg import symmetric_root
from lia_adapter.loop import Average, Microbatch, step_generator
from lia_adapter.mapping import LARGE, AdditiveCouplings, AffineCouplings, DenseCore, InvertibleMapping, ShuffledCouplings
from lia_adapter.metrics.distances import Moments, sliced_wasserstein
from lia_adapter.training.convert_config import ConvertConfig
from lia_adapter.training.moments import MovingMoments

__all__ = ["FlowFit"]

_STATISTICS, _CALIBRATION, _ALIGNMENT, _HELD_OUT = (
    2**31,
    2**32,
    2**33,
    2**34,
)  # first numbers of random streams that no step has
_PART = 8192  # codes drawn at once for statistics
_LEAST = 1e-6  # a variance, as a fraction of the largest: where z is shorter than y, some of y's are 0
_LARGE_RATE = 3.0
_HALF_LIFE = 70  # steps that the averaged weights remember
_HELD_OUT_CODES = 10_000
_REMEMBERED = 100 / 3  # batches, in the moments of samples
_TOLD = 0.1  # entries of a covariance for each sample that it is measured on: 173 components of 300,000
_ALLOWED = 1.05  # times the distance of samples: it is measured on so many codes


class FlowFit:
    """Whitening, couplings that start as the identity, maximum likelihood (Dinh 2017), and a rotation towards the seeds.

    y lies on a sheet of fewer dimensions than it has, on which a density has none: its likelihood could grow for ever. So
    codes get noise of a given thickness, and the likelihood of those is a fair measure: all batches are fresh, and what it
    gives on them it gives on held-out codes.

    Likelihood looks at codes that there are. What it makes of the rest of z's space it does not see: samples shrink, as
    means of what is not told by others do. So the mean and the covariance of samples are part of the loss.

    u = y in its principal components, the largest first, each of variance 1. What is calibrated afterwards is the mean, the
    variances, and the covariance of the largest components, as many as the samples tell: one of all D² entries would carry the
    error of what it is measured on.

    Attributes:
        module: All that changes.
        averages: The moving average, of which the result is made.
    """

    def __init__(self, coupling: str, original: MappingSampler, config: ConvertConfig, device: torch.device) -> None:
        self.original, self.config, self.device = original, config, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.mapping = mapping = InvertibleMapping(coupling, original.dim, original.c_dim).to(device)
        assert not isinstance(mapping.core, DenseCore)  # noqa: S101
        self.core = mapping.core
        self._whiten()
        self.average = copy.deepcopy(self.core).requires_grad_(False)
        self.start = copy.deepcopy(self.average.state_dict())
        self.drawn = MovingMoments(original.dim, _REMEMBERED * config.batch).to(device)
        self.module = nn.ModuleDict({"core": self.core, "average": self.average, "drawn": self.drawn})
        self.averages = (Average(self.core, self.average, _HALF_LIFE * config.batch),)

    def optimizer(self) -> torch.optim.Adam:
        """Adam(0.9, 0.99); the couplings of large components, of which likelihood knows all, learn three times as fast."""
        rate = self.config.coupling_learning_rate * self.core.weight_scale
        large = self.core.parameters_of_large() if isinstance(self.core, ShuffledCouplings) else []
        known = {id(parameter) for parameter in large}
        groups: list[dict[str, Any]] = [{"params": [p for p in self.core.parameters() if id(p) not in known]}]
        groups += [{"params": large, "lr": _LARGE_RATE * rate}] if large else []
        return torch.optim.Adam(groups, lr=rate, betas=(0.9, 0.99))

    def step(self, part: Microbatch) -> dict[str, Tensor]:
        """The losses of one step: nats a dimension, up to what is constant, and how far samples are from y's moments."""
        random = self._random(part.step)
        u, c = self._noised(len(part.numbers), random)
        nats = self._nats(self.core, u, c)
        drawn, _ = self.core.run(torch.randn(u.shape, generator=random, device=self.device), c)
        moments = self.drawn.apart(drawn)
        return {"loss": nats + self.config.moments_weight * moments, "nats": nats, "moments": moments}

    @torch.no_grad()
    def finish(self) -> InvertibleMapping:
        """The averaged mapping, if that is better than its start, turned towards the seeds: no Gaussian notices that.

        Better is likelier, without samples that are farther from y: likelihood alone would accept those.
        """
        u, c = self._noised(_HELD_OUT_CODES, self._random(_HELD_OUT))
        z = torch.randn(u.shape, generator=self._random(_HELD_OUT + 1), device=self.device)
        mean, root = self._moments()
        drawn = torch.linalg.solve(root, (self.average.run(z, c)[0] - mean).t()).t()
        farther = sliced_wasserstein(u, drawn) > _ALLOWED * sliced_wasserstein(u, z)  # at the start samples are z
        trained, nats = copy.deepcopy(self.average.state_dict()), self._nats(self.average, u, c)
        self.average.load_state_dict(self.start)
        if nats < self._nats(self.average, u, c) and not farther:
            self.average.load_state_dict(trained)
            self._calibrate(mean, root)
        self.mapping.core = self.average
        cross = torch.zeros(self.original.dim, self.original.dim, dtype=torch.float64)
        for i in range(_parts(self.config.kept_samples)):
            z, y, c = self.original.pairs(_PART, self._random(_ALIGNMENT + i))
            found, _ = self.average.undo(self._whitened(y, c), c)
            cross += (found.t() @ z).cpu()  # Procrustes (Schönemann 1966), of samples that are not kept
        u, _, vt = torch.linalg.svd(cross)
        self.average.rotation.copy_(u @ vt)  # no turn until now
        return self.mapping

    def _whiten(self) -> None:
        """Measures the affine step: of labels, the linear regression of y on c; of the rest, the principal components.

        Statistics are of many samples, which come and go: their error is the floor of all that follows.
        """
        moments, c_dim = Moments(), self.original.c_dim
        for i in range(_parts(self.config.statistics_samples)):
            _, y, c = self.original.pairs(_PART, self._random(_STATISTICS + i))
            moments.add(y if c is None else torch.cat([c, y], dim=1))
        mean, covariance = moments.mean[c_dim:], moments.covariance[c_dim:, c_dim:]
        shift = torch.linalg.pinv(moments.covariance[:c_dim, :c_dim], hermitian=True) @ moments.covariance[:c_dim, c_dim:]
        values, vectors = torch.linalg.eigh(covariance - moments.covariance[:c_dim, c_dim:].t() @ shift)
        values, vectors = values.flip(0), vectors.flip(1)
        thickness = self.config.noise**2 * values.clamp(min=float(values[0]) * _LEAST)
        scale = (values.clamp(min=0) + thickness).sqrt()
        mapping = self.mapping
        for buffer, value in (
            ("y_mean", mean), ("class_shift", shift), ("offset", mean - moments.mean[:c_dim] @ shift),
            ("colour", vectors * scale),
        ):  # fmt: skip
            getattr(mapping, buffer).copy_(value)
        self.inverse = (vectors / scale).to(mapping.colour)
        self.noise = (thickness.sqrt()[:, None] * vectors.t()).to(mapping.colour)

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean [D] and root of the covariance [D, D] of samples; of the smallest components, only of their variances."""
        moments = Moments()
        for i in range(_parts(self.config.statistics_samples)):
            z, _, c = self.original.pairs(_PART, self._random(_CALIBRATION + i))
            moments.add(self.average.run(z, c)[0])
        found = moments.covariance.diagonal().diag()
        told = max(LARGE, math.isqrt(int(_TOLD * self.config.statistics_samples)))
        found[:told, :told] = moments.covariance[:told, :told]
        return moments.mean.to(self.inverse), symmetric_root(found).to(self.inverse)

    def _calibrate(self, mean: Tensor, root: Tensor) -> None:
        """Gives samples of these moments the mean, the variances and, of the large components, the covariance of y."""
        mapping = self.mapping
        mapping.colour.copy_(torch.linalg.solve(root, mapping.colour, left=False))
        mapping.offset.sub_(mapping.colour @ mean)
        self.inverse = self.inverse @ root

    def _noised(self, n: int, random: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """u [n, y_dim] of fresh codes with noise, and their labels."""
        _, y, c = self.original.pairs(n, random)
        noise = torch.randn(y.shape, generator=random, device=y.device)
        return self._whitened(y + noise @ self.noise, c), c

    def _whitened(self, y: Tensor, c: Tensor | None) -> Tensor:
        """y [N, y_dim] -> u [N, y_dim]: as `InvertibleMapping.to_core`, by a product."""
        shift = self.mapping.offset if c is None else self.mapping.offset + c @ self.mapping.class_shift
        u: Tensor = (y - shift) @ self.inverse
        return u

    def _nats(self, core: AdditiveCouplings | AffineCouplings, u: Tensor, c: Tensor | None) -> Tensor:
        z, kept = core.undo(u, c)  # kept: log|det du/dz|
        nats: Tensor = (0.5 * z.square().sum(dim=1) + kept).mean() / self.original.dim
        return nats

    def _random(self, number: int) -> torch.Generator:
        return step_generator(self.config.seed, number, self.device)


def _parts(samples: int) -> int:
    """How many times `_PART` codes are drawn."""
    return -(-samples // _PART)
