"""`evaluate`: each figure against the same worked out at once in float64, and what the report makes of them."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lia_adapter.errors import LIAError
from lia_adapter.jobs import evaluate as module
from lia_adapter.jobs.evaluate import BINS, evaluate
from lia_adapter.jobs.evaluate_examples import write_evaluation
from lia_adapter.jobs.run import report_paths
from lia_adapter.lia import LIA
from lia_adapter.metrics.distances import frechet_distance
from lia_adapter.metrics.features import Features
from lia_adapter.metrics.images import ssim
from lia_adapter.metrics.networks import load_network, perceptual_distance
from lia_adapter.metrics.swd import image_swd
from lia_adapter.reports.images import write_evaluate_report
from tests import toys

COUNT = 11


@pytest.fixture(scope="module")
def lia() -> LIA:
    return toys.with_encoder(toys.stylegan())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.pictures(tmp_path_factory.mktemp("data") / "in", COUNT)


@pytest.fixture(scope="module")
def figures(lia: LIA, folder: Path) -> dict[str, Any]:
    return evaluate(lia, folder, batch=4)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.squeezenet(tmp_path_factory.mktemp("network"))


def tensors(folder: Path) -> Tensor:
    pictures = []
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as image:
            pictures.append(np.asarray(image.convert("RGB"), dtype=np.float64))
    return torch.from_numpy(np.stack(pictures) / 127.5 - 1).permute(0, 3, 1, 2)


def test_figures_of_images(lia: LIA, folder: Path, figures: dict[str, Any]) -> None:
    x = tensors(folder)
    drawn = lia.synthesize(lia.encode(x.float())).double()
    errors = (drawn - x).square().mean(dim=(1, 2, 3))
    shown = (drawn.clamp(-1, 1) - x).square().mean(dim=(1, 2, 3))
    assert figures["mse"] == pytest.approx(float(errors.mean()), rel=1e-4)
    assert figures["psnr"] == pytest.approx(float((10 * torch.log10(4 / shown)).mean()), rel=1e-4)
    assert figures["ssim"] == pytest.approx(float(ssim(drawn, x).mean()), rel=1e-3, abs=1e-4)
    assert figures["of_each"]["name"] == [f"{i:03d}.png" for i in range(COUNT)]
    assert figures["of_each"]["mse"] == pytest.approx(errors.tolist(), rel=1e-4)


def test_figures_of_sets(lia: LIA, folder: Path, figures: dict[str, Any]) -> None:
    x = tensors(folder).float()
    drawn = lia.reconstruct(x)
    swd = image_swd(x, drawn)
    assert figures["swd"]["images"] == COUNT
    assert {"mean": figures["swd"]["mean"], **figures["swd"]["levels"]} == pytest.approx(swd, rel=1e-3)

    def pixels(images: Tensor) -> Tensor:  # each pixel of 8x8 fills 2x2 of 16x16
        return images.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3).flatten(1)

    z = torch.randn(COUNT, 16, generator=torch.Generator().manual_seed(0))
    frechet = figures["frechet"]
    assert "pixels" in frechet["features"]
    assert frechet["reconstructions"] == pytest.approx(frechet_distance(pixels(x), pixels(drawn)), rel=1e-3)
    assert frechet["samples"] == pytest.approx(frechet_distance(pixels(x), pixels(lia.synthesize(lia.to_y(z)))), rel=1e-3)


def test_figures_of_codes(lia: LIA, folder: Path, figures: dict[str, Any]) -> None:
    assert lia.typicality is not None
    y = lia.encode(tensors(folder).float())
    assert 0 <= figures["round_trip"] < 1e-5
    assert figures["of_each"]["typicality"] == pytest.approx(lia.typicality(y).tolist(), abs=2e-3)
    sizes = lia.to_z(y).square().mean(dim=1)
    assert figures["typicality"]["z_size"] == pytest.approx(float(sizes.median()), rel=1e-4)
    assert figures["of_each"]["prior_p"] == pytest.approx(lia.prior_p(y).tolist(), abs=2e-3)
    assert figures["typicality"]["prior_p"] == pytest.approx(float(lia.prior_p(y).median()), abs=0.02)
    scores = figures["of_each"]["typicality"]
    assert figures["typicality"]["unusual"] == pytest.approx(sum(score < 0.01 for score in scores) / COUNT)
    bins = [min(int(score * BINS), BINS - 1) for score in scores]
    assert figures["typicality"]["histogram"] == [bins.count(i) for i in range(BINS)]
    assert figures["known_answer"]["images"] == COUNT
    assert -1 <= figures["known_answer"]["correlation"] <= 1


def test_the_round_trip_is_in_standard_deviations(lia: LIA, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = lia.whitening()[1]
    std = (root @ root).diagonal().sqrt()  # the covariance is root²
    to_y = LIA.to_y
    monkeypatch.setattr(LIA, "to_y", lambda self, z, c=None: to_y(self, z, c) + 0.25 * std)
    assert evaluate(lia, folder, split="first 10")["round_trip"] == pytest.approx(0.25, rel=1e-3)


def test_batches_do_not_matter(lia: LIA, folder: Path, figures: dict[str, Any]) -> None:
    again = evaluate(lia, folder, batch=11)
    for name in ("mse", "psnr", "ssim"):
        assert again[name] == pytest.approx(figures[name], rel=1e-4)
    assert again["swd"]["mean"] == pytest.approx(figures["swd"]["mean"], rel=1e-3)
    assert again["frechet"]["samples"] == pytest.approx(figures["frechet"]["samples"], rel=1e-3)
    assert again["known_answer"] == figures["known_answer"]


def test_without_a_network_perceptual_measures_are_left_out_and_said_so(figures: dict[str, Any]) -> None:
    assert "perceptual" not in figures and "path_length" not in figures
    assert set(figures["left_out"]) == {"perceptual distance", "path length"}


def report(lia: LIA, figures: dict[str, Any], folder: Path) -> Path:
    """The page, with picture and figures beside it, as the command writes them."""
    out = folder / "e.json"
    return write_evaluate_report(figures, write_evaluation(lia, figures, out), out)


def test_a_network_adds_perceptual_measures(lia: LIA, folder: Path, network: Path, tmp_path: Path) -> None:
    found = evaluate(lia, folder, features=network, split="first 10")
    x = tensors(folder)[:10].float()
    with torch.no_grad():
        expected = perceptual_distance(load_network(network), lia.reconstruct(x), x)
    assert found["perceptual"] == pytest.approx(float(expected.mean()), rel=1e-3)
    assert found["frechet"]["features"].startswith("SqueezeNet 1.1") and found["network"].startswith("SqueezeNet 1.1")
    assert found["path_length"]["pairs"] == 10
    assert all(math.isfinite(found["path_length"][space]) and found["path_length"][space] > 0 for space in ("z", "y"))
    assert found["left_out"] == {}
    page = report(lia, found, tmp_path).read_text()
    assert "Path length in z" in page and "by perceptual distance" in page and "Not measured" not in page


def test_fid_takes_inception(lia: LIA, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Means(Features):
        name = "means, in place of Inception"

        def forward(self, x: Tensor) -> Tensor:
            return x.mean(dim=(2, 3))

    monkeypatch.setattr(module, "inception_features", Means)
    found = evaluate(lia, folder, fid=True)["frechet"]
    x = tensors(folder)
    means = (x.mean(dim=(2, 3)), lia.reconstruct(x.float()).mean(dim=(2, 3)))
    assert found["features"] == Means.name
    assert found["reconstructions"] == pytest.approx(frechet_distance(*means), rel=1e-3)


def test_swd_takes_a_part_of_many_images(lia: LIA, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SWD_IMAGES", 4)
    found = evaluate(lia, folder)["swd"]
    x = tensors(folder)[[0, 2, 5, 8]].float()  # evenly spread
    assert found["images"] == 4
    assert found["mean"] == pytest.approx(image_swd(x, lia.reconstruct(x))["mean"], rel=1e-3)


def test_a_conditional_lia_takes_the_labels_of_the_data_set(network: Path, tmp_path: Path) -> None:
    lia = toys.with_encoder(toys.stylegan(c_dim=3))
    folder = toys.pictures(tmp_path / "in", 10)
    with pytest.raises(LIAError, match="label"):
        evaluate(lia, folder)
    labels = [[f"{i:03d}.png", 2 * (i == 0)] for i in range(10)]
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    found = evaluate(lia, folder, features=network, batch=2)
    assert found["round_trip"] < 1e-4 and found["path_length"]["z"] > 0
    report(lia, found, tmp_path)


def test_unreadable_images_are_left_out(lia: LIA, folder: Path, tmp_path: Path) -> None:
    mixed = toys.pictures(tmp_path / "in", COUNT)
    (mixed / "003a.png").write_bytes(b"no picture")
    found = evaluate(lia, mixed, batch=4)
    assert found["images"]["count"] == COUNT and list(found["images"]["unreadable"]) == ["003a.png"]
    assert found["mse"] == pytest.approx(evaluate(lia, folder, batch=4)["mse"], rel=1e-4)
    page = report(lia, found, tmp_path).read_text()
    assert "003a.png: it is not an image" in page


def test_wrong_inputs_are_told(lia: LIA, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LIAError, match="train-encoder"):
        evaluate(toys.stylegan(), folder)
    with pytest.raises(LIAError, match="at least 10; found one in"):
        evaluate(lia, folder, split="first 1")
    torn = toys.pictures(tmp_path, 9)
    (torn / "bad.png").write_bytes(b"")
    with pytest.raises(LIAError, match=r"can read 9; 'bad.png': it is empty"):
        evaluate(lia, torn)


def test_the_report_shows_best_typical_and_worst(lia: LIA, folder: Path, figures: dict[str, Any], tmp_path: Path) -> None:
    html = report(lia, {**figures, "psnr": math.inf}, tmp_path)
    paths = report_paths(tmp_path / "e.json")
    assert html == paths["html"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.html", "e.json", "e.png"]
    told = json.loads(paths["json"].read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert told["psnr"] is None and told["mse"] == figures["mse"]
    order = np.argsort(figures["of_each"]["mse"])
    with Image.open(paths["png"]) as image:
        grid = np.asarray(image, dtype=np.float64)
    assert grid.shape == (10 * 8, 8 * 8, 3)
    x = (tensors(folder).permute(0, 2, 3, 1).numpy() + 1) * 127.5
    likely = np.argsort(figures["of_each"]["prior_p"], kind="stable")
    chosen = {0: order[(COUNT - 8) // 2], 16: order[0], 32: order[-1], 48: likely[-1], 64: likely[0]}
    for row, number in chosen.items():
        assert np.abs(grid[row : row + 8, :8] - x[number]).max() <= 1
    page = paths["html"].read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count("<img ") == 7 and page.count("<rect ") == BINS
    assert "Not measured" in page and "no feature network was given" in page


def test_names_in_the_report_are_text(lia: LIA, tmp_path: Path) -> None:
    folder = toys.pictures(tmp_path / "<i>in", 10)
    (folder / "<script>.png").write_bytes(b"no picture")
    page = report(lia, evaluate(lia, folder), tmp_path).read_text()
    assert "<script>" not in page and "<i>" not in page and "&lt;script&gt;" in page
