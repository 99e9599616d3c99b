"""Editing: what directions of each method do to known factors, smiles of real faces, and speed beside the usual peers.

    python benchmarks/editing.py toy demo.safetensors --judge judge.safetensors
    python benchmarks/editing.py smile faces.safetensors --data faces64.zip
    python benchmarks/editing.py speed --lia faces.safetensors --large stylegan2-1024.pkl

toy: a network that never saw a drawn picture of the generator's learns the factors of toy faces from the faces themselves
(`--judge` keeps it). Then each method finds directions, and the judge reads the factors of pictures whose codes are moved along
them: for each factor the direction whose effect correlates best with the strength, and what else changes for equal effect
(leakage), the mean over the other factors. Supervised methods are also measured with all other factors kept.

smile: a classifier of smiles learns from the photographs but the last 1,000. Directions are found on the same photographs. The
last 1,000 are encoded; those that the classifier calls not smiling, of their drawn reconstructions, are moved with
`--to`: how many reach the median score of drawn smiling ones, and what changes outside of the lower half of the face, beside random
directions that move the score as far.

speed: medians of rounds that alternate between ours and the peer.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from lia_adapter import load  # noqa: E402
from lia_adapter.budget import in_parts  # noqa: E402
from lia_adapter.data import in_batches, open_images  # noqa: E402
from lia_adapter.data.attributes import read_attributes  # noqa: E402
from lia_adapter.data.toyfaces import FACTORS, draw, sample_factors  # noqa: E402
from lia_adapter.editing import Direction, Directions, Edit, Examples, edited  # noqa: E402
from lia_adapter.editing.edits import conditional  # noqa: E402
from lia_adapter.editing.measures import STRENGTHS, leakage, measure_effects, moved_pictures  # noqa: E402
from lia_adapter.encoder import one_code  # noqa: E402
from lia_adapter.generators import MappingSampler, broadcast, draw_reduced  # noqa: E402
from lia_adapter.lia import LIA  # noqa: E402
from lia_adapter.metrics.distances import Moments  # noqa: E402

NAMES = tuple(factor.name for factor in FACTORS)
_CODES = 200
_SCORED = 10_000
UNSUPERVISED: dict[str, dict[str, Any]] = {
    "pca": {"count": 30}, "pca of maps": {"count": 30, "activation": True}, "sefa": {"count": 30}, "jacobian": {"count": 30},
    "discover": {"count": 15}, "discover-centroid": {"count": 15}, "steer": {}, "steer-closed": {"changes": "zoom,shift-x,shift-y"},
}  # fmt: skip


class Judge(nn.Module):
    """Pictures [N, 3, 32, 32] -> outputs [N, F]."""

    def __init__(self, channels: int, outputs: int, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for out, stride in ((width, 1), (width, 1), (2 * width, 2), (2 * width, 1), (4 * width, 2), (4 * width, 1), (4 * width, 2)):
            layers += [nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 16, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Standardised factors, or logits."""
        answer: Tensor = self.layers(x)
        return answer


