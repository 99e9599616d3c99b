"""How near an invertible mapping is to the original one: distribution, codes of the same z, exactness, images; what its z is.

Every distance stands beside its noise floor: the same measure between two independent sets of the ORIGINAL mapping. A
ratio of 1 means that the replacement differs from the original no more than the original from itself.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lia_adapter.budget import affordable, in_parts, seconds_of
from lia_adapter.generators import (
    Generator,
    MappingSampler,
    broadcast,
    draw_reduced,
    has_lower_layers,
    in_chunks,
    pictures_at_once,
)
from lia_adapter.linalg import covariance_root
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.metrics.classifier import classifier_accuracy
from lia_adapter.metrics.distances import frechet_distance, sliced_wasserstein
from lia_adapter.metrics.features import Features, FeatureSet
from lia_adapter.metrics.images import psnr
from lia_adapter.metrics.intervals import jackknife
from lia_adapter.metrics.prior import NOISE, PriorRun, measure_prior, prior_summary, thicken
from lia_adapter.progress import Progress

__all__ = ["LEAST_IMAGES", "MOST_IMAGES", "NOISY_IMAGES", "PRIOR_SAMPLES", "compare_mappings", "correlation"]

_SEED = 1 << 40  # far from the seeds of training batches
_PRIOR = 1 << 20  # of what is measured of z; behind the streams of the other measures
LEAST_IMAGES, MOST_IMAGES = 50, 10_000
"""Images a side, whatever the time that is given."""
NOISY_IMAGES = 16
"""Images that are drawn with and without the noise that z is measured with."""
PRIOR_SAMPLES = 60_000
"""Codes whose z is looked at, at most: always as many, because the largest eigenvalue of few is large by chance."""
_LARGEST = ("round_trip", "round_trip_float32", "round_trip_z_float32")  # of all seeds; others are means over them
_ROUGH = 500  # images a side, below which an interval says how rough the figure is


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson correlation between all entries of a and b [N, D], each column centred first, in -1..1."""
    a, b = a.double() - a.double().mean(dim=0), b.double() - b.double().mean(dim=0)
    return float((a * b).sum() / (a.norm() * b.norm()))


