"""Is the z of the original mapping's own codes a sample of the prior, N(0, I)?

StyleGAN normalises its z, so that the original's y lie on a surface, where densities have no bound: a mapping can give them all
a usual z and any likelihood, and throw what lies a hair beside them, as the codes of an encoder do, thousands of standard
deviations away. So the codes get a thickness first, `NOISE`, and everything is asked of these.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lia_adapter.generators import MappingSampler
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.metrics.classifier import classifier_accuracy
from lia_adapter.metrics.distances import Moments, sliced_wasserstein
from lia_adapter.metrics.intervals import mean_interval
from lia_adapter.metrics.typicality import z_size

__all__ = ["NOISE", "PriorRun", "measure_prior", "prior_summary", "thicken"]

NOISE = 0.0315
"""Thickness that codes of the original mapping get before their z is looked at: the standard deviation of normal noise along
every axis of whitened y, where that of y itself is 1. A thousandth of y's variance: 30 dB below it."""

_PART = 4096  # codes looked at at once
_MOST_CLASSES = 16  # that are told one by one
_LOG_2PI = math.log(2 * math.pi)
_DIFFERENCES = {"z_classifier": "floor", "log_likelihood": "gaussian"}  # compared by difference, and to what; others by ratio


def thicken(y: Tensor, root: Tensor, random: torch.Generator) -> Tensor:
    """y [N, D] with noise of `NOISE` standard deviations of whitened y, float64.

    Args:
        y: Codes.
        root: Symmetric root of their covariance [D, D], float64.
        random: Of the noise, on the device of y.
    """
    noise = torch.randn(y.shape, generator=random, device=y.device).double()
    return y.double() + NOISE * noise @ root


@dataclass(frozen=True)
class PriorRun:
    """What was measured on one set of codes.

    Attributes:
        figures: By name, the value, and that of N(0, I) beside it, or of a Gaussian for the likelihood.
        sizes: |z|² / D of each code [N].
        classes: The class of each [N]; None for an unconditional generator.
    """

    figures: dict[str, tuple[float, float]]
    sizes: Tensor
    classes: Tensor | None


