"""Is the z of an encoded photograph one that the prior would draw? The encoder's own, the nearest usual one, and a sample.

    python benchmarks/photographs.py LIA --data faces64.zip [--split "last 1000"] [--count 200] [--json FILE]

LIA is a file with an encoder. The encoder's answers are measured on all images of the split, codes that are searched for
together, under the prior's moments, on at most 400, and what takes a second and more each on the first of them (--count).
Beside each figure stands that of as many samples of N(0, I). Then: how well scores tell the photographs from the same upside
down, from noise and from drawn shapes (AUROC). Prints tables in Markdown.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.encoder import shapes  # noqa: E402
from lia_adapter import LIA, load  # noqa: E402
from lia_adapter.cli.terminal import ProgressLine  # noqa: E402
from lia_adapter.data import in_batches, open_images  # noqa: E402
from lia_adapter.encoder import one_code  # noqa: E402
from lia_adapter.generators import broadcast  # noqa: E402
from lia_adapter.inversion import Posterior, optimise, quick_z, search_coordinates  # noqa: E402
from lia_adapter.jobs.run import write_json  # noqa: E402
from lia_adapter.metrics.classifier import classifier_accuracy  # noqa: E402
from lia_adapter.metrics.images import mse  # noqa: E402
from lia_adapter.metrics.ranking import auroc  # noqa: E402
from lia_adapter.metrics.typicality import z_size  # noqa: E402

_BATCH = 100
_ROUNDS, _STEPS, _WEIGHT = 30, 6, 0.01


def figures(z: Tensor, errors: Tensor, own: Tensor) -> dict[str, float]:
    """Of the z of n photographs [n, D], their squared errors [n], and those of the encoder's own codes [n]."""
    random = torch.Generator().manual_seed(0)
    normal, again = torch.randn(2, *z.shape, generator=random, dtype=z.dtype).unbind()
    size, usual = z_size(z), z_size(normal)

    def largest(x: Tensor) -> float:
        return float(torch.linalg.eigvalsh(torch.cov(x.t()))[-1])

    def told(x: Tensor) -> float:
        return sum(classifier_accuracy(x.float(), normal.float(), seed=seed) for seed in range(3)) / 3

    return {
        "images": len(z), "size, median": float(size.median()), "of N(0, I)": float(usual.median()),
        "size, 95 %": float(size.quantile(0.95)), "largest eigenvalue": largest(z), "largest of N(0, I)": largest(normal),
        "told from N(0, I), above chance": told(z) - told(again), "mse": float(errors.mean()),
        "mse / encoder's": float(errors.mean() / own.mean()),
    }  # fmt: skip


def by_the_prior(lia: LIA, x: Tensor, c: Tensor | None) -> dict[str, tuple[Tensor, Tensor]]:
    """z and squared errors of the nearest usual codes and of a sample each."""
    assert lia.mapping is not None
    progress = ProgressLine()
    found: dict[str, tuple[list[Tensor], list[Tensor]]] = {"nearest usual": ([], []), "one sample": ([], [])}
    for i in range(len(x)):
        progress("photographs", i, len(x))
        random = torch.Generator().manual_seed(i)
        label = None if c is None else c[i : i + 1]
        posterior = Posterior(lia.generator, lia.mapping, lia.encode(x[i : i + 1]), x[i : i + 1], label, random)
        for name, answers in (("nearest usual", posterior.usual()), ("one sample", posterior.samples(1, random))):
            found[name][0].append(answers.z)
            found[name][1].append(answers.mse)
    return {name: (torch.cat(z), torch.cat(errors)) for name, (z, errors) in found.items()}


