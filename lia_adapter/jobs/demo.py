"""`demo`: the main job on the model that ships with the package, from the checkpoint to edited faces."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lia_adapter.budget import in_parts
from lia_adapter.config import load_recipe, stored
from lia_adapter.data import open_images
from lia_adapter.data.toyfaces import FACTORS, sample_factors
from lia_adapter.editing import Direction, Directions, Examples, Regression, fit_regression
from lia_adapter.editing.edits import conditional
from lia_adapter.encoder import one_code
from lia_adapter.generators import fingerprint
from lia_adapter.jobs.convert import convert_lia
from lia_adapter.jobs.find_directions import measure_directions
from lia_adapter.jobs.run import run_folder, write_results
from lia_adapter.jobs.train_encoder import remove_state, train_encoder_lia
from lia_adapter.lia import LIA
from lia_adapter.loading import load
from lia_adapter.metrics.images import mse
from lia_adapter.metrics.scorers import Scorer
from lia_adapter.models import TOYFACES32
from lia_adapter.pictures import comparison_grid, image_grid, paired_grid, png_bytes
from lia_adapter.progress import Progress
from lia_adapter.training.convert_config import ConvertConfig
from lia_adapter.training.encoder_config import EncoderConfig

__all__ = ["DIRECTIONS", "FITTED", "Demo", "edits", "run_demo"]

_UNSEEN = "last 10000"  # toy faces that neither the generator nor the encoder was trained on
_SEEN = "first 10000"  # enough for the encoder; how usual codes are is measured on all of them
FITTED, _SHOWN, _EDITED = 3000, 16, 4
_SECONDS = 20.0  # that measuring the directions of a method may take
_TOLD = 0.3  # R² above which a factor counts as found
_STRENGTHS = (-3.0, -2.0, -1.0, 1.0, 2.0, 3.0)
DIRECTIONS = "directions.safetensors"
"""In the folder of the run."""
_CONVERTED = "converted.safetensors"
_CONVERT: Mapping[str, Any] = {"steps": 600, "statistics_samples": 30_000, "image_seconds": 10.0, "eval_seeds": 1}
_ENCODER: Mapping[str, Any] = {
    "images": 40_000, "width": 32, "split": _SEEN, "statistics_samples": 20_000, "known_answers": 500,
}  # fmt: skip


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Attributes:
        lia: The finished LIA.
        x: Toy faces that it has never seen [N, 3, 32, 32].
        directions: Of the factors of toy faces that are found.
        figures: What was measured, as JSON.
        pictures: "seeds" by both mappings, "reconstructions", and one for each direction: a few faces moved along it.
    """

    lia: LIA
    x: Tensor
    directions: Directions
    figures: dict[str, Any]
    pictures: dict[str, Image.Image] = field(default_factory=dict)


def run_demo(out: Path | None = None, progress: Progress | None = None) -> Demo:
    """Converts the shipped model, trains a small encoder, and learns how to change one factor of a face.

    Args:
        out: File for the LIA, .safetensors, and beside it a picture, figures and the folder of the encoder's run; a demo that
            was stopped goes on where it was. None: nothing is written.
        progress: Is told what is done.

    Raises:
        LIAError: A file cannot be written.
    """
    start, folder = time.monotonic(), None if out is None else run_folder(out)
    converted = _converted(folder, progress)
    encoder = load_recipe(EncoderConfig, "encoder-cpu", _ENCODER)
    lia = train_encoder_lia(converted, "toyfaces", encoder, folder=folder, progress=progress)
    images = open_images("toyfaces", lia.generator.resolution, lia.generator.channels, split=_UNSEEN)
    items = [images.load(i) for i in range(FITTED)]
    x = torch.stack([item.x for item in items if item is not None])
    with torch.no_grad():
        y = torch.cat(list(in_parts(lia.encode, x, lia.at_once("reconstruct"))))
    factors = torch.from_numpy(sample_factors([int(name.split(".")[0]) for name in images.names[:FITTED]]))
    directions, told = _directions(lia, y, factors, progress)
    figures = {
        "convert": converted.metrics,
        "encoder": lia.metrics["encoder"],
        "mse": float(mse(lia.reconstruct(x[:1000]), x[:1000]).mean()),
        "factors": told,
        "seconds": time.monotonic() - start,
    }
    demo = Demo(lia, x[:_SHOWN], directions, figures)
    demo.pictures["seeds"] = comparison_grid(lia)
    demo.pictures["reconstructions"] = paired_grid(demo.x, lia.reconstruct(demo.x))
    demo.pictures.update({name: edits(demo, name) for name in directions.names})
    if out is not None and folder is not None:
        lia.save(out)
        directions.save(folder / DIRECTIONS)
        write_results(out, png_bytes(demo.pictures["reconstructions"]), {**figures, "provenance": lia.provenance})
        remove_state(folder)
        (folder / _CONVERTED).unlink()
    return demo


