"""Mappings side by side: every measure of `convert`, over several fits of each, on the checkpoints that are given.

    python benchmarks/mapping.py CHECKPOINT... [--coupling NAME ...] [--fits 3] [--features FILE] [--json FILE] [KEY=VALUE ...]

Each checkpoint is fitted with each coupling (auto where none is named), as often as --fits says, with the seeds 0, 1, 2, ...;
keys are those of recipes/convert.toml. A file that `convert` wrote is measured as it is. Figures of a fit are means over three
evaluation seeds. Prints a table in Markdown for each checkpoint: means over fits, the least and the most, and what is right.
"""

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from lia_adapter import LIA  # noqa: E402
from lia_adapter.cli.terminal import ProgressLine  # noqa: E402
from lia_adapter.config import load_recipe, parse_overrides  # noqa: E402
from lia_adapter.jobs.convert import convert_lia, open_source  # noqa: E402
from lia_adapter.jobs.run import write_json  # noqa: E402
from lia_adapter.metrics.features import Features, load_features  # noqa: E402
from lia_adapter.metrics.mapping import compare_mappings  # noqa: E402
from lia_adapter.reports.prior import number  # noqa: E402
from lia_adapter.training.convert_config import ConvertConfig  # noqa: E402

_FLOOR = "floor"  # of the same measurement: what is right is measured, too
_ROWS: tuple[tuple[str, str, str, str], ...] = (
    ("z: size, median", "z_size", "value", _FLOOR),
    ("z: size, 95 %", "z_size_95", "value", _FLOOR),
    ("z: spread, median", "z_spread", "value", _FLOOR),
    ("z: spread, largest", "z_spread_largest", "value", _FLOOR),
    ("z: classifier, above its floor", "z_classifier", "excess", "0, at most 0.02"),
    ("z: sliced Wasserstein, ratio", "z_sliced_wasserstein", "ratio", "1, at most 1.05"),
    ("likelihood, nats a dimension", "log_likelihood", "value", "gaussian"),
    ("y: sliced Wasserstein, ratio", "sliced_wasserstein", "ratio", "1, at most 1.03"),
    ("y: Fréchet, ratio", "frechet", "ratio", "1, at most 1.05"),
    ("y: classifier, above its floor", "classifier", "excess", "0, at most 0.02"),
    ("pictures: Fréchet, ratio", "frechet_images", "ratio", "1, at most 1.05"),
    ("round trip", "round_trip", "value", "at most 1e-5"),
    ("round trip, z in float32", "round_trip_float32", "value", "at most 1e-5"),
    ("z → y → z in float32", "round_trip_z_float32", "value", "at most 1e-5"),
    ("size of z without noise", "typical_z", "value", "1"),
    ("seeds, raw", "seeds_raw", "value", "1, at least 0.8"),
    ("seeds, whitened", "seeds_white", "value", "1, at least 0.5"),
)
"""Of each row its title, the measure, the figure of it, and what is right: words, or another figure of the measure."""


def fits(
    lia: LIA, couplings: Sequence[str], count: int, given: Mapping[str, Any], features: Features
) -> dict[str, list[dict[str, Any]]]:
    """Figures of each fit of a checkpoint, by coupling; of a converted file its own."""
    if lia.mapping is not None:
        config, start = load_recipe(ConvertConfig, "convert", given), time.monotonic()
        figures = compare_mappings(
            lia.generator, lia.mapping, features,
            samples=config.eval_samples, seeds=config.eval_seeds, statistics_samples=config.kept_samples,
            image_seconds=config.image_seconds, device=lia.device, progress=ProgressLine(),
        )  # fmt: skip
        fitted = lia.metrics.get("seconds", {}).get("fit", math.nan)  # that of its own machine
        return {lia.mapping.coupling: [figures | {"seconds": {"fit": fitted, "measure": round(time.monotonic() - start, 1)}}]}
    found: dict[str, list[dict[str, Any]]] = {}
    for coupling in couplings:
        recipes = (
            load_recipe(ConvertConfig, "convert", {**given, "coupling": coupling, "seed": int(given.get("seed", 0)) + i})
            for i in range(count)
        )
        found[coupling] = [convert_lia(lia, config, features=features, progress=ProgressLine()).metrics for config in recipes]
    return found


def cell(values: Sequence[float]) -> str:
    """Mean, least and most."""
    mean = number(sum(values) / len(values), ".4g")
    return mean if len(values) == 1 else f"{mean} ({number(min(values), '.4g')} to {number(max(values), '.4g')})"


def table(name: str, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Markdown: a row for each measure, a column for each coupling."""
    lines = [f"{name}:", "", f"| | {' | '.join(found)} | right |", "|---" * (len(found) + 2) + "|"]
    for title, measure, figure, right in _ROWS:
        cells = [cell([run[measure][figure] for run in runs]) for runs in found.values()]
        measured = [run[measure][right] for runs in found.values() for run in runs if right in run[measure]]
        beside = f"{'above ' if right == 'gaussian' else ''}{sum(measured) / len(measured):.4g}" if measured else right
        lines.append(f"| {title} | {' | '.join(cells)} | {beside} |")
    lines.append(f"| seconds of the fit | {' | '.join(cell([run['seconds']['fit'] for run in r]) for r in found.values())} | |")
    return "\n".join(lines)


def main() -> None:
    """Fits, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="CHECKPOINT or KEY=VALUE")
    parser.add_argument("--coupling", nargs="+", default=["auto"], metavar="NAME")
    parser.add_argument("--fits", type=int, default=3)
    parser.add_argument("--features", type=Path, help="torchvision's squeezenet1_0, to compare pictures by; else pixels")
    parser.add_argument("--json", type=Path)
    args = parser.parse_intermixed_args()
    if args.fits < 1:
        parser.error("--fits must be at least 1")
    given = parse_overrides([text for text in args.inputs if "=" in text])
    results = {}
    for source in (text for text in args.inputs if "=" not in text):
        results[source] = fits(open_source(source), args.coupling, args.fits, given, load_features(args.features))
        print(table(Path(source).name, results[source]), end="\n\n", flush=True)
        if args.json is not None:
            write_json(args.json, results)


if __name__ == "__main__":
    main()