def searched(lia: LIA, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
    """z and squared errors of the best codes whose z, taken together, have the prior's second moments: what an encoder lacks.

    L-BFGS from the encoder's codes on the squared error and zᵀSz / D, S the moments of all z: moving ones, as theirs change.
    """
    g, mapping, progress = lia.generator, lia.mapping, ProgressLine()
    assert mapping is not None
    mean, root = lia.whitening()
    matrix = search_coordinates(g, root, seconds=60)
    offsets = (one_code(torch.cat([lia.encode(part) for part in x.split(_BATCH)])) - mean) @ torch.linalg.inv(matrix)
    labels = [None] * len(x.split(_BATCH)) if c is None else list(c.split(_BATCH))
    moments: Tensor | None = None
    for number in range(_ROUNDS):
        progress("search among usual codes", number, _ROUNDS)
        z = torch.cat([quick_z(mapping, mean + a @ matrix, b) for a, b in zip(offsets.split(_BATCH), labels, strict=True)])
        seen = z.t() @ z / len(z)
        moments = seen if moments is None else torch.lerp(moments, seen, 0.3)
        found = []
        for a, target, label in zip(offsets.split(_BATCH), x.split(_BATCH), labels, strict=True):

            def losses(a: Tensor, target: Tensor = target, label: Tensor | None = label, moments: Tensor = moments) -> Tensor:
                y = mean + a @ matrix
                z = quick_z(mapping, y, label)
                return mse(lia.synthesize(y), target) + _WEIGHT * ((z @ moments) * z).mean(dim=1)

            found.append(optimise(losses, a, steps=_STEPS)[0])
        offsets = torch.cat(found)
    y = mean + offsets @ matrix
    errors = torch.cat([mse(lia.synthesize(a), b) for a, b in zip(y.split(_BATCH), x.split(_BATCH), strict=True)])
    return lia.to_z(y, c), errors


def scores(lia: LIA, x: Tensor, c: Tensor | None, error: float) -> dict[str, Tensor]:
    """How usual photographs are [N], by each score: higher is more usual."""
    codes = torch.cat([lia.encode(part) for part in x.split(_BATCH)])
    y = one_code(codes)
    z = lia.to_z(y, c)
    drawn = torch.cat([lia.synthesize(part) for part in broadcast(codes, lia.generator.num_ws).split(_BATCH)])
    assert lia.mapping is not None and lia.typicality is not None
    missed = x[0].numel() * mse(drawn, x).double() / error  # |x - x̃|² / s
    return {
        "typicality (rank among training codes)": -lia.typicality.distance(y).double(),
        "size of z": -z_size(z),
        "likelihood of the code": lia.mapping.log_prob(y, c),
        "likelihood of code and picture": -0.5 * (z.square().sum(dim=1) + missed),
    }


def table(rows: dict[str, dict[str, float]], first: str) -> str:
    """Markdown: a row for each name, a column for each figure."""
    columns = list(next(iter(rows.values())))
    lines = [f"| {first} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    return "\n".join(
        lines + [f"| {name} | {' | '.join(f'{row[column]:.4g}' for column in columns)} |" for name, row in rows.items()]
    )


@torch.no_grad()
def main() -> None:
    """Encodes, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lia", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="last 1000")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    lia = load(args.lia)
    g = lia.generator
    images = open_images(args.data, g.resolution, g.channels, split=args.split, c_dim=g.c_dim)
    batches = list(in_batches(images, range(len(images)), _BATCH))
    x = torch.cat([batch.x for batch in batches])
    c = None if not g.c_dim else torch.cat([batch.c for batch in batches if batch.c is not None])
    encoded: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]] = lambda x, c: (  # noqa: E731
        lia.to_z(one_code(codes := torch.cat([lia.encode(part) for part in x.split(_BATCH)])), c),
        torch.cat([mse(lia.synthesize(a), b) for a, b in zip(codes.split(_BATCH), x.split(_BATCH), strict=True)]),
    )
    z, own = encoded(x, c)
    found = {"the encoder's code": figures(z, own, own)}
    n = min(args.count, len(x))
    found[f"the same, first {n}"] = figures(z[:n], own[:n], own[:n])
    most = min(400, len(x))
    some, errors = searched(lia, x[:most], None if c is None else c[:most])
    found[f"searched together, first {most}"] = figures(some, errors, own[:most])
    for name, (some, errors) in by_the_prior(lia, x[:n], None if c is None else c[:n]).items():
        found[name] = figures(some, errors, own[:n])
    print(table(found, "z of photographs"), end="\n\n", flush=True)

    random = torch.Generator().manual_seed(0)
    noise = torch.rand(len(x), 1, *g.resolution, generator=random).expand_as(x) * 2 - 1
    kinds = {"upside down": x.flip(2), "noise": noise, "shapes": shapes(len(x), g.resolution, g.channels)}
    error = float(own.mean())
    usual = scores(lia, x, c, error)
    told: dict[str, dict[str, float]] = {name: {} for name in usual}
    for kind, others in kinds.items():
        for name, values in scores(lia, others, c, error).items():
            told[name][kind] = auroc(usual[name], values)
    print(table(told, "AUROC of photographs against"), flush=True)
    if args.json is not None:
        result: dict[str, Any] = {"photographs": found, "auroc": told}
        write_json(args.json, result)


if __name__ == "__main__":
    main()
