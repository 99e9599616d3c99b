"""Inversion: every method by every measure on one folder, and how long the search takes for what an older build's reaches.

    python benchmarks/inversion.py f.safetensors --data faces64.zip --features squeezenet1_0.safetensors --work inversion/
    python benchmarks/inversion.py f.safetensors ... --methods invert,invert-tune --set invert-tune:steps=200
    python benchmarks/inversion.py f.safetensors ... --against ../old --against-lia old.safetensors --count 32

Each method is `lia-adapt invert` by the recipe of its name, in a process of its own; "memory" is its peak. What is finished in
the folder is kept. Then `lia-adapt compare` measures all of them, and a table in Markdown is printed. Where the data are
toyfaces:N, "factors" is the share of the variance of their known factors that the codes tell, by a regression on the encoder's
codes of the faces before; the mean over factors. With --against, the
checkout of an older build searches 500 steps from the mean, and this one, in turn, from the mean and from the encoder, until it
has that loss.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from lia_adapter import load  # noqa: E402
from lia_adapter.codes import read_codes  # noqa: E402
from lia_adapter.data import in_batches, open_images  # noqa: E402
from lia_adapter.data.toyfaces import sample_factors  # noqa: E402
from lia_adapter.editing import fit_regression  # noqa: E402
from lia_adapter.encoder import one_code  # noqa: E402

METHODS = (
    "invert", "invert-ys", "invert-projector", "invert-image2stylegan", "invert-in-domain", "invert-force-in-domain",
    "invert-multi-code", "invert-layerwise", "invert-features", "invert-tune", "invert-ladder",
)  # fmt: skip
_COLUMNS = ("mse", "psnr", "ssim", "perceptual", "lpips", "frechet", "typicality", "prior_p", "z_size", "lec")
_ROUNDS = 3
_SEARCH = """
import json, sys, time
import torch
from lia_adapter import load
from lia_adapter.data import open_images
from lia_adapter.inversion import ReconstructionLoss
from lia_adapter.metrics.networks import load_network
file, data, features, count, start, wanted, *steps = sys.argv[1:]
lia = load(file)
images = open_images(data, lia.generator.resolution, lia.generator.channels, split=f"last {count}")
x = torch.stack([images.load(i).x for i in range(int(count))])
loss = ReconstructionLoss(load_network(features))
getattr(lia, "find_coordinates", lambda: None)()  # once for any number of images
lia.invert(x[:1], steps=1, start=start, loss=loss)
for many in map(int, steps):
    begun = time.monotonic()
    found = lia.invert(x, steps=many, start=start, loss=loss)
    answer = {"steps": many, "seconds": time.monotonic() - begun, "loss": float(found.loss.mean())}
    if answer["loss"] <= float(wanted):
        break
print(json.dumps(answer))
"""


def searched(
    args: argparse.Namespace, checkout: Path, file: str, start: str, wanted: float, steps: Sequence[int]
) -> dict[str, float]:
    """The first search with so many steps whose loss is as low as wanted, or the last: its steps, seconds and loss."""
    command = [sys.executable, "-P", "-c", _SEARCH, file, args.data, args.features, str(args.count), start, str(wanted)]
    command += map(str, steps)
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(checkout)}, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def against(args: argparse.Namespace) -> None:
    """Prints the table of the two builds."""
    steps = tuple(range(50, 201, 5))
    rows: dict[str, list[dict[str, float]]] = {"before, from the mean": [], "from the mean": [], "from the encoder": []}
    for _ in range(_ROUNDS):
        old = searched(args, Path(args.against), args.against_lia, "mean", 0.0, [500])
        rows["before, from the mean"].append(old)
        for start in ("mean", "encoder"):
            known = rows[f"from the {start}"]
            tried = [int(known[0]["steps"])] if known else steps
            known.append(searched(args, ROOT, args.lia, start, old["loss"], tried))
    print("| search | steps | loss | seconds an image | of before |\n|---|---|---|---|---|")
    before = median(run["seconds"] for run in rows["before, from the mean"])
    for name, runs in rows.items():
        seconds = median(run["seconds"] for run in runs)
        print(f"| {name} | {runs[0]['steps']} | {runs[0]['loss']:.4f} | {seconds / args.count:.3f} | {seconds / before:.4f} |")


def features(args: argparse.Namespace) -> list[str]:
    """What the command line is told of the network."""
    return [] if args.features is None else ["--features", args.features]


def inverted(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Seconds and bytes of one method; its codes are in the folder."""
    out, kept = args.work / f"{name}.safetensors", args.work / f"{name}.run.json"
    if kept.exists():
        found: dict[str, float] = json.loads(kept.read_text())
        return found
    recipe, keys = ("invert", ["space=ys"]) if name == "invert-ys" else (name, [])
    keys += [given.split(":", 1)[1] for given in args.set if given.split(":", 1)[0] == name]
    command = [sys.executable, "-P", "-m", "lia_adapter", "invert", args.lia, args.data, "--recipe", recipe, "-o", str(out)]
    command += [*features(args), f"split=last {args.count}", *keys]
    begun = time.monotonic()
    child = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed.")
    found = {"seconds": time.monotonic() - begun, "peak": usage.ru_maxrss * 1024}
    kept.write_text(json.dumps(found))
    return found


