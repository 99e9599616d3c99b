"""Encoding against optimisation, y against z: the paper's claim, in one table from one run.

    python benchmarks/encoder.py LIA --data faces.zip --features squeezenet1_0.safetensors [--work DIR] [key=value ...]

LIA is a converted file. On the last 1,000 images, which no training sees: (a) an encoder into y; (b) the same encoder and
budget into z, through the original mapping (the paper's entangled baseline); (g) into ys; and on the first 100 of them,
optimisation: (c) in y from the mean, 500 steps; (d) the same from random codes; (e) from the encoder, 100 steps; (f) in z,
500 steps. Then how well the encoder's y recovers the y of drawn images, and how well typicality tells faces from other
pictures. Trainings are kept in DIR and resumed. Seconds an image are of whole batches.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from lia_adapter import LIA, InvertibleMapping, load, wrap  # noqa: E402
from lia_adapter.cli.terminal import ProgressLine  # noqa: E402
from lia_adapter.config import load_recipe, parse_overrides  # noqa: E402
from lia_adapter.data import in_order, open_images  # noqa: E402
from lia_adapter.generators import Generator, broadcast  # noqa: E402
from lia_adapter.inversion import ReconstructionLoss  # noqa: E402
from lia_adapter.jobs.train_encoder import train_encoder_lia  # noqa: E402
from lia_adapter.metrics.images import mse  # noqa: E402
from lia_adapter.metrics.networks import FeatureNetwork, load_network, perceptual_distance  # noqa: E402
from lia_adapter.metrics.ranking import auroc  # noqa: E402
from lia_adapter.metrics.recovery import KnownAnswers  # noqa: E402
from lia_adapter.metrics.swd import image_swd  # noqa: E402
from lia_adapter.metrics.typicality import z_size  # noqa: E402
from lia_adapter.training.encoder_config import EncoderConfig  # noqa: E402

_TEST, _FEW = 1000, 100
_BATCH = 100


class Entangled(nn.Module):
    """The same generator seen from z: its "y" is z, and its synthesis runs the original mapping first."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.inner = generator

    def mapping(self, z: Tensor) -> Tensor:
        """The identity."""
        return z

    def synthesis(self, ys: Tensor) -> Tensor:
        """z of every layer [N, 1, z_dim], all alike -> images."""
        return self.inner.synthesis(broadcast(self.inner.mapping(ys[:, 0]), self.inner.num_ws))


def entangled(lia: LIA) -> LIA:
    """A LIA whose codes are the original mapping's z."""
    dim = lia.generator.z_dim
    module = Entangled(lia.generator)
    generator = wrap(module, mapping="mapping", synthesis="synthesis", z_dim=dim, y_dim=dim, num_ws=1)
    return LIA(generator, InvertibleMapping("affine", y_dim=dim)).eval().requires_grad_(False)


def trained(lia: LIA, name: str, args: argparse.Namespace, **overrides: object) -> LIA:
    """Trains an encoder, or takes it from DIR if it was trained before."""
    out, folder = args.work / f"{name}.safetensors", args.work / name
    if out.exists():
        return load(out, generator=None if lia.family else lia.generator)
    settings = {"split": f"not last {_TEST}", "features": str(args.features)} | parse_overrides(args.overrides) | overrides
    config = load_recipe(EncoderConfig, args.recipe, settings)
    made = train_encoder_lia(lia, args.data, config, folder=folder, progress=ProgressLine())
    made.save(out)
    return made


def shapes(n: int, size: tuple[int, int], channels: int) -> Tensor:
    """Pictures of random ellipses and rectangles, gray."""
    random, found = np.random.default_rng(0), []
    for _ in range(n):
        picture = Image.new("L", size[::-1], int(random.integers(256)))
        pen = ImageDraw.Draw(picture)
        for _ in range(4):
            (left, right), (top, bottom) = (sorted(random.integers(0, side, 2).tolist()) for side in size[::-1])
            draw = pen.ellipse if random.random() < 0.5 else pen.rectangle
            draw((left, top, right, bottom), fill=int(random.integers(256)))
        found.append(torch.from_numpy(np.asarray(picture, dtype=np.float32) / 127.5 - 1))
    return torch.stack(found)[:, None].expand(-1, channels, -1, -1)