def compare_mappings(
    generator: Generator,
    mapping: InvertibleMapping,
    features: Features,
    *,
    samples: int = 10_000,
    seeds: int = 3,
    statistics_samples: int = 60_000,
    image_seconds: float = 120.0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measures a mapping against the original one on fresh samples.

    Args:
        generator: With the original mapping.
        mapping: The replacement.
        features: For the Fréchet distance of images.
        samples: Codes a side; y is whitened by statistics of the original's own y.
        seeds: Evaluation seeds; figures are means over them.
        statistics_samples: Codes for these statistics; those of z take as many, up to `PRIOR_SAMPLES`.
        image_seconds: About how long drawing and looking at images may take, in all: 50 to 10,000 images a side, which the
            seeds share.
        device: Where generator, mapping and features are.
        progress: Is told of every evaluation seed, and of the images.

    Returns:
        JSON: for each measure "value", "floor", "ratio" or "excess", and the values "of each seed", but for images, which all
        seeds share. With fewer than 500 of these a side, "interval" is where the ratio lies with a confidence of 95 %.
        "seeds_raw" and "seeds_white" are how alike the y are that both mappings make of the same z.
        What z is measured by, "z_…" and "log_likelihood", is told at `measure_prior` and `prior_summary`; "noise" says how
        much its noise is, and is seen. Round trips are the largest errors, in standard deviations; "…_float32" go
        through a z or y that was rounded to float32, and back into such a one.
    """
    device = torch.device(device)
    original = MappingSampler(generator)
    mean, root = covariance_root(original.pairs(statistics_samples, _random(0, device))[1])
    inverse = torch.linalg.inv(root)

    def white(y: Tensor) -> Tensor:
        u: Tensor = (y.double() - mean) @ inverse  # at most `samples` of them
        return u.float()

    runs: list[dict[str, float]] = []
    codes: list[tuple[Tensor, Tensor, Tensor]] = []
    for seed in range(seeds):
        if progress:
            progress("measure", seed, seeds)
        z, y, c = original.pairs(samples, _random(3 * seed + 1, device))
        _, again, c_again = original.pairs(samples, _random(3 * seed + 2, device))
        z_new, _, c_new = original.pairs(samples, _random(3 * seed + 3, device))
        new = in_chunks(mapping.to_y, z_new, c_new)
        same_seeds = in_chunks(mapping.to_y, z, c)
        found_z = in_chunks(mapping.to_z, y, c)
        back, back_z = in_chunks(mapping.to_y, found_z, c), in_chunks(mapping.to_z, same_seeds, c)
        rounded, std = in_chunks(mapping.to_y, found_z.float(), c).float(), y.std(dim=0)
        u, u_again, u_new = white(y), white(again), white(new)
        codes.append((y[:MOST_IMAGES], again[:MOST_IMAGES], new[:MOST_IMAGES]))
        runs.append(
            {
                "sliced_wasserstein": sliced_wasserstein(u, u_new, seed=seed),
                "sliced_wasserstein_floor": sliced_wasserstein(u, u_again, seed=seed),
                "frechet": frechet_distance(u, u_new),
                "frechet_floor": frechet_distance(u, u_again),
                "classifier": classifier_accuracy(u, u_new, seed=seed),
                "classifier_floor": classifier_accuracy(u, u_again, seed=seed),
                "round_trip": float(((back - y).abs() / std).max()),
                "round_trip_float32": float(((rounded - y).abs() / std).max()),
                "round_trip_z": float((back_z - z).square().mean().sqrt()),
                "round_trip_z_float32": float((back_z.float() - z).abs().max()),
                "typical_z": float((found_z.square().mean(dim=1).sqrt()).median()),
                "seeds_white": correlation(white(same_seeds), u),
                "seeds_raw": correlation(same_seeds, y),
            }
        )
    if progress:
        progress("measure", seeds, seeds)
    result: dict[str, Any] = {"samples": samples, "evaluation_seeds": seeds, "image_features": features.name}
    for name in runs[0]:
        if not name.endswith("_floor"):
            result[name] = _summary(name, runs)
    of_z: list[PriorRun] = []
    count = min(PRIOR_SAMPLES, statistics_samples)
    for seed in range(seeds):

        def tell(done: int, before: int = seed * count) -> None:
            if progress:
                progress("measure, z", before + done, seeds * count)

        of_z.append(
            measure_prior(
                original, mapping, mean, root,
                samples=samples, count=count, random=_random(_PRIOR + seed, device), seed=seed, tell=tell,
            )
        )  # fmt: skip
    result |= {"z_samples": count, **prior_summary(of_z, original.c_dim)}
    noisy, random = codes[0][0][:NOISY_IMAGES], _random(_PRIOR + seeds, device)
    result["noise"] = _visible(generator, noisy, thicken(noisy, root, random).to(noisy))
    return result | _compare_images(generator, features, codes, image_seconds, progress)


def _summary(name: str, runs: list[dict[str, float]]) -> dict[str, Any]:
    values = [run[name] for run in runs]
    value = max(values) if name in _LARGEST else sum(values) / len(values)
    summary: dict[str, Any] = {"value": value, "of each seed": values}
    if f"{name}_floor" in runs[0]:
        floors = [run[f"{name}_floor"] for run in runs]
        floor = sum(floors) / len(floors)
        summary |= {"floor": floor, "floor of each seed": floors}
        if name == "classifier":  # an accuracy: chance is 0.5, not 0
            summary["excess"] = value - floor
        else:
            summary["ratio"] = value / floor if floor > 0 else float("inf")
    return summary


def _random(stream: int, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(_SEED + stream)


@torch.no_grad()
def _visible(generator: Generator, y: Tensor, noisy: Tensor) -> dict[str, Any]:
    """How far the noise of z's measures is seen: mean PSNR of pictures (`draw_reduced`) of y and noisy y, both [N, D]."""

    def compared(part: range) -> Tensor:
        a, b = (draw_reduced(generator, broadcast(x[part.start : part.stop], generator.num_ws)) for x in (y, noisy))
        return psnr(a, b)

    n = pictures_at_once(generator, lambda x: psnr(x, x), reduced=True)
    values = torch.cat(list(in_parts(compared, range(len(y)), n)))
    return {"sigma": NOISE, "psnr": float(values.mean()), "images": len(y)}


def _compare_images(
    generator: Generator,
    features: Features,
    codes: Sequence[tuple[Tensor, Tensor, Tensor]],
    seconds: float,
    progress: Progress | None,
) -> dict[str, Any]:
    """The Fréchet distance of images, as many as can be drawn and looked at in the time given.

    Args:
        generator: Draws them, not larger than the features need (`draw_reduced`).
        features: Look at them.
        codes: For each seed y of the original mapping, others of it, and those of the new one.
        seconds: For all.
        progress: Is told of the images.
    """

    def draw(y: Tensor) -> Tensor:
        return draw_reduced(generator, broadcast(y, generator.num_ws))

    first, n = codes[0][0], pictures_at_once(generator, features, reduced=True)
    with torch.no_grad():
        features(draw(first[:n]))  # the first time is slower
        each = seconds_of(lambda: features(draw(first[:n]))) / len(first[:n])
    count = affordable(seconds / 3, each, least=LEAST_IMAGES, most=min(MOST_IMAGES, sum(len(y) for y, _, _ in codes)))
    shares = [count // len(codes) + (i < count % len(codes)) for i in range(len(codes))]
    sides, done = [], 0
    for side in range(3):
        seen = FeatureSet(features, keep=count if count < _ROUGH else 0)
        y = torch.cat([of_seed[side][:share] for of_seed, share in zip(codes, shares, strict=True)])
        with torch.no_grad():
            for x in in_parts(draw, y, n):
                seen.add(x)
                done += len(x)
                if progress:
                    progress("measure, pictures", done, 3 * count)
        sides.append(seen)
    value, floor = (frechet_distance(sides[0].whole, sides[i].whole) for i in (2, 1))
    found: dict[str, Any] = {"value": value, "floor": floor, "ratio": value / floor if floor > 0 else float("inf")}
    original, again, new = (seen.kept for seen in sides)

    def log_ratio(picked: Tensor) -> float:
        return math.log(frechet_distance(original[picked], new[picked]) / frechet_distance(original[picked], again[picked]))

    if len(original) and floor > 0 and 0 < value < math.inf and (interval := jackknife(log_ratio, count)):
        found["interval"] = [math.exp(end) for end in interval]
    lower = has_lower_layers(generator)
    return {"images": count, "image_layers": "lower" if lower else "all", "frechet_images": found}
