"""`reconstruct`, `invert` and `evaluate` as their users meet them, with right and wrong inputs."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from lia_adapter.codes import read_codes
from tests import toys
from tests.cli.test_convert_sample_inspect import refused, run


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a LIA file, one whose mapping has no encoder, and pictures."""
    folder = tmp_path_factory.mktemp("workshop")
    lia = toys.with_encoder(toys.stylegan())
    lia.save(folder / "toy.safetensors")
    lia.encoder = lia.typicality = None
    lia.save(folder / "plain.safetensors")
    toys.pictures(folder / "in", 4, (8, 12))
    (folder / "in" / "torn.png").write_bytes(b"no picture")
    toys.checkpoint(folder / "toy.pkl")
    return folder


def test_invert_then_reconstruct(workshop: Path, tmp_path: Path) -> None:
    lia = workshop / "toy.safetensors"
    result = run("invert", lia, workshop / "in", "-o", "c.safetensors", "--steps", "5", "--space", "ys", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "loss " in result.stdout and " -> " in result.stdout and "wrote c.safetensors" in result.stdout
    assert "unreadable   1" in result.stdout and "'torn.png': it is not an image" in result.stdout
    assert "invert 25/25" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.html", "c.json", "c.png", "c.safetensors"]
    result = run("reconstruct", lia, "c.safetensors", "-o", "out", "--trunc", "0.9", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "wrote 4 reconstructions into out" in result.stdout
    with Image.open(tmp_path / "out" / "003.pasted.png") as picture:
        assert picture.size == (12, 8)


def test_invert_without_an_encoder(workshop: Path, tmp_path: Path) -> None:
    command = ("invert", workshop / "plain.safetensors", workshop / "in", "-o", "c.safetensors", "--steps", "1")
    assert "start from the mean" in refused(run(*command, cwd=tmp_path))
    assert run(*command, "--start", "random", "--seed", "3", "--split", "first 2", cwd=tmp_path).returncode == 0
    assert read_codes(tmp_path / "c.safetensors").about["seed"] == 3


def test_invert_follows_its_recipe_its_keys_and_first_of_all_its_options(workshop: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('steps = 9\nspace = "z"\nsplit = "first 1"\nseed = 4\n')
    lia, out = workshop / "toy.safetensors", ("-o", "c.safetensors")
    command = ("invert", lia, workshop / "in", *out, "--recipe", "mine.toml", "steps=7", "seed=5", "--steps", "2")
    dry = run(*command, "-n", cwd=tmp_path)
    assert dry.returncode == 0 and not (tmp_path / "c.safetensors").exists()
    assert "steps = 2                  # each a drawing and its gradient" in dry.stdout and '# label = "none"' in dry.stdout
    assert run(*command, cwd=tmp_path).returncode == 0
    codes = read_codes(tmp_path / "c.safetensors")
    assert {key: codes.about[key] for key in ("steps", "space", "split", "seed", "start", "fit")} == {
        "steps": 2, "space": "z", "split": "first 1", "seed": 5, "start": "encoder", "fit": "crop",
    }  # fmt: skip
    assert "did you mean 'steps'" in refused(run("invert", lia, workshop / "in", *out, "step=7", cwd=tmp_path))


def test_fit_is_what_resize_mode_was_called(workshop: Path, tmp_path: Path) -> None:
    lia = workshop / "toy.safetensors"
    results = {
        option: run("encode", lia, workshop / "in", "-o", f"{i}.safetensors", option, "stretch", cwd=tmp_path)
        for i, option in enumerate(("--resize-mode", "--fit"))
    }
    assert [result.returncode for result in results.values()] == [0, 0]
    assert "--fit is called --resize-mode now" in results["--fit"].stderr
    assert "is called" not in results["--resize-mode"].stderr
    new, old = (read_codes(tmp_path / f"{i}.safetensors") for i in range(2))
    assert new.about == old.about and new.about["fit"] == "stretch" and torch.equal(new.tensors["y"], old.tensors["y"])
    again = run("invert", lia, workshop / "in", "-o", "c.safetensors", "fit=stretch", "steps=0", cwd=tmp_path)
    assert again.returncode == 0 and "the key fit is called resize_mode now" in again.stderr
    assert read_codes(tmp_path / "c.safetensors").about["fit"] == "stretch"


def test_reconstruct_one_picture(workshop: Path, tmp_path: Path) -> None:
    one = workshop / "in" / "001.png"
    options = ("-o", "a/b", "--no-paste", "--resize-mode", "stretch")
    result = run("reconstruct", workshop / "toy.safetensors", one, *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    names = {path.name for path in (tmp_path / "a" / "b").iterdir()}
    assert names == {"001.png", "grid.png", "grid.html", "grid.json"}


def test_evaluate_writes_a_report_and_tells_the_figures(workshop: Path, tmp_path: Path) -> None:
    toys.pictures(tmp_path / "in", 12, (8, 12))
    command = ("evaluate", workshop / "toy.safetensors", "--data", "in", "-o", "e.json", "--split", "not last 1")
    result = run(*command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.html", "e.json", "e.png", "in"]
    assert json.loads((tmp_path / "e.json").read_text())["images"]["count"] == 11
    for word in ("mse ", "swd ", "frechet ", "round_trip ", "known_answer ", "typicality ", "not measured", "e.html"):
        assert word in result.stdout, word


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["reconstruct", "missing.safetensors", "in", "-o", "out"], "missing.safetensors"),
        (["reconstruct", "toy.safetensors", "missing", "-o", "out"], "there is no missing"),
        (["reconstruct", "toy.safetensors", "toy.safetensors", "-o", "out"], "holds no codes"),
        (["reconstruct", "toy.safetensors", "toy.safetensors", "-o", "out", "--resize-mode", "crop"], "Leave --resize-mode"),
        (["reconstruct", "toy.safetensors", "in", "-o", "toy.pkl"], "cannot make the folder toy.pkl"),
        (["reconstruct", "toy.safetensors", "in", "-o", "out", "--resize-mode", "squeeze"], "crop"),
        (["reconstruct", "toy.safetensors", "in", "-o", "out", "--split", "some"], "first N"),
        (["reconstruct", "plain.safetensors", "in", "-o", "out"], "train-encoder"),
        (["invert", "toy.safetensors", "in", "-o", "c.json"], "must end in .safetensors"),
        (["invert", "toy.safetensors", "in", "-o", "nowhere/c.safetensors"], "does not exist"),
        (["invert", "toy.safetensors", "in", "-o", "c.safetensors", "--space", "w"], "ys"),
        (["invert", "toy.safetensors", "in", "-o", "c.safetensors", "--steps", "-1"], "--steps"),
        (["invert", "toy.safetensors", "in", "-o", "c.safetensors", "--features", "toy.pkl"], "toy.pkl"),
        (["invert", "toy.pkl", "in", "-o", "c.safetensors", "--start", "mean"], "lia-adapt convert"),
        (["evaluate", "toy.safetensors", "--data", "in", "-o", "e.html"], "must end in .json"),
        (["evaluate", "toy.safetensors", "--data", "toy.pkl", "-o", "e.json"], "neither a folder"),
        (["evaluate", "toy.safetensors", "--data", "in/000.png", "-o", "e.json"], "found one in"),
        (["evaluate", "plain.safetensors", "--data", "in", "-o", "e.json"], "train-encoder"),
        (["evaluate", "toy.safetensors", "--data", "in", "-o", "e.json", "--split", "last 9"], "asks for more images"),
        (["evaluate", "toy.safetensors", "--data", "in", "-o", "e.json", "--device", "abacus"], "abacus"),
    ],
)
def test_wrong_inputs_end_in_one_helpful_line(workshop: Path, args: list[str], message: str) -> None:
    before = sorted(workshop.rglob("*"))
    assert message in refused(run(*args, cwd=workshop))
    assert sorted(workshop.rglob("*")) == before
