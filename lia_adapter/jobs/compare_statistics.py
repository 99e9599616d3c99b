"""Means, intervals, differences and verdicts of what `compare` measured."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lia_adapter.jobs.compare_measures import Measured
from lia_adapter.metrics.bootstrap import LEAST, bootstrap_means
from lia_adapter.metrics.distances import frechet_of_rows
from lia_adapter.metrics.intervals import jackknife
from lia_adapter.metrics.kernel import kernel_of_rows

__all__ = ["MEASURES", "Measure", "compared", "verdicts"]

_KID_IMAGES = 2048  # evenly spread, of which all products are kept: 34 MB
_LEAST_SHARE = 2  # images for each entry of features, from which on a Fréchet distance is taken
_NO_CODES = "it has pictures and no codes"


@dataclass(frozen=True)
class Measure:
    """A column of the table.

    Attributes:
        title: Of the column.
        unit: Of its numbers.
        text: What it says, for people.
        better: 1 where more is better, -1 where less is, 0 where neither is.
        digits: As `format` takes them.
    """

    title: str
    unit: str
    text: str
    better: int
    digits: str = ".4f"


MEASURES = {
    "mse": Measure("MSE", "", "mean squared error on the scale of -1 to 1; 0 is the same image", -1),
    "psnr": Measure("PSNR", "dB", "the same of images as they are shown", 1, ".2f"),
    "ssim": Measure("SSIM", "", "likeness of structure in small windows; 1 is the same image", 1),
    "perceptual": Measure("Perceptual", "", "difference of what a network sees, without learned weights", -1),
    "lpips": Measure("LPIPS", "", "the same with the learned weights of LPIPS 0.1, at 256 pixels a side at most", -1),
    "identity": Measure("Identity", "", "cosine similarity of what a network makes of both; 1 is the same", 1),
    "frechet": Measure("Fréchet", "", "distance between the reconstructions and the images as sets of features", -1, ".4g"),
    "kid": Measure("KID", "× 1000", "kernel distance between these sets, as part of their scale; below 0 by chance", -1, ".3f"),
    "swd": Measure("SWD", "× 1000", "sliced Wasserstein distance between patches, mean over scales", -1, ".2f"),
    "typicality": Measure("Typicality", "", "rank of the codes among those of training images; 0.5 is usual", 0, ".3f"),
    "prior_p": Measure("Prior p", "", "share of the generator's own codes that are less likely; 0.5 is usual", 0, ".3f"),
    "lec": Measure(
        "LEC", "", "codes moved by one standard deviation, drawn, encoded and moved back: how far off they are, in deviations",
        -1, ".3f",
    ),
    "seconds": Measure("Time", "s", "to encode one image, on the device at hand", -1, ".3g"),
    "memory": Measure("Memory", "bytes", "in tensors at once to encode one image, weights not counted", -1, ",.0f"),
}  # fmt: skip
"""By the name that figures have in files."""

Value = dict[str, Any]
"""A value, and its 95 % interval or None."""


def compared(
    measured: Mapping[str, Measured], originals: Measured, extractor: str, left_out: Mapping[str, str]
) -> dict[str, Any]:
    """Figures of all methods, and the differences of each to the first.

    Args:
        measured: By method, in order.
        originals: The images themselves.
        extractor: Name of the features.
        left_out: Measures that no method has, and why.

    Returns:
        methods: by method, its figures and what was left_out of it; differences: to the first, by method; reference: its name.
    """
    names = list(measured)
    first = names[0]
    columns = {(name, key): values for name in names for key, values in measured[name].figures.items()}
    apart = {
        (name, key): values - columns[first, key]
        for (name, key), values in columns.items()
        if name != first and (first, key) in columns
    }
    means, gaps = _means({**{("", *k): v for k, v in columns.items()}, **{("-", *k): v for k, v in apart.items()}})
    methods: dict[str, dict[str, Any]] = {}
    differences: dict[str, dict[str, Value]] = {}
    sets = {name: _set_figures(originals.features, measured[name].features) for name in names}
    for name in names:
        figures = {key: means[name, key] for key in measured[name].figures}
        figures |= {key: _value(found, len(originals.features)) for key, found in sets[name].items()}
        figures |= {key: {"value": value, "interval": None} for key, value in measured[name].facts.items()}
        missing = [key for key in MEASURES if key not in figures and key not in left_out]
        methods[name] = {
            "figures": {key: figures[key] for key in MEASURES if key in figures},
            "left_out": {key: _reason(key, originals, extractor) for key in missing},
        }
        if name != first:
            found = {key: gap for (other, key), gap in gaps.items() if other == name}
            for key in sets[name]:
                found[key] = _value(_apart(sets[name][key], sets[first][key]), len(originals.features))
            differences[name] = {key: found[key] for key in MEASURES if key in found}
    return {"reference": first, "methods": methods, "differences": differences}


def _means(columns: Mapping[tuple[str, str, str], Tensor]) -> tuple[dict[tuple[str, str], Value], dict[tuple[str, str], Value]]:
    """Means and intervals, by one bootstrap: of figures, and of differences, whose keys begin with a minus."""
    values = torch.stack(list(columns.values()), dim=1)
    intervals = bootstrap_means(values)
    found: dict[str, dict[tuple[str, str], Value]] = {"": {}, "-": {}}
    for i, (kind, name, key) in enumerate(columns):
        between = None if intervals is None or intervals[:, i].isnan().any() else intervals[:, i].tolist()
        found[kind][name, key] = {"value": float(values[:, i].mean()), "interval": between}
    return found[""], found["-"]


def _set_figures(real: Tensor, drawn: Tensor) -> dict[str, Callable[[Tensor], float]]:
    """Rows -> distances between the sets: the Fréchet distance where there are images enough, and the kernel distance."""
    n, entries = real.shape
    found: dict[str, Callable[[Tensor], float]] = {}
    if n >= _LEAST_SHARE * entries:
        found["frechet"] = frechet_of_rows(real, drawn)
    if n > 1:
        count = min(n, _KID_IMAGES)
        spread = torch.arange(count) * n // count
        # The kernel is made for entries of about 1, such as Inception's, and those of other networks may go into the hundreds.
        scale = real.double().square().mean().sqrt().clamp(min=1e-12)
        distance, place = kernel_of_rows(real[spread] / scale, drawn[spread] / scale), torch.full([n], -1)
        place[spread] = torch.arange(count)

        def kid(rows: Tensor) -> float:
            chosen = place[rows]
            return 1e3 * distance(chosen[chosen >= 0])

        found["kid"] = kid
    return found


def _apart(a: Callable[[Tensor], float], b: Callable[[Tensor], float]) -> Callable[[Tensor], float]:
    return lambda rows: a(rows) - b(rows)


def _value(figure: Callable[[Tensor], float], n: int) -> Value:
    """With an interval by the jackknife: the bootstrap draws images twice, and sets with twins are farther apart."""
    between = jackknife(figure, n) if n >= LEAST else None
    finite = between is not None and all(map(math.isfinite, between))
    return {"value": figure(torch.arange(n)), "interval": list(between) if finite and between is not None else None}


def _reason(key: str, originals: Measured, extractor: str) -> str:
    n, entries = originals.features.shape
    if key == "frechet":
        return f"{n:,} images are fewer than {_LEAST_SHARE} for each of the {entries:,} entries of the features: {extractor}"
    if key == "kid":
        return "it needs two images"
    if key == "swd":
        return "the images are smaller than its patches of 7x7"
    if key in ("seconds", "memory"):
        return "it was made elsewhere, and its file does not say"
    return _NO_CODES


def verdicts(figures: Mapping[str, Any], count: int) -> list[str]:
    """What the differences show, in a sentence each; nothing is said to be better where the interval holds 0."""
    first, said = figures["reference"], []
    for name, differences in figures["differences"].items():
        better: list[str] = []
        worse: list[str] = []
        other: list[str] = []
        open_: list[str] = []
        for key, gap in differences.items():
            measure, between = MEASURES[key], gap["interval"]
            if not math.isfinite(gap["value"]):
                continue  # of equal images, whose PSNR is infinite
            if between is None or between[0] <= 0 <= between[1]:
                open_.append(measure.title)
            elif measure.better:
                (better if (between[0] > 0) == (measure.better > 0) else worse).append(measure.title)
            else:
                other.append(f"a {'higher' if between[0] > 0 else 'lower'} {measure.title}")
        if better:
            said.append(f"{name} is better than {first} by {_listed(better)}.")
        if worse:
            said.append(f"{name} is worse than {first} by {_listed(worse)}.")
        if other:
            said.append(
                f"Codes of {name} have {_listed(other)} than those of {first}, which is neither better nor worse by itself."
            )
        if open_:
            them = f"these {count:,} images show" if count > 1 else "one image shows"
            said.append(f"Between {name} and {first} there is no difference by {_listed(open_)} that {them}.")
    return said


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