def train_judge(x: Tensor, wanted: Tensor, loss: Callable[[Tensor, Tensor], Tensor], epochs: int) -> Judge:
    """A judge of uint8 images x [N, C, 32, 32]."""
    torch.manual_seed(0)
    judge, batch = Judge(x.shape[1], wanted.shape[1]), 128
    steps = epochs * (len(x) // batch)
    optimizer = torch.optim.Adam(judge.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for i in range(0, len(x) - batch + 1, batch):
            rows = order[i : i + batch]
            images = x[rows].float() / 127.5 - 1
            images = images + 0.03 * torch.randn_like(images)
            value = loss(judge(images), wanted[rows])
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return judge.eval().requires_grad_(False)


def toy_judge(kept: Path | None) -> tuple[Judge, Tensor]:
    """The judge of factors, and the share of each factor's variance that it tells on faces it has not seen [F]."""
    held = torch.from_numpy(sample_factors(range(2_000_000, 2_004_000)))
    faces = lambda factors: torch.from_numpy(draw(factors.numpy(), (32, 32))).permute(0, 3, 1, 2)  # noqa: E731
    factors = torch.from_numpy(sample_factors(range(1_000_000, 1_040_000)))
    mean, spread = factors.mean(dim=0), factors.std(dim=0)
    if kept is not None and kept.exists():
        judge = Judge(3, len(NAMES)).eval().requires_grad_(False)
        judge.load_state_dict(load_file(kept))
    else:
        x = torch.cat([faces(part) for part in factors.split(1000)])
        judge = train_judge(x, (factors - mean) / spread, F.mse_loss, 6)
        if kept is not None:
            save_file(judge.state_dict(), kept)
    read = torch.cat([judge(part.float() / 127.5 - 1) for part in faces(held).split(500)])
    return judge, 1 - (read - (held - mean) / spread).square().mean(dim=0)


@torch.no_grad()
def effects_of(lia: LIA, found: Sequence[Direction], judge: nn.Module) -> Tensor:
    """Attributes [K, N, strengths, F] of codes of the prior moved along directions."""
    _, y, _ = MappingSampler(lia.generator).pairs(_CODES, torch.Generator().manual_seed(7))
    ys = broadcast(y, lia.generator.num_ws, lia.generator.y_dim)
    values = []
    for one in found:
        moved = lambda part, strength, one=one: edited(part, [Edit(one, strength)], mapping=lia.mapping)  # noqa: E731
        look = partial(moved_pictures, partial(draw_reduced, lia.generator), moved, lambda x: judge(x.clamp(-1, 1)))
        values.append(torch.cat(list(in_parts(look, ys, 64))))
    return torch.stack(values)


def correlations(values: Tensor) -> Tensor:
    """Of each factor's change with the strength, over codes and strengths [K, F]."""
    s = torch.tensor(STRENGTHS, dtype=torch.float64)
    change = values.double() - values[:, :, STRENGTHS.index(0.0)][:, :, None].double()
    change = change - change.mean(dim=(1, 2), keepdim=True)
    together = torch.einsum("s,knsf->kf", s, change)
    return together / (change.square().sum(dim=(1, 2)) * s.square().sum() * values.shape[1]).sqrt().clamp(min=1e-12)


def examples(lia: LIA, judge: nn.Module, space: str) -> Examples:
    """Codes of drawn pictures, and the factors that the judge reads from them."""
    _, y, c = MappingSampler(lia.generator).pairs(_SCORED, torch.Generator().manual_seed(8))
    with torch.no_grad():
        x = in_parts(lambda part: judge(lia.synthesize(part).clamp(-1, 1)), y, 64)
        values = torch.cat(list(x))
    return Examples(lia.to_z(y, c).float() if space == "z" else y, values.double(), NAMES)


def encoded_faces(lia: LIA, count: int) -> Examples:
    """Codes that the encoder gives toy faces, and their own factors."""
    images = open_images(f"toyfaces:{count}", lia.generator.resolution, 3)
    with torch.no_grad():
        y = torch.cat([one_code(lia.encode(part.x)) for part in in_batches(images, range(count), 64)])
    names, values = read_attributes(images)
    return Examples(y, values, names)


def toy(args: argparse.Namespace) -> None:
    """Prints the table of methods and factors."""
    lia = load(args.lia)
    judge, told = toy_judge(args.judge)
    _, y, _ = MappingSampler(lia.generator).pairs(2000, torch.Generator().manual_seed(9))
    with torch.no_grad():
        spread = torch.cat([judge(lia.synthesize(part).clamp(-1, 1)) for part in y.split(64)]).std(dim=0)
    print("| | " + " | ".join(NAMES) + " |\n|---|" + "---|" * len(NAMES))
    print("| the judge's R² on new faces | " + " | ".join(f"{v:.2f}" for v in told) + " |")
    print("| spread of drawn pictures, of faces 1 | " + " | ".join(f"{v:.2f}" for v in spread) + " |", flush=True)
    drawn, faces = {space: examples(lia, judge, space) for space in ("y", "z")}, encoded_faces(lia, 10_000)
    for method in ("regress", "boundary"):
        sources: list[tuple[str, dict[str, Any]]] = [(f"{method}, drawn", {"examples": drawn["y"]})]
        sources += [(f"{method}, z, drawn", {"examples": drawn["z"], "space": "z"}), (f"{method}, encoded", {"examples": faces})]
        for title, keys in sources:
            found = Directions.find(method, lia, samples=50_000, **keys)
            line(title, lia, list(found), judge)
            space = lia.code_space(found.found[0].space)
            kept = [conditional(one, [other for other in found if other is not one], space) for one in found]
            line(f"{title}, others kept", lia, kept, judge)
    for title, more in UNSUPERVISED.items():
        method = title.split(" of ")[0]
        try:
            found = Directions.find(method, lia, samples=50_000, **more)
        except Exception as error:  # noqa: BLE001  (a table with a hole tells more than none)
            print(f"| {title} | {error} |", flush=True)
            continue
        line(title, lia, list(found), judge)


def line(title: str, lia: LIA, found: Sequence[Direction], judge: nn.Module) -> None:
    """Prints correlation / leakage of the best direction for each factor, and their means."""
    begun = time.monotonic()
    values = effects_of(lia, found, judge)
    together, effects = correlations(values).abs(), measure_effects(values)
    cells, leaks, best = [], [], []
    for k, name in enumerate(NAMES):
        own = next((i for i, one in enumerate(found) if one.name == name), int(together[:, k].argmax()))
        others = leakage(effects, [k] * len(found))[own]
        leak = float(others[torch.arange(len(NAMES)) != k].mean())
        best.append(float(together[own, k]))
        leaks.append(leak)
        cells.append(f"{best[-1]:.2f} / {leak:.2f}")
    good = sum(value >= 0.9 for value in best)
    print(f"| {title} | {' | '.join(cells)} | {good}, {sum(leaks) / len(leaks):.2f} |", flush=True)
    print(f"{title}: {time.monotonic() - begun:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("toy")
    one.add_argument("lia")
    one.add_argument("--judge", type=Path)
    given = parser.parse_args()
    toy(given)
