"""The paper's comparisons, every row trained here with one budget: VAE/GAN, ALI, MSE inversion, StyleGAN + encoder, LIA.

    python benchmarks/comparisons.py [--data toyfaces] [--features squeezenet1_0.safetensors] [--work DIR] [key=value ...]

All have StyleGAN2's networks at the sizes of the recipe `toyfaces32`, see as many images, and encode with a network of the
same width; overrides are those of that recipe. Methods with two stages spend three quarters of their images on the first. On
images that no training saw: the Fréchet distance of reconstructions and of samples (features named), sliced Wasserstein
distance, MSE; then path lengths in z and y. Trainings are kept in DIR and resumed. Also in DIR: table.json, pictures, the
curves of the two mappings, and the gradient study of the paper's section 6.5: how much the encoder's gradient varies from batch
to batch, layer by layer, when it learns y (LIA) and when it learns z through a mapping, by sampling around it (variational).
"""

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.curves import plot  # noqa: E402
from benchmarks.encoder import entangled  # noqa: E402
from benchmarks.rivals import Ali, Rival, VaeGan  # noqa: E402
from lia_adapter import LIA, load  # noqa: E402
from lia_adapter.cli.terminal import ProgressLine  # noqa: E402
from lia_adapter.config import parse_overrides  # noqa: E402
from lia_adapter.data import in_order, open_images  # noqa: E402
from lia_adapter.encoder import Encoder  # noqa: E402
from lia_adapter.generators import broadcast  # noqa: E402
from lia_adapter.jobs.train import recipe_stages, train_lia  # noqa: E402
from lia_adapter.jobs.train_encoder import train_encoder_lia  # noqa: E402
from lia_adapter.loop import run_loop  # noqa: E402
from lia_adapter.metrics.distances import frechet_distance  # noqa: E402
from lia_adapter.metrics.features import load_features  # noqa: E402
from lia_adapter.metrics.images import mse  # noqa: E402
from lia_adapter.metrics.paths import path_length  # noqa: E402
from lia_adapter.metrics.swd import image_swd  # noqa: E402
from lia_adapter.pictures import image_grid, paired_grid, save_png  # noqa: E402
from lia_adapter.reports.page import html_page  # noqa: E402
from lia_adapter.training.encoder_config import EncoderConfig  # noqa: E402
from lia_adapter.training.gan_config import TrainConfig  # noqa: E402

_TEST, _FEW, _PATHS = 2000, 100, 200
_CPU = torch.device("cpu")
_BATCHES, _BATCH, _SPREAD = 24, 32, 1.0  # of the gradient study; the last is the deviation of z around its mean

Draw = Callable[[Tensor], Tensor]


def stage(name: str, train: Callable[[], LIA], work: Path) -> LIA:
    """Trains a LIA, or takes it from the folder if that was done before."""
    path = work / f"{name}.safetensors"
    if not path.exists():
        train().save(path)
    return load(path)


def rival(kind: type[Rival], config: TrainConfig, width: int, work: Path) -> Rival:
    """Trains one of the rivals, or goes on with it; its state stays in the folder."""
    images = open_images(str(config.data), (config.height, config.width), config.channels, split=config.split)
    made = kind(config, images, width)
    identity = f"{made.name} {config} {width}"
    run_loop(
        made.job(),
        state_path=work / f"{kind.__name__}.safetensors",
        identity=identity,
        save_seconds=60,
        progress=ProgressLine(),
    )
    return made


