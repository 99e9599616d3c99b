"""How near an invertible mapping is to the original one: distribution, seeds, exactness, images.

Every distance stands beside its noise floor: the same measure between two independent sets of the ORIGINAL mapping. A
ratio of 1 means that the replacement differs from the original no more than the original from itself.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from lia_adapter.generators import Generator, Original, broadcast, in_chunks
from lia_adapter.mapping import InvertibleMapping, covariance_root
from lia_adapter.metrics.classifier import classifier_accuracy
from lia_adapter.metrics.distances import frechet_distance, sliced_wasserstein
from lia_adapter.metrics.features import Features, image_features

__all__ = ["compare_mappings", "correlation"]

Progress = Callable[[str, int, int], None]

_SEED = 1 << 40  # far from the seeds of training batches
_BATCH = 50  # images drawn at once
_LEAST, _MOST = 500, 10_000  # images a set


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
        statistics_samples: Codes for these statistics.
        image_seconds: About how long drawing and looking at images may take: 500 to 10,000 images a side.
        device: Where generator, mapping and features are.
        progress: Is told of every evaluation seed.

    Returns:
        JSON: for each measure "value", "floor", "ratio" or "excess", and the values "of each seed".
    """
    device = torch.device(device)
    original = Original(generator)
    mean, root = covariance_root(original.pairs(statistics_samples, _random(0, device))[1])
    inverse = torch.linalg.inv(root)
    images = _image_count(generator, features, image_seconds / (3 * seeds), device)

    def white(y: Tensor) -> Tensor:
        u: Tensor = (y.double() - mean) @ inverse  # at most `samples` of them
        return u.float()

    runs: list[dict[str, float]] = []
    for seed in range(seeds):
        if progress:
            progress("measure", seed, seeds)
        z, y, c = original.pairs(samples, _random(3 * seed + 1, device))
        _, again, c_again = original.pairs(samples, _random(3 * seed + 2, device))
        z_new, _, c_new = original.pairs(samples, _random(3 * seed + 3, device))
        new = in_chunks(mapping.to_y, z_new, c_new)
        same_seeds = in_chunks(mapping.to_y, z, c)
        found_z = in_chunks(mapping.to_z, y, c)
        back = in_chunks(mapping.to_y, found_z, c)
        u, u_again, u_new = white(y), white(again), white(new)
        picture = [image_features(features, _draw(generator, codes[:images])) for codes in (y, again, new)]
        runs.append(
            {
                "sliced_wasserstein": sliced_wasserstein(u, u_new, seed=seed),
                "sliced_wasserstein_floor": sliced_wasserstein(u, u_again, seed=seed),
                "frechet": frechet_distance(u, u_new),
                "frechet_floor": frechet_distance(u, u_again),
                "classifier": classifier_accuracy(u, u_new, seed=seed),
                "classifier_floor": classifier_accuracy(u, u_again, seed=seed),
                "frechet_images": frechet_distance(picture[0], picture[2]),
                "frechet_images_floor": frechet_distance(picture[0], picture[1]),
                "round_trip": float(((back - y).abs() / y.std(dim=0)).max()),
                "round_trip_z": float((in_chunks(mapping.to_z, same_seeds, c) - z).square().mean().sqrt()),
                "typical_z": float((found_z.square().mean(dim=1).sqrt()).median()),
                "seeds_white": correlation(white(same_seeds), u),
                "seeds_raw": correlation(same_seeds, y),
            }
        )
    if progress:
        progress("measure", seeds, seeds)
    result: dict[str, Any] = {
        "samples": samples,
        "evaluation_seeds": seeds,
        "images": images,
        "image_features": features.name,
    }
    for name in runs[0]:
        if not name.endswith("_floor"):
            result[name] = _summary(name, runs)
    return result


def _summary(name: str, runs: list[dict[str, float]]) -> dict[str, Any]:
    values = [run[name] for run in runs]
    value = max(values) if name == "round_trip" else sum(values) / len(values)
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
def _draw(generator: Generator, y: Tensor) -> Iterator[Tensor]:
    """Images of y [N, y_dim] without truncation, in batches [n, C, H, W]."""
    for part in y.split(_BATCH):
        yield generator.synthesis(broadcast(part, generator.num_ws), noise_mode="const")


def _image_count(generator: Generator, features: Features, seconds: float, device: torch.device) -> int:
    """How many images can be drawn and looked at in the time given, by the time that two batches take."""
    y = Original(generator).pairs(_BATCH, _random(0, device))[1]
    image_features(features, _draw(generator, y))  # the first time is slower
    start = time.monotonic()
    image_features(features, _draw(generator, y))
    spent = max(time.monotonic() - start, 1e-6)
    return int(min(max(seconds / spent * _BATCH, _LEAST), _MOST)) // _BATCH * _BATCH