def _converted(folder: Path | None, progress: Progress | None) -> LIA:
    """The shipped model with an invertible mapping; in a run's folder it waits until the demo has come to its end."""
    config = load_recipe(ConvertConfig, "convert", _CONVERT)
    if folder is None:
        return convert_lia(load(TOYFACES32), config, progress=progress)
    path = folder / _CONVERTED
    if path.exists():
        kept = load(path)
        if kept.provenance.get("recipe") == stored(config):
            return kept
    folder.mkdir(parents=True, exist_ok=True)
    return convert_lia(load(TOYFACES32), config, out=path, progress=progress)


def _directions(
    lia: LIA, y: Tensor, factors: Tensor, progress: Progress | None
) -> tuple[Directions, dict[str, dict[str, Any]]]:
    """Of each factor the direction that changes least else, all others kept; and what is known of all factors.

    A factor is found where codes tell it and its direction changes nothing as much as it.
    """
    names = tuple(factor.name for factor in FACTORS)
    regression, space = fit_regression(y, factors), lia.code_space("y")
    read = Scorer("the encoder", lambda x: _read(lia, regression, x, names), Path())
    examples = Examples(y, factors.double(), names)
    candidates: dict[str, list[Direction]] = {name: [] for name in names}
    for method in ("regress", "boundary"):
        every = list(Directions.find(method, lia, examples=examples))
        alone = [conditional(one, [other for other in every if other is not one], space) for one in every]
        for one in measure_directions(lia, alone, space, read, progress, _SECONDS)[0]:
            candidates[one.name].append(one)
    chosen, told = list[Direction](), dict[str, dict[str, Any]]()
    for name, r2 in zip(names, regression.r2.tolist(), strict=True):
        best = min(candidates[name], key=lambda one: float(one.about["leakage"]))
        found = r2 >= _TOLD and best.about["most_leakage"] < 1
        told[name] = {"r2": r2, "found": found, "method": best.method, "leakage": best.about["leakage"]}
        if found:
            chosen.append(best)
    return Directions(fingerprint(lia.generator), tuple(chosen), {"source": lia.provenance.get("source")}), told


def _read(lia: LIA, regression: Regression, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Factors of pictures, as their codes tell them."""
    found = one_code(lia.encode(x)) @ regression.weights.t() + regression.bias
    return dict(zip(names, found.unbind(dim=1), strict=True))


@torch.no_grad()
def edits(demo: Demo, name: str) -> Image.Image:
    """A picture: each row a face, its reconstruction, and that moved along a direction, from -3 standard deviations to 3."""
    lia, x = demo.lia, _spread(demo.x, _EDITED)
    y = lia.encode(x)
    columns = [x, lia.synthesize(y)]
    columns += [lia.synthesize(lia.edit(y, {name: strength}, directions=demo.directions)) for strength in _STRENGTHS]
    return image_grid(torch.stack(columns, dim=1).flatten(0, 1), columns=len(columns))


def _spread(x: Tensor, n: int) -> Tensor:
    picked: Sequence[int] = range(0, len(x), max(1, len(x) // n))
    return x[list(picked)[:n]]