def measure(name: str, x: Tensor, again: Draw, sampled: Draw | None, features: Callable[[Tensor], Tensor]) -> dict[str, object]:
    """One row: images drawn again, and new ones."""
    start = time.perf_counter()
    drawn = again(x)
    seconds = (time.perf_counter() - start) / len(x)
    real = features(x)
    row: dict[str, object] = {
        "method": name, "images": len(x), "mse": float(mse(drawn, x).mean()), "swd": image_swd(drawn, x)["mean"],
        "frechet": frechet_distance(features(drawn), real), "seconds": seconds, "frechet_samples": None,
    }  # fmt: skip
    if sampled is not None:
        z = torch.randn(len(x), 512, generator=torch.Generator().manual_seed(1))
        row["frechet_samples"] = frechet_distance(features(sampled(z)), real)
    print("  ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()), flush=True)
    return row


def in_parts(function: Draw) -> Draw:
    """The function of many rows, a hundred at a time."""
    return lambda x: torch.cat([function(part) for part in x.split(100)])


def gradient_study(lia: LIA, encoder: Encoder, x: Tensor, route: str) -> dict[str, float]:
    """Variance over batches of the encoder's gradient, over its squared mean, by layer (LIA, sec. 6.5).

    Args:
        lia: With an invertible mapping.
        encoder: Into y.
        x: Images, _BATCHES * _BATCH of them.
        route: "y": x -> y -> image. "z": x -> y -> z, then z sampled around that and mapped back, -> image, as a variational
            encoder into z must.
    """
    weights = {name: p for name, p in encoder.named_parameters() if p.ndim > 1}
    random, found = torch.Generator().manual_seed(0), []
    with torch.enable_grad():
        for part in x.split(_BATCH):
            y = encoder(part)
            if route == "z":
                assert lia.mapping is not None  # noqa: S101
                z = lia.mapping.to_z(y)
                y = lia.mapping.to_y(z + _SPREAD * torch.randn(z.shape, generator=random).to(z))
            drawn = lia.generator.synthesis(broadcast(y, lia.generator.num_ws))
            found.append(torch.autograd.grad((drawn - part).square().mean(), list(weights.values())))
    result = {}
    for name, gradients in zip(weights, zip(*found, strict=True), strict=True):
        stacked = torch.stack(gradients).flatten(1).double()
        result[name] = float(stacked.var(dim=0).sum() / stacked.mean(dim=0).square().sum())
    return result


def bars(study: dict[str, dict[str, float]]) -> str:
    """The study as an SVG: a bar for each layer and route, on a logarithmic scale."""
    layers, colours = list(study["y"]), {"y": "#1f6fb4", "z": "#d0661c"}
    values = torch.tensor([[study[route][name] for name in layers] for route in colours]).log10()
    low, high = math.floor(float(values.min())), math.ceil(float(values.max()))
    width, drawn = 800 / len(layers), []
    for power in range(low, high + 1):
        y = 210 - 180 * (power - low) / (high - low)
        drawn.append(f'<path d="M60 {y:.1f}H870" stroke="#ddd"/>')
        drawn.append(f'<text x="52" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    for row, (route, colour) in zip(values.tolist(), colours.items(), strict=True):
        for i, value in enumerate(row):
            left, tall = 66 + i * width + (route == "z") * width * 0.4, 180 * (value - low) / (high - low)
            drawn.append(
                f'<rect x="{left:.1f}" y="{210 - tall:.1f}" width="{width * 0.36:.1f}" height="{tall:.1f}" fill="{colour}"/>'
            )
    for i, name in enumerate(layers):
        x = 66 + (i + 0.4) * width
        drawn.append(f'<text transform="translate({x:.1f} 224) rotate(20)">{name.removesuffix(".weight")}</text>')
    for i, (route, colour) in enumerate(colours.items()):
        drawn.append(f'<text x="{66 + 90 * i}" y="18" fill="{colour}">into {route}</text>')
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 940 270" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(drawn)}</svg>'
    )


def main() -> None:
    """Trains, measures, prints the table, and writes it to DIR."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--data", default="toyfaces")
    parser.add_argument("--features", type=Path)
    parser.add_argument("--work", type=Path, default=Path("benchmark-comparisons"))
    args = parser.parse_intermixed_args()
    work: Path = args.work
    work.mkdir(exist_ok=True)
    torch.set_grad_enabled(False)

    given = {"data": args.data, "split": f"not last {_TEST}", "metric_images": _TEST} | parse_overrides(args.overrides)
    if args.features is not None:
        given["features"] = str(args.features)
    whole, encoder_config = recipe_stages("toyfaces32", given | {"encoder.split": f"not last {_TEST}"})
    assert encoder_config is not None  # noqa: S101
    most = dataclasses.replace(whole, images=3 * whole.images // 4)
    encoding = dataclasses.replace(encoder_config, images=whole.images // 4)

    def first(mapping: str) -> LIA:
        config = dataclasses.replace(most, mapping=mapping)
        return train_lia(config, None, _CPU, folder=work / mapping, progress=ProgressLine())

    def second(lia: LIA, name: str, config: EncoderConfig = encoding) -> LIA:
        return train_encoder_lia(lia, args.data, config, folder=work / name, progress=ProgressLine())

    additive, dense, mlp = (stage(name, lambda name=name: first(name), work) for name in ("additive", "dense", "mlp"))  # type: ignore[misc]
    lia = stage("lia", lambda: second(additive, "lia"), work)
    lia_dense = stage("lia-dense", lambda: second(dense, "lia-dense"), work)
    in_z_path = work / "mlp-z.safetensors"
    if not in_z_path.exists():
        second(entangled(mlp), "mlp-z").save(in_z_path)
    in_z = load(in_z_path, generator=entangled(mlp).generator)
    rivals = [rival(kind, dataclasses.replace(whole, mapping="mlp"), encoding.width, work) for kind in (VaeGan, Ali)]

    size = (whole.height, whole.width)
    test = open_images(args.data, size, whole.channels, split=f"last {_TEST}")
    x = torch.stack([item.x for item in in_order(test.load, range(len(test))) if item is not None])
    network = load_features(args.features)

    def features(images: Tensor) -> Tensor:
        return torch.cat([network(part) for part in images.split(100)])

    dim = whole.z_dim

    def samples(of: LIA) -> Draw:
        return in_parts(lambda z: of.synthesize(of.to_y(z[:, :dim])))

    def inverted(part: Tensor) -> Tensor:
        return LIA(in_z.generator, in_z.mapping).invert(part, steps=500, space="y", start="mean").images

    print("method  images  MSE  SWD  Fréchet  s/image  Fréchet of samples")
    table = [
        measure("LIA, additive", x, lia.reconstruct, samples(lia), features),
        measure("LIA, dense", x, lia_dense.reconstruct, samples(lia_dense), features),
        measure("StyleGAN (MLP) + encoder into z", x, in_z.reconstruct, samples(mlp), features),
        *(measure(r.name, x, r.reconstruct, in_parts(lambda z, r=r: r.draw(z[:, :dim])), features) for r in rivals),  # type: ignore[misc]
        measure(f"MSE inversion in z, 500 steps ({_FEW} images)", x[:_FEW], inverted, None, features),
    ]

    def distance(a: Tensor, b: Tensor) -> Tensor:
        gap: Tensor = network(a) - network(b)
        return gap.square().sum(dim=1)

    paths = {}
    for name, of in (("LIA", lia), ("StyleGAN (MLP)", mlp)):
        for space in ("z", "y"):
            paths[f"{name}, {space}"] = path_length(
                of.to_y, of.synthesize, distance, space=space, dim=dim, samples=_PATHS, batch=16, eps=1e-3,
            )  # fmt: skip
    print("path lengths", {name: round(value, 2) for name, value in paths.items()})

    assert isinstance(lia.encoder, Encoder)  # noqa: S101
    learner: nn.Module = lia.encoder.requires_grad_(True)
    study = {route: gradient_study(lia, lia.encoder, x[: _BATCHES * _BATCH], route) for route in ("y", "z")}
    learner.requires_grad_(False)
    print("gradient's variance over its squared mean, by layer:", study)

    shown = x[:16]
    pictures = [in_z.reconstruct(shown), *(r.reconstruct(shown) for r in rivals)]
    save_png(
        work / "reconstructions.png", paired_grid(shown[:8], *(drawn[:8] for drawn in (lia.reconstruct(shown), *pictures)))
    )
    save_png(work / "samples.png", image_grid(torch.cat([of.sample(range(16)) for of in (lia, mlp)]), columns=16))
    curves = {name: of.metrics["training"]["curve"] for name, of in (("additive", additive), ("dense", dense), ("mlp", mlp))}
    (work / "gradients.svg").write_text(bars(study))
    body = (
        f"<h1>Comparisons</h1><h2>Fréchet distance while training, {network.name}</h2>{plot(curves, 'Fréchet distance')}"
        f"<h2>How much the encoder's gradient varies</h2>{bars(study)}<pre>{json.dumps(table, indent=1)}</pre>"
    )
    (work / "comparisons.html").write_text(html_page("Comparisons", body))
    result = {"table": table, "paths": paths, "gradients": study, "curves": curves, "features": network.name}
    (work / "table.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
