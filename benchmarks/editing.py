"""Editing: what directions of each method do to known factors, smiles of real faces, and speed beside the usual peers.

    python benchmarks/editing.py toy demo.safetensors --judge judge.safetensors
    python benchmarks/editing.py smile faces.safetensors --data faces64.zip --features squeezenet1_0.safetensors
    python benchmarks/editing.py speed faces.safetensors

toy: a network that never saw a drawn picture of the generator's learns the factors of toy faces from the faces themselves
(`--judge` keeps it). Then each method finds directions, and the judge reads the factors of pictures whose codes are moved
along them, up to three standard deviations: for each factor the direction whose effect correlates best with the strength, and
what else changes for equal effect (leakage), the mean over the other factors. Supervised methods are also measured with all
other factors kept.

smile: a classifier of smiles learns from the photographs but the last 1,000, and directions are found on the codes of the
same. The last 1,000 are encoded; those that do not smile are moved until the classifier gives their picture the median score of
the reconstructions of those that do: how many get there, and what changes outside of the mouth (rows 19 to 32 of 32), beside
random directions that move the score as far.

speed: principal components of a million codes beside scikit-learn's IncrementalPCA as GANSpace calls it, and `edit` of 1,000
codes beside bare synthesis; rounds that alternate, medians.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy
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
from lia_adapter.jobs.drawing import Coded  # noqa: E402
from lia_adapter.jobs.edit_plan import EditPlan  # noqa: E402
from lia_adapter.lia import LIA  # noqa: E402
from lia_adapter.metrics.networks import load_network, perceptual_distance  # noqa: E402
from lia_adapter.metrics.scorers import Scorer  # noqa: E402

NAMES = tuple(factor.name for factor in FACTORS)
_CODES = 200
_SCORED = 10_000
UNSUPERVISED: dict[str, dict[str, Any]] = {
    "pca": {"count": 30}, "pca of maps": {"count": 30, "activation": True}, "sefa": {"count": 30}, "jacobian": {"count": 30},
    "discover": {"count": 15}, "discover-centroid": {"count": 15}, "steer": {}, "steer-closed": {},
}  # fmt: skip


class Judge(nn.Module):
    """Pictures [N, 3, 32, 32] -> outputs [N, F]."""

    def __init__(self, channels: int, outputs: int, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for out, stride in (
            (width, 1),
            (width, 1),
            (2 * width, 2),
            (2 * width, 1),
            (4 * width, 2),
            (4 * width, 1),
            (4 * width, 2),
        ):
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
            value.backward()
            optimizer.step()
            schedule.step()
    return judge.eval().requires_grad_(False)


def toy_judge(kept: Path | None) -> tuple[Judge, Tensor]:
    """The judge of factors, and the share of each factor's variance that it tells on faces it has not seen [F]."""
    held = torch.from_numpy(sample_factors(range(2_000_000, 2_004_000)))

    def faces(factors: Tensor) -> Tensor:
        return torch.from_numpy(draw(factors.numpy(), (32, 32))).permute(0, 3, 1, 2)

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

        def draw(part: Tensor, strength: float, one: Direction = one) -> Tensor:
            return draw_reduced(lia.generator, edited(part, [Edit(one, strength)], mapping=lia.mapping))

        look = partial(moved_pictures, draw, lambda x: judge(x.clamp(-1, 1)))
        values.append(torch.cat(list(in_parts(look, ys, 64))))
    return torch.stack(values)


def correlations(values: Tensor) -> Tensor:
    """Of each factor's change with the strength, over codes and strengths [K, F]."""
    s, middle = torch.tensor(STRENGTHS, dtype=torch.float64), STRENGTHS.index(0.0)
    change = values.double() - values[:, :, middle][:, :, None].double()
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
        sources += [
            (f"{method}, z, drawn", {"examples": drawn["z"], "space": "z"}),
            (f"{method}, encoded", {"examples": faces}),
        ]
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