def recovered(args: argparse.Namespace, names: Sequence[str]) -> dict[str, float]:
    """Of each method the mean R² of the factors of toy faces, by weights that were fitted to the encoder's codes of others."""
    lia = load(args.lia, device="cpu")
    images = open_images(args.data, lia.generator.resolution, lia.generator.channels)
    factors = torch.from_numpy(sample_factors(range(len(images)))).double()
    train, test = range(len(images) - args.count), slice(len(images) - args.count, None)
    with torch.no_grad():
        y = torch.cat([one_code(lia.encode(part.x)) for part in in_batches(images, range(len(images)), 100, lia.device)])
    fitted = fit_regression(y[: len(train)], factors[: len(train)])
    spread = factors[test].var(dim=0, correction=0)

    def told(y: Tensor) -> float:
        missed = (factors[test] - y.double() @ fitted.weights.double().T - fitted.bias.double()).square().mean(dim=0)
        return float((1 - missed / spread).mean())

    found = {name: told(read_codes(args.work / f"{name}.safetensors").tensors["y"]) for name in names}
    return {"encoder": told(y[test])} | found


def table(args: argparse.Namespace) -> None:
    """Runs the methods and prints their measures."""
    args.work.mkdir(parents=True, exist_ok=True)
    runs = {name: inverted(name, args) for name in args.methods.split(",")}
    out = args.work / "comparison.json"
    command = [sys.executable, "-P", "-m", "lia_adapter", "compare", args.lia, args.data, *features(args)]
    command += [f"--codes={name}={args.work / f'{name}.safetensors'}" for name in runs]
    command += ["--split", f"last {args.count}", "-o", str(out), *(["--lpips"] if args.lpips else [])]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    methods = json.loads(out.read_text())["methods"]
    columns = [key for key in _COLUMNS if any(key in method["figures"] for method in methods.values())]
    factors = recovered(args, list(runs)) if args.data.startswith("toyfaces:") else {}
    columns += ["factors"] if factors else []
    print(f"| method | {' | '.join(columns)} | s / image | memory, MB |\n|{'---|' * (len(columns) + 3)}")
    for name, method in methods.items():
        values = [factors.get(name) if key == "factors" else method["figures"].get(key, {}).get("value") for key in columns]
        cells = ["–" if value is None else format(value, ".4g") for value in values]
        run = runs.get(name)
        cost = ["", ""] if run is None else [f"{run['seconds'] / args.count:.2f}", f"{run['peak'] / 1e6:,.0f}"]
        print(f"| {name} | {' | '.join([*cells, *cost])} |")


def main() -> None:
    """Reads the command line and prints one of the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lia")
    parser.add_argument("--data", required=True)
    parser.add_argument("--features")
    parser.add_argument("--work", type=Path, default=Path("inversion"))
    parser.add_argument("--count", type=int, default=100, help="the last images of the data")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--set", action="append", default=[], metavar="METHOD:KEY=VALUE", help="a key of one method")
    parser.add_argument("--lpips", action="store_true")
    parser.add_argument("--against", help="checkout of an older build")
    parser.add_argument("--against-lia", help="a file that it reads")
    args = parser.parse_args()
    if args.against:
        against(args)
    else:
        table(args)


if __name__ == "__main__":
    main()
