"""`demo`: the main job on the model that ships with the package, from the checkpoint to edited faces."""

import html
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lia_adapter.budget import in_parts
from lia_adapter.config import load_recipe
from lia_adapter.data import open_images
from lia_adapter.data.toyfaces import FACTORS, sample_factors
from lia_adapter.editing import Directions, fit_directions
from lia_adapter.lia import LIA, load
from lia_adapter.metrics.images import mse
from lia_adapter.models import TOYFACES32
from lia_adapter.report import comparison_grid, html_page, html_picture, image_grid, paired_grid, png_bytes, write_report
from lia_adapter.training.convert import convert_lia
from lia_adapter.training.encoder import EncoderConfig, train_encoder_lia
from lia_adapter.training.loop import Progress
from lia_adapter.training.mapping import ConvertConfig

__all__ = ["Demo", "run_demo", "write_demo_report"]

_UNSEEN = "last 10000"  # toy faces that neither the generator nor the encoder was trained on
_SEEN = "first 10000"  # enough for the encoder; how usual codes are is measured on all of them
_FITTED, _SHOWN, _EDITED, _STEPS = 3000, 16, 4, 7
_MOVED = ("hair_colour", "hair_length", "skin", "turn", "tilt", "glasses")  # those that a model of this size has learnt well
_CONVERT: Mapping[str, Any] = {"steps": 150, "statistics_samples": 30_000, "image_seconds": 10.0, "eval_seeds": 1}
_ENCODER: Mapping[str, Any] = {
    "images": 40_000, "width": 32, "split": _SEEN, "statistics_samples": 20_000, "known_answers": 500,
}  # fmt: skip


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Attributes:
        lia: The finished LIA.
        x: Toy faces that it has never seen [N, 3, 32, 32].
        directions: Of the factors of toy faces.
        figures: What was measured, as JSON.
    """

    lia: LIA
    x: Tensor
    directions: Directions
    figures: dict[str, Any]


def run_demo(progress: Progress | None = None) -> Demo:
    """Converts the shipped model, trains a small encoder, and learns how to change one factor of a face.

    Args:
        progress: Is told what is done.
    """
    start = time.monotonic()
    converted = convert_lia(load(TOYFACES32), load_recipe(ConvertConfig, "convert", _CONVERT), progress=progress)
    seconds = {"convert": time.monotonic() - start}
    lia = train_encoder_lia(converted, "toyfaces", load_recipe(EncoderConfig, "encoder-cpu", _ENCODER), progress=progress)
    seconds["encoder"] = time.monotonic() - start - seconds["convert"]
    images = open_images("toyfaces", lia.generator.resolution, lia.generator.channels, split=_UNSEEN)
    items = [images.load(i) for i in range(_FITTED)]
    x = torch.stack([item.x for item in items if item is not None])
    with torch.no_grad():
        y = torch.cat(list(in_parts(lia.encode, x, lia.at_once("reconstruct"))))
    factors = torch.from_numpy(sample_factors([int(name.split(".")[0]) for name in images.names[:_FITTED]]))
    directions = fit_directions(y, factors)
    figures = {
        "convert": converted.metrics,
        "encoder": lia.metrics["encoder"],
        "mse": float(mse(lia.reconstruct(x[:1000]), x[:1000]).mean()),
        "factors": {factor.name: float(r2) for factor, r2 in zip(FACTORS, directions.r2, strict=True)},
        "seconds": {**seconds, "all": time.monotonic() - start},
    }
    return Demo(lia, x[:_SHOWN], directions, figures)


def write_demo_report(demo: Demo, out: Path) -> dict[str, Path]:
    """Writes the picture, the page and the figures beside `out`.

    Args:
        demo: From `run_demo`.
        out: The LIA file.

    Returns:
        The three paths by ending.

    Raises:
        LIAError: A file cannot be written.
    """
    lia, figures = demo.lia, demo.figures
    reconstructed = png_bytes(paired_grid(demo.x, lia.reconstruct(demo.x)))
    metrics, after = lia.metrics, figures["encoder"]["after"]
    rows = "".join(
        f'<tr><td>{html.escape(factor.name.replace("_", " "))}<td class="dim">{html.escape(factor.text)}'
        f'<td class="n">{figures["factors"][factor.name]:.2f}</tr>'
        for factor in FACTORS
    )
    moved = "".join(
        f"<h3>{html.escape(name.replace('_', ' '))}</h3>{html_picture(png_bytes(edits(demo, name)), name)}" for name in _MOVED
    )
    body = f"""<h1>lia-adapter: a StyleGAN, made invertible</h1>
<p>This took {figures["seconds"]["all"] / 60:.1f} minutes on this machine. It began with an ordinary StyleGAN2 checkpoint of
drawn faces, which ships with lia-adapter; with a checkpoint of yours, the same steps are <code>lia-adapt convert</code> and
<code>lia-adapt train-encoder</code>.</p>
<h2>1. The mapping, replaced by one that has an inverse</h2>
<p>Each pair of rows shows the same seeds: the original mapping above, the invertible one below. Codes correlate
{metrics["seeds_raw"]["value"]:.2f} with the original's, and z → y → z comes back to {metrics["round_trip"]["value"]:.0e}
standard deviations.</p>
{html_picture(png_bytes(comparison_grid(lia)), "the same seeds through both mappings")}
<h2>2. Faces it has never seen, encoded in one pass</h2>
<p>Each pair of rows: new faces above, what the generator draws from their codes y below. Mean squared error on 1,000 of them:
{figures["mse"]:.4f} (images from −1 to 1). Codes of the generator's own images are found with a correlation of
{after["correlation"]:.2f}.</p>
{html_picture(reconstructed, "faces and their reconstructions")}
<h2>3. One thing changed at a time</h2>
<p>The first column is the face, the next its reconstruction, the others its code moved along one direction of y, which a linear
regression found on {_FITTED:,} encoded faces.</p>
{moved}
<h3>What codes tell about faces</h3>
<p>Share of each factor's variance that a linear function of y explains, on faces that it was not fitted to.</p>
<table><tr><th>Factor<th><th>R²</tr>{rows}</table>"""
    return write_report(out, reconstructed, html_page("lia-adapter: demo", body), {**figures, "provenance": lia.provenance})


@torch.no_grad()
def edits(demo: Demo, name: str) -> Any:
    """A picture: each row a face, its reconstruction, and that with one factor from its least to its largest value."""
    lia, number = demo.lia, [factor.name for factor in FACTORS].index(name)
    factor, directions = FACTORS[number], demo.directions
    x = _spread(demo.x, _EDITED)
    y = lia.encode(x)
    now = y @ directions.weights[number] + directions.bias[number]
    columns = [x, lia.synthesize(y)]
    for target in torch.linspace(factor.low, factor.high, _STEPS):
        columns.append(lia.synthesize(directions.move(y, number, target - now)))
    return image_grid(torch.stack(columns, dim=1).flatten(0, 1), columns=len(columns))


def _spread(x: Tensor, n: int) -> Tensor:
    picked: Sequence[int] = range(0, len(x), max(1, len(x) // n))
    return x[list(picked)[:n]]