@torch.no_grad()
def measure_prior(
    original: MappingSampler,
    mapping: InvertibleMapping,
    mean: Tensor,
    root: Tensor,
    *,
    samples: int,
    count: int,
    random: torch.Generator,
    seed: int = 0,
    tell: Callable[[int], None] | None = None,
) -> PriorRun:
    """Looks at the z of fresh codes of the original mapping, thickened, a few thousand at a time.

    Args:
        original: Gives the codes.
        mapping: Gives their z.
        mean: Of y [D], float64.
        root: Symmetric root of y's covariance [D, D], float64.
        samples: Codes for the classifier and the projections; no more than count.
        count: Codes for all else. With few, the largest eigenvalue of the covariance of N(0, I) itself is far above 1:
            (1 + √(D / count))² (Marchenko & Pastur 1967).
        random: Of codes, noise and samples of N(0, I), on the device of the mapping.
        seed: Of the classifier and of the directions.
        tell: Is told how many codes are done.

    Returns:
        Figures, infinite where a z is not finite: z_size and z_size_95, the median and the 95 % quantile of |z|² / D; z_spread
        and z_spread_largest, the median and the largest eigenvalue of z's covariance; z_classifier, the accuracy of one that
        tells z from N(0, I); z_sliced_wasserstein, the distance to N(0, I); log_likelihood, the mean log p of the codes, in
        nats a dimension of whitened y. A conditional mapping is told the classes; the Gaussian beside it is that of all.
    """
    dim, inverse, stretch = original.dim, torch.linalg.inv(root), float(torch.linalg.slogdet(root)[1])
    spreads = Moments(), Moments()
    sizes: tuple[list[Tensor], list[Tensor]] = ([], [])
    kept: tuple[list[Tensor], list[Tensor]] = ([], [])
    likelihoods: tuple[list[Tensor], list[Tensor]] = ([], [])
    classes: list[Tensor] = []
    for first in range(0, count, _PART):
        n = min(_PART, count - first)
        _, y, c = original.pairs(n, random)
        y = thicken(y, root, random)
        z, log_det = mapping.to_z_with_log_det(y, c)
        normal = torch.randn(z.shape, generator=random, device=z.device)
        for i, codes in enumerate((z, normal)):
            spreads[i].add(codes)
            sizes[i].append(z_size(codes).cpu())
            kept[i].append(codes[: max(0, samples - first)].float())
        # In nats a dimension of whitened y, so that generators compare, too. The Gaussian is that of y and its noise.
        likelihoods[0].append(((log_det + stretch) / dim - 0.5 * (z_size(z) + _LOG_2PI)).cpu())
        white, variance = z_size((y - mean) @ inverse), 1 + NOISE**2
        likelihoods[1].append((-0.5 * (white / variance + _LOG_2PI + math.log(variance))).cpu())
        if c is not None:
            classes.append(c.argmax(dim=1).cpu())
        if tell:
            tell(first + n)
    a, normal = (torch.cat(parts) for parts in kept)
    again = torch.randn(normal.shape, generator=random, device=normal.device)
    size, usual = (torch.cat(parts).nan_to_num(nan=math.inf) for parts in sizes)
    spectra = [_spectrum(moments) for moments in spreads]
    ours, gaussian = (float(torch.cat(parts).mean()) for parts in likelihoods)
    figures = {
        "z_size": (float(size.median()), float(usual.median())),
        "z_size_95": (_quantile(size), _quantile(usual)),
        "z_spread": (float(spectra[0].median()), float(spectra[1].median())),
        "z_spread_largest": (float(spectra[0].max()), float(spectra[1].max())),
        "z_classifier": (classifier_accuracy(a, normal, seed=seed), classifier_accuracy(again, normal, seed=seed)),
        "z_sliced_wasserstein": (
            _or_infinite(sliced_wasserstein(a, normal, seed=seed)), sliced_wasserstein(again, normal, seed=seed),
        ),
        "log_likelihood": (-_or_infinite(-ours), gaussian),
    }  # fmt: skip
    return PriorRun(figures, size, torch.cat(classes) if classes else None)


def prior_summary(runs: Sequence[PriorRun], c_dim: int) -> dict[str, Any]:
    """Figures over evaluation seeds, as JSON.

    Args:
        runs: Of each seed.
        c_dim: Entries of the label, 0 for none.

    Returns:
        For each measure "value" (the mean), what it is compared to, "floor" or "gaussian", and both of each seed; the
        mean "ratio" of the two, or their difference, "excess"; and "interval", where that mean lies with a confidence of
        95 %, of at least two seeds. For up to 16 classes z_size tells also "of each class", null for one without a code.
    """
    found: dict[str, Any] = {}
    for name in runs[0].figures:
        values, others = ([run.figures[name][i] for run in runs] for i in (0, 1))
        other, how = _DIFFERENCES.get(name, "floor"), "excess" if name in _DIFFERENCES else "ratio"
        compared = [a - b if how == "excess" else a / b for a, b in zip(values, others, strict=True)]
        found[name] = {
            "value": _mean(values), "of each seed": values, other: _mean(others), f"{other} of each seed": others,
            how: _mean(compared),
        }  # fmt: skip
        if interval := mean_interval(compared):
            found[name]["interval"] = list(interval)
    if 0 < c_dim <= _MOST_CLASSES:
        sizes, classes = (
            torch.cat([run.sizes for run in runs]),
            torch.cat([c for run in runs if (c := run.classes) is not None]),
        )
        of_each = (sizes[classes == k] for k in range(c_dim))
        found["z_size"]["of each class"] = [float(part.median()) if len(part) else None for part in of_each]
    return found


def _spectrum(moments: Moments) -> Tensor:
    """Eigenvalues of a covariance, infinite where that is not finite."""
    covariance = moments.covariance
    return torch.linalg.eigvalsh(covariance) if covariance.isfinite().all() else covariance.new_tensor([math.inf])


def _quantile(x: Tensor) -> float:
    """95 %, of values that may be infinite, between two of which nothing can be interpolated."""
    return float(x.quantile(0.95, interpolation="higher"))


def _or_infinite(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