def photographs(lia: LIA, data: str, split: str) -> tuple[Tensor, Tensor]:
    """Images [N, C, H, W] in [-1, 1] and whether each smiles [N]."""
    images = open_images(data, lia.generator.resolution, lia.generator.channels, split=split)
    parts = list(in_batches(images, range(len(images)), 500))
    numbers = [number for part in parts for number in part.numbers]
    return torch.cat([part.x for part in parts]), read_attributes(images)[1][numbers, 0]


@torch.no_grad()
def smile(args: argparse.Namespace) -> None:
    """Prints how many faces can be made to smile, and what else changes."""
    lia, network = load(args.lia), load_network(args.features)
    x, wanted = photographs(lia, args.data, "not last 1000")
    with torch.enable_grad():
        pixels = (x * 127.5 + 127.5).round().to(torch.uint8)
        judge = train_judge(pixels, wanted[:, None].float(), F.binary_cross_entropy_with_logits, 8)
    held, told = photographs(lia, args.data, "last 1000")

    def score(x: Tensor) -> Tensor:
        return torch.cat([judge(part.clamp(-1, 1))[:, 0] for part in x.split(200)])

    def encode(x: Tensor) -> Tensor:
        return torch.cat([one_code(lia.encode(part)) for part in x.split(200)])

    accuracy = ((score(held) > 0) == (told > 0)).float().mean()
    y, seen = encode(held), encode(x)
    redrawn = torch.cat([lia.synthesize(part) for part in y.split(200)])
    scores = score(redrawn)
    low, high = float(scores[told == 0].median()), float(scores[told == 1].median())
    print(f"classifier: {accuracy:.3f} right on new photographs; drawn, not smiling {low:.2f}, smiling {high:.2f} (medians)")
    start = y[told == 0]
    kept = torch.ones(lia.generator.resolution)
    kept[round(19 / 32 * len(kept)) :] = 0  # without the mouth
    before = redrawn[told == 0]

    def moved(direction: Direction) -> tuple[float, float]:
        """Share of the faces that reach the score, and how far features are moved outside of the mouth, of those."""
        plan = EditPlan(lia, Directions("", (direction,)), {}, {direction.name: high}, judge=Scorer("smiles", judge, Path()))
        found = [one for part in start.split(100) for one in plan(Coded(part, {}, None, range(len(part))))]
        there = torch.tensor([one.reached for one in found])
        after = torch.stack([one.after for one in found])
        apart = torch.cat([
            perceptual_distance(network, a * kept, b * kept) for a, b in zip(after.split(200), before.split(200), strict=True)
        ])  # fmt: skip
        return float(there.float().mean()), float(apart[there].mean()) if there.any() else float("nan")

    print("| direction | reach it | outside of the mouth |\n|---|---|---|")
    for space in ("y", "z"):
        codes = seen if space == "y" else torch.cat([lia.to_z(part).float() for part in seen.split(1000)])
        for method in ("boundary", "regress", "difference"):
            examples = Examples(codes, wanted[:, None].double(), ("smile",))
            (direction,) = Directions.find(method, lia, examples=examples, space=space, samples=50_000)
            share, apart = moved(direction)
            print(f"| {method}, {space} | {share:.3f} | {apart:.4f} |", flush=True)
        random, others = torch.Generator().manual_seed(0), []
        white = lia.code_space(space)
        for i in range(args.random):
            step = white.step(white.coloured(torch.randn(len(white.mean), generator=random)))
            others.append(moved(Direction(f"random-{i}", space, step, "random")))
        share, apart = (sum(values) / len(values) for values in zip(*others, strict=True))
        print(f"| random, {space}, mean of {args.random} | {share:.3f} | {apart:.4f} |", flush=True)


