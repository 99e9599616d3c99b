"""`invert`: codes that draw the images better than the start did, and runs that go on where they stopped."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lia_adapter.codes import Codes, draw_codes, read_codes
from lia_adapter.data import open_images
from lia_adapter.errors import ConfigError, LIAError
from lia_adapter.generators import fingerprint
from lia_adapter.inversion import IMAGE_LOSS, Inversion, prior_loss
from lia_adapter.jobs.invert import invert_figures, invert_images
from lia_adapter.jobs.reconstruct import reconstruct_images
from lia_adapter.keys import METHODS
from lia_adapter.lia import LIA
from lia_adapter.metrics.images import pyramid_distance
from lia_adapter.metrics.typicality import z_size
from lia_adapter.progress import Progress
from lia_adapter.reports.images import write_invert_report
from tests import toys


@pytest.fixture(scope="module")
def lia() -> LIA:
    return toys.with_encoder(toys.stylegan())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.pictures(tmp_path_factory.mktemp("data") / "in", 5)


def images_of(folder: Path) -> Tensor:
    images = open_images(folder, (8, 8), 3)
    return torch.stack([item.x for i in range(len(images)) if (item := images.load(i)) is not None])


def no_constant(name: str) -> float:
    raise AssertionError(f"{name} is no JSON")


@pytest.mark.parametrize("space", ["y", "ys", "z"])
def test_codes_draw_the_images_better_than_the_start(lia: LIA, folder: Path, tmp_path: Path, space: str) -> None:
    out = tmp_path / "c.safetensors"
    codes = invert_images(lia, folder, out, space=space, steps=15, batch=2, prior_weight=0)
    x, found = images_of(folder), codes.tensors
    error = (lia.synthesize(codes.ys) - x).double().square().mean(dim=(1, 2, 3))
    start = (lia.reconstruct(x) - x).double().square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(found["mse"].double(), error, rtol=1e-4, atol=1e-6)
    pyramids = [pyramid_distance(drawn, x).double() for drawn in (lia.synthesize(codes.ys), lia.reconstruct(x))]
    torch.testing.assert_close(found["loss"].double(), error + IMAGE_LOSS.pyramid_weight * pyramids[0], rtol=1e-4, atol=1e-6)
    begun = start + IMAGE_LOSS.pyramid_weight * pyramids[1]
    torch.testing.assert_close(found["start_loss"].double(), begun, rtol=1e-3, atol=1e-5)
    assert bool((found["loss"] <= found["start_loss"]).all()) and error.mean() < 0.95 * start.mean()
    assert ("ys" in found) == (space == "ys")
    torch.testing.assert_close(lia.to_y(found["z"]), found["y"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["z_size"], z_size(found["z"]))
    assert codes.names == tuple(f"{i:03d}.png" for i in range(5))
    assert lia.typicality is not None and torch.equal(found["typicality"], lia.typicality(found["y"]))
    assert torch.equal(found["prior_p"], lia.prior_p(found["y"]))
    same(read_codes(out), codes)
    assert "of the right kind" in write_invert_report(codes, out).read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.html", "c.json", "c.png", "c.safetensors"]


def same(a: Codes, b: Codes) -> None:
    assert (a.names, a.placements, a.about, a.unreadable) == (b.names, b.placements, b.about, b.unreadable)
    for name, tensor in a.tensors.items():
        assert torch.equal(tensor, b.tensors[name]) or bool(tensor.isnan().all()), name


@pytest.mark.parametrize("start", ["mean", "random"])
def test_a_lia_without_encoder_starts_elsewhere(lia: LIA, folder: Path, tmp_path: Path, start: str) -> None:
    plain = LIA(lia.generator, lia.mapping, family=lia.family, config=lia.config)
    codes = invert_images(plain, folder, tmp_path / "c.safetensors", start=start, steps=2)
    assert bool(codes.tensors["typicality"].isnan().all())
    figures = json.loads((tmp_path / "c.json").read_text(), parse_constant=no_constant)
    assert figures["of_each"]["typicality"] == [None] * 5
    assert "Typicality" not in write_invert_report(codes, tmp_path / "c.safetensors").read_text()
    with pytest.raises(LIAError, match="start from the mean"):
        invert_images(plain, folder, tmp_path / "d.safetensors")


def test_random_starts_differ_between_batches_and_follow_the_seed(lia: LIA, folder: Path, tmp_path: Path) -> None:
    codes = [
        invert_images(lia, folder, tmp_path / f"{i}.safetensors", start="random", steps=0, batch=2, seed=seed).tensors["y"]
        for i, seed in enumerate([0, 0, 7])
    ]
    assert torch.equal(codes[0], codes[1]) and not torch.allclose(codes[0], codes[2])
    assert torch.cdist(codes[0], codes[0]).add(torch.eye(5)).min() > 0.01


def test_what_an_image_gets_does_not_depend_on_the_others(lia: LIA, folder: Path, tmp_path: Path) -> None:
    one = invert_images(lia, folder, tmp_path / "a.safetensors", steps=5, batch=1)
    all_ = invert_images(lia, folder, tmp_path / "b.safetensors", steps=5, batch=5)
    torch.testing.assert_close(one.tensors["y"], all_.tensors["y"], rtol=1e-3, atol=1e-4)


def test_a_stopped_run_goes_on_after_its_last_batch(
    lia: LIA, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = invert_images(lia, folder, tmp_path / "whole.safetensors", start="random", steps=4, batch=2)

    def stop(name: str, done: int, total: int | None) -> None:
        assert name != "invert" or total == 20
        if name == "invert" and done > 8:
            raise KeyboardInterrupt

    out = tmp_path / "c.safetensors"
    with pytest.raises(KeyboardInterrupt):
        invert_images(lia, folder, out, start="random", steps=4, batch=2, progress=stop)
    assert not out.exists() and len(list((tmp_path / ".c.safetensors.parts").glob("0*"))) == 1
    worked = watch(lia, monkeypatch)
    resumed = invert_images(lia, folder, out, start="random", steps=4, batch=2)
    assert worked == [4, 4]
    same(resumed, whole)
    assert not list(tmp_path.glob(".*"))
    invert_images(lia, folder, out, start="random", steps=4, batch=2)
    assert worked == [4, 4]  # the file that is there is what would be made


def watch(lia: LIA, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps of each search from now on."""
    worked: list[int] = []
    invert = LIA.invert

    def counted(self: LIA, x: Tensor, c: Tensor | None = None, *, steps: int = 0, **others: object) -> Inversion:
        worked.extend([steps] if steps else [])
        return invert(self, x, c, steps=steps, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(LIA, "invert", counted)
    return worked


def test_batches_of_another_run_are_not_taken(lia: LIA, folder: Path, tmp_path: Path) -> None:
    def stop(name: str, done: int, total: int | None) -> None:
        if name == "invert" and done > 6:
            raise KeyboardInterrupt

    out = tmp_path / "c.safetensors"
    with pytest.raises(KeyboardInterrupt):
        invert_images(lia, folder, out, steps=3, batch=2, progress=stop)
    found = invert_images(lia, folder, out, steps=6, batch=2)
    same(found, invert_images(lia, folder, tmp_path / "d.safetensors", steps=6, batch=2))


def test_unreadable_images_are_told_also_by_a_resumed_run(lia: LIA, tmp_path: Path) -> None:
    folder = toys.pictures(tmp_path / "in", 5)
    for name in ("000.png", "002.png", "003.png"):  # one of the first batch, all of the second
        (folder / name).write_bytes(b"no picture")

    def stop(name: str, done: int, total: int | None) -> None:
        if name == "invert" and done > 4:
            raise KeyboardInterrupt

    out = tmp_path / "c.safetensors"
    with pytest.raises(KeyboardInterrupt):
        invert_images(lia, folder, out, steps=2, batch=2, progress=stop)
    codes = invert_images(lia, folder, out, steps=2, batch=2)
    assert codes.names == ("001.png", "004.png")
    assert list(codes.unreadable) == ["000.png", "002.png", "003.png"]
    for name in ("001.png", "004.png"):
        (folder / name).write_bytes(b"")
    with pytest.raises(LIAError, match="none of the 5 images"):
        invert_images(lia, folder, tmp_path / "d.safetensors", steps=2, batch=2)
    assert not (tmp_path / "d.safetensors").exists()


def test_a_conditional_lia_inverts_with_the_labels_of_the_data_set(tmp_path: Path) -> None:
    lia = toys.with_encoder(toys.stylegan(c_dim=3))
    folder = toys.pictures(tmp_path / "in", 2)
    (folder / "dataset.json").write_text('{"labels": [["000.png", 2], ["001.png", 0]]}')
    codes = invert_images(lia, folder, tmp_path / "c.safetensors", space="z", steps=2)
    assert codes.tensors["c"].tolist() == [[0, 0, 1], [1, 0, 0]]
    torch.testing.assert_close(lia.to_y(codes.tensors["z"], codes.tensors["c"]), codes.tensors["y"], rtol=1e-4, atol=1e-5)


def test_codes_and_parts_of_the_last_release_are_known(lia: LIA, folder: Path, tmp_path: Path) -> None:
    """What a run is known by has the words and values that it had, but for the loss without features and the search."""
    codes = invert_images(
        lia, folder, tmp_path / "c.safetensors", steps=1, split="first 2", fit="stretch", seed=3, bits=None, prior_weight=0
    )
    assert lia.encoder is not None and isinstance(lia.mapping, nn.Module)
    images = open_images(folder, (8, 8), 3, split="first 2", resize_mode="stretch")
    assert codes.about == {
        "how": "invert", "data": str(folder), "identity": images.identity(), "fit": "stretch", "split": "first 2",
        "label": None, "space": "y", "start": "encoder", "steps": 1, "seed": 3, "features": None, "features_sha256": None,
        "encoder_sha256": fingerprint(lia.encoder), "mapping_sha256": fingerprint(lia.mapping),
        "lia": lia.provenance.get("source"), "pyramid": IMAGE_LOSS.pyramid_weight, "by": "L-BFGS",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="has no key 'step'; did you mean 'steps'"):
        invert_images(lia, folder, tmp_path / "d.safetensors", step=1)


def test_the_prior_s_weight_is_a_key_that_tells_runs_apart(lia: LIA, folder: Path, tmp_path: Path) -> None:
    free, kept = (
        invert_images(lia, folder, tmp_path / "c.safetensors", space="ys", steps=8, start="random", prior_weight=weight)
        for weight in (0.0, 2.0)  # the second finds the file of the first and begins anew
    )
    assert kept.about == {**free.about, "prior_weight": 2.0} and "prior" not in free.tensors
    assert lia.mapping is not None
    torch.testing.assert_close(kept.tensors["prior"], prior_loss(lia.mapping, kept.tensors["ys"]))
    assert kept.tensors["prior"].mean() < prior_loss(lia.mapping, free.tensors["ys"]).mean()
    pyramid = pyramid_distance(lia.synthesize(kept.ys), images_of(folder))
    total = kept.tensors["mse"] + IMAGE_LOSS.pyramid_weight * pyramid + 2 * kept.tensors["prior"]
    torch.testing.assert_close(kept.tensors["loss"], total, rtol=1e-4, atol=1e-5)
    figures = json.loads((tmp_path / "c.json").read_text(), parse_constant=no_constant)
    assert figures["mean"]["prior"] == pytest.approx(float(kept.tensors["prior"].mean()))
    assert "2 times the prior" in write_invert_report(kept, tmp_path / "c.safetensors").read_text()
    with pytest.raises(LIAError, match="prior_weight is 2, but this checkpoint has no invertible mapping.*lia-adapt convert"):
        invert_images(toys.stylegan(), folder, tmp_path / "d.safetensors", prior_weight=2.0)
    with pytest.raises(ConfigError, match="prior_weight is -1"):
        invert_images(lia, folder, tmp_path / "d.safetensors", prior_weight=-1)


def test_codes_of_before_have_no_p_and_that_is_said(lia: LIA, folder: Path, tmp_path: Path) -> None:
    codes = invert_images(lia, folder, tmp_path / "c.safetensors", steps=1)
    figures = json.loads((tmp_path / "c.json").read_text())
    assert figures["left_out"] == {} and figures["of_each"]["prior_p"] == pytest.approx(codes.tensors["prior_p"].tolist())
    del codes.tensors["prior_p"]
    assert "prior p" in invert_figures(codes)["left_out"]
    assert "prior p: these codes were found by a version" in write_invert_report(codes, tmp_path / "c.safetensors").read_text()


@pytest.mark.parametrize("method", METHODS[1:])
def test_every_method_is_a_recipe_whose_file_draws_what_was_found(folder: Path, tmp_path: Path, method: str) -> None:
    lia = toys.with_encoder(toys.stylegan(resolution=16))
    out = tmp_path / "c.safetensors"
    more = {"codes": 2} if method == "multi-code" else {}

    def run(to: Path, progress: Progress | None = None) -> Codes:
        return invert_images(lia, folder, to, f"invert-{method}", steps=8, batch=2, progress=progress, **more)

    def stop(name: str, done: int, total: int | None) -> None:
        if name == "invert" and done > 20:
            raise KeyboardInterrupt

    codes = run(out)
    x = torch.stack([item.x for i in range(5) if (item := open_images(folder, (16, 16), 3).load(i)) is not None])
    drawn = draw_codes(lia, read_codes(out), range(5))
    torch.testing.assert_close((drawn - x).square().mean(dim=(1, 2, 3)), codes.tensors["mse"], rtol=1e-4, atol=1e-6)
    figures = reconstruct_images(lia, out, tmp_path / "drawn")
    assert figures["mse"] == pytest.approx(float(codes.tensors["mse"].mean()), rel=1e-3)
    again = tmp_path / "again.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(again, stop)
    same(run(again), codes)


def test_methods_say_what_they_need(folder: Path, tmp_path: Path) -> None:
    lia = toys.with_encoder(toys.stylegan())
    plain = LIA(lia.generator, lia.mapping, family=lia.family, config=lia.config)
    with pytest.raises(LIAError, match="in-domain asks the encoder at every step. Run lia-adapt train-encoder"):
        invert_images(plain, folder, tmp_path / "c.safetensors", "invert-in-domain")
    with pytest.raises(ConfigError, match="method is 'magic'; expected one of search, projector"):
        invert_images(lia, folder, tmp_path / "c.safetensors", method="magic")


def test_seconds_an_image_are_steps_of_the_ladder(lia: LIA, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.safetensors"
    codes = invert_images(lia, folder, out, "invert-ladder", quality="draft", seconds=0.05, batch=2)
    figures = invert_figures(codes)
    assert [rung["name"] for rung in figures["rungs"]] == ["start", "y"]
    assert sum(rung["ended_here"] for rung in figures["rungs"]) == 5
    assert figures["rungs"][1]["loss"] <= figures["rungs"][0]["loss"]
    page = write_invert_report(codes, out).read_text()
    assert "the ladder of methods, quality draft" in page and "Rung: y" in page
    with pytest.raises(ConfigError, match="seconds is 0.001; expected at least 0.01"):
        invert_images(lia, folder, out, "invert-ladder", seconds=0.001)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"method": "projector"}, "start is encoder, but projector begins at mean. Set start=mean"),
        ({"method": "in-domain", "start": "mean"}, "start is mean, but in-domain begins at encoder"),
        ({"seconds": 2.0}, "seconds is for ladder, and method is search"),
        ({"method": "tune", "faithful": True}, "faithful is for ladder, and method is tune"),
        ({"method": "tune", "space": "z"}, "space is for search, and method is tune"),
        ({"codes": 5}, "codes is for multi-code, and method is search"),
        ({"method": "features", "quality": "best"}, "quality is for ladder, and method is features"),
        ({"learning_rate": 0.1}, "learning_rate is of Adam, by which search does not search"),
        ({"method": "ladder", "learning_rate": 0.1}, "learning_rate is of Adam, by which ladder does not search"),
    ],
)
def test_keys_that_do_not_go_together(lia: LIA, folder: Path, tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        invert_images(lia, folder, tmp_path / "c.safetensors", **keys)