def measure(name: str, x: Tensor, draw: Callable[[Tensor], Tensor], network: FeatureNetwork) -> dict[str, object]:
    """One row: draws the images x again and compares."""
    start = time.perf_counter()
    drawn = torch.cat([draw(part) for part in x.split(_BATCH)])
    seconds = (time.perf_counter() - start) / len(x)
    with torch.no_grad():
        distance = torch.cat(
            [perceptual_distance(network, a, b) for a, b in zip(drawn.split(_BATCH), x.split(_BATCH), strict=True)]
        )
        row = {
            "method": name, "images": len(x), "mse": float(mse(drawn, x).mean()), "lpips": float(distance.mean()),
            "swd": image_swd(drawn, x)["mean"], "seconds": seconds,
        }  # fmt: skip
    print(f"{name:<42}{len(x):>6}{row['mse']:>10.5f}{row['lpips']:>9.4f}{row['swd']:>9.2f}{seconds:>12.6f}", flush=True)
    return row


def main() -> None:
    """Trains, measures, prints the table, and writes it to DIR/table.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lia", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--recipe", default="encoder-cpu")
    parser.add_argument("--work", type=Path, default=Path("benchmark-encoder"))
    args = parser.parse_intermixed_args()
    args.work.mkdir(exist_ok=True)
    torch.set_grad_enabled(False)

    lia = load(args.lia)
    g = lia.generator
    in_y, in_z, in_ys = (
        trained(lia, "y", args),
        trained(entangled(lia), "z", args),
        trained(lia, "ys", args, space="ys"),
    )
    test = open_images(args.data, g.resolution, g.channels, split=f"last {_TEST}")
    x = torch.stack([item.x for item in in_order(test.load, range(len(test))) if item is not None])
    few, network = x[:_FEW], load_network(args.features)
    loss = ReconstructionLoss(network)

    def searched(of: LIA, steps: int, space: str, start: str) -> Callable[[Tensor], Tensor]:
        return lambda part: of.invert(part, steps=steps, space=space, start=start, loss=loss).images

    print(f"{'method':<42}{'images':>6}{'MSE':>10}{'LPIPS':>9}{'SWD':>9}{'s/image':>12}")
    table = []
    for images in (x, few):
        table.append(measure("(a) encoder into y", images, in_y.reconstruct, network))
        table.append(measure("(b) encoder into z, original mapping", images, in_z.reconstruct, network))
        table.append(measure("(g) encoder into ys", images, in_ys.reconstruct, network))
    table.append(measure("(c) y from the mean, 500 steps", few, searched(in_y, 500, "y", "mean"), network))
    table.append(measure("    y from the mean, 100 steps", few, searched(in_y, 100, "y", "mean"), network))
    table.append(measure("(d) y from random, 500 steps", few, searched(in_y, 500, "y", "random"), network))
    table.append(measure("(e) y from the encoder, 100 steps", few, searched(in_y, 100, "y", "encoder"), network))
    # A search in z goes through the original mapping, as it does for whoever has no LIA.
    z_start = LIA(in_z.generator, in_z.mapping)
    table.append(measure("(f) z of the original from 0, 500 steps", few, searched(z_start, 500, "z", "mean"), network))
    table.append(measure("    z of the LIA from 0, 500 steps", few, searched(in_y, 500, "z", "mean"), network))

    encoder = in_y.encoder
    assert encoder is not None and in_y.typicality is not None
    recovery = KnownAnswers(g, in_y.whitening()[1], seed=7).test(in_y.encode, 1000)
    y = torch.cat([in_y.encode(part) for part in x.split(_BATCH)])
    again = in_y.to_y(in_y.to_z(y))
    recovery["round_trip"] = float((again - y).abs().max())
    print("recovery", {k: round(v, 8) if isinstance(v, float) else v for k, v in recovery.items()})

    random = torch.Generator().manual_seed(0)
    noise = torch.rand(len(x), 1, *g.resolution, generator=random).expand_as(x) * 2 - 1
    kinds = {"upside down": x.flip(2), "noise": noise, "shapes": shapes(len(x), g.resolution, g.channels)}
    typicality: dict[str, dict[str, float]] = {}
    for kind, images in kinds.items():
        other = torch.cat([in_y.encode(part) for part in images.split(_BATCH)])
        typicality[kind] = {
            "typicality": auroc(-in_y.typicality.distance(y), -in_y.typicality.distance(other)),
            "z_size": auroc(-z_size(in_y.to_z(y)), -z_size(in_y.to_z(other))),
            "named": float((in_y.typicality(other) < 0.01).double().mean()),
        }
    typicality["faces"] = {"named": float((in_y.typicality(y) < 0.01).double().mean())}
    print("AUROC of faces against", {k: {n: round(v, 4) for n, v in d.items()} for k, d in typicality.items()})
    result = {"table": table, "recovery": recovery, "typicality": typicality, "threads": torch.get_num_threads()}
    (args.work / "table.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