_PCA = """
import resource, sys, time
import numpy as np
import torch
which, count, dim = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
def batches():
    random = np.random.default_rng(0)
    turn = np.linalg.qr(random.standard_normal((dim, dim)))[0] * np.geomspace(1, 0.01, dim)[:, None]
    n = 2000 if which == "theirs" else 10000  # the former is GANSpace's
    for _ in range(0, count, n):
        yield random.standard_normal((n, dim), dtype=np.float32) @ turn.astype(np.float32)
if which != "theirs":
    from lia_adapter.editing.pca import principal_components
    from lia_adapter.metrics.distances import Moments
    seconds, moments = 0.0, Moments(torch.float32 if which == "ours" else torch.float64)
    for part in batches():
        start = time.monotonic(); moments.add(torch.from_numpy(part)); seconds += time.monotonic() - start
    start = time.monotonic(); _, found = principal_components(moments.covariance, 80); seconds += time.monotonic() - start
    found = found.numpy()
else:
    from sklearn.decomposition import IncrementalPCA
    seconds, pca = 0.0, IncrementalPCA(n_components=80, whiten=False, batch_size=max(100, 160))
    for part in batches():
        start = time.monotonic(); pca.partial_fit(part); seconds += time.monotonic() - start
    found = pca.components_
np.save(sys.argv[4], found)
print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def speed(args: argparse.Namespace) -> None:
    """Prints the table of times."""
    with tempfile.TemporaryDirectory() as folder:
        times: dict[str, list[float]] = {"ours": [], "theirs": [], "exact": []}
        memory: dict[str, float] = {}
        for _ in range(args.rounds):
            for which, taken in times.items():
                command = [sys.executable, "-c", _PCA, which, str(args.codes), "512", f"{folder}/{which}.npy"]
                done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
                seconds, memory[which] = map(float, done.stdout.split())
                taken.append(seconds)
        found = [F.normalize(torch.from_numpy(numpy.load(f"{folder}/{which}.npy")).double(), dim=1) for which in times]
    alike = [(part * found[2]).sum(dim=1).abs() for part in found[:2]]
    a, b = median(times["ours"]), median(times["theirs"])
    print(
        f"PCA of {args.codes:,} codes: ours {a:.2f} s, {memory['ours']:.0f} MB; IncrementalPCA {b:.2f} s, "
        f"{memory['theirs']:.0f} MB; x {b / a:.1f}; |cos| with the exact components, least of 10 and of 80: ours "
        f"{alike[0][:10].min():.5f}, {alike[0].min():.5f}; theirs {alike[1][:10].min():.5f}, {alike[1].min():.5f}",
        flush=True,
    )
    lia = load(args.lia)
    _, y, _ = MappingSampler(lia.generator).pairs(1000, torch.Generator().manual_seed(0))
    directions = Directions.find("pca", lia, count=3, samples=20_000)
    plan = EditPlan(lia, directions, {"pca-1": 2.0, "pca-2": -1.0}, {}, keep=("pca-3",))
    plan.look = False  # as after the first 64
    n = lia.at_once("draw")
    bare, with_edits = [], []
    with torch.no_grad():
        for _ in range(args.rounds + 1):
            start = time.monotonic()
            for _ in in_parts(lambda part: lia.synthesize(part).cpu(), y, n):
                pass
            bare.append(time.monotonic() - start)
            start = time.monotonic()
            for _ in in_parts(lambda part: plan(Coded(part, {}, None, range(1000, 1000 + len(part)))), y, n):
                pass
            with_edits.append(time.monotonic() - start)
    a, b = median(bare[1:]), median(with_edits[1:])  # the first are slower
    print(f"1,000 codes: synthesis {a:.2f} s, edit {b:.2f} s: x {a / b:.2f} of its speed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("toy")
    one.add_argument("lia")
    one.add_argument("--judge", type=Path)
    two = commands.add_parser("smile")
    two.add_argument("lia")
    two.add_argument("--data", required=True)
    two.add_argument("--features", required=True)
    two.add_argument("--random", type=int, default=5, help="random directions to compare with")
    three = commands.add_parser("speed")
    three.add_argument("lia")
    three.add_argument("--codes", type=int, default=1_000_000)
    three.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    {"toy": toy, "smile": smile, "speed": speed}[given.command](given)
