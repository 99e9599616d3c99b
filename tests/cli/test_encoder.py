"""`train-encoder` and `encode` as their users meet them."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lia_adapter.codes import read_codes
from lia_adapter.loading import load
from tests import toys
from tests.cli.test_convert_sample_inspect import refused, run

ROOT = Path(__file__).parents[2]
QUICK = [f"{key}={value}" for key, value in toys.QUICK_ENCODER.items()]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a converted toy and pictures."""
    folder = tmp_path_factory.mktemp("workshop")
    lia = toys.with_encoder(toys.stylegan())
    lia.encoder = lia.typicality = None
    lia.save(folder / "toy.lia.safetensors")
    toys.pictures(folder / "pictures", 20)
    return folder


@pytest.fixture(scope="module")
def trained(workshop: Path) -> Path:
    result = run("train-encoder", "toy.lia.safetensors", "--data", "pictures", *QUICK, cwd=workshop)
    assert result.returncode == 0, result.stderr
    assert "correlation" in result.stdout or "of found and true y" in result.stdout
    return workshop / "toy.lia-encoder.safetensors"


def test_what_it_leaves(trained: Path) -> None:
    folder = trained.with_name("toy.lia-encoder")
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".png") == ["recipe.toml", "stats.jsonl"] or any(
        "tfevents" in path.name for path in folder.iterdir()
    )
    assert len(list(folder.glob("reconstructions-*.png"))) == 20
    for ending in ("png", "html", "json"):
        assert trained.with_name(f"toy.lia-encoder.{ending}").stat().st_size > 0
    figures = json.loads(trained.with_name("toy.lia-encoder.json").read_text())
    assert {"before", "after", "losses"} <= figures.keys()
    assert "http" not in trained.with_name("toy.lia-encoder.html").read_text().replace("http://www.w3.org", "")
    assert load(trained).encoder is not None


def test_it_loads_and_encodes_without_what_only_training_needs(trained: Path) -> None:
    """In a process that has none of torchvision, TensorBoard and torch-fidelity."""
    code = (
        "import sys\n"
        "for name in ('torchvision', 'tensorboard', 'torch_fidelity'): sys.modules[name] = None\n"
        "import torch, lia_adapter\n"
        f"lia = lia_adapter.load({str(trained)!r})\n"
        "print(tuple(lia.encode(torch.zeros(2, 3, 8, 8)).shape))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(2, 16)", done.stderr


def test_inspect_tells_of_the_encoder(trained: Path) -> None:
    result = run("inspect", trained, cwd=trained.parent)
    assert "encoder    into y, trained on 20 images" in result.stdout


def test_encode_says_what_is_odd(trained: Path, tmp_path: Path) -> None:
    data = toys.pictures(tmp_path / "d", 6)
    (data / "broken.png").write_bytes(b"x")
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(data / "noise.png")
    result = run("encode", trained, data, "-o", "c.safetensors", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for word in ("encoded      7 images", "prior p      0.", "unreadable   1", "broken.png"):
        assert word in result.stdout, word
    assert read_codes(tmp_path / "c.safetensors").tensors["y"].shape == (7, 16)


def test_a_dry_run_writes_nothing(workshop: Path, tmp_path: Path) -> None:
    lia = workshop / "toy.lia.safetensors"
    result = run("train-encoder", lia, "--data", workshop / "pictures", "-n", "images=16", cwd=tmp_path)
    assert result.returncode == 0 and "images = 16" in result.stdout and not list(tmp_path.iterdir())


def test_pictures_of_all_kinds(trained: Path, tmp_path: Path) -> None:
    """Sizes and modes that people have; the monstrous one is refused by name, and the rest are encoded."""
    data = tmp_path / "d"
    data.mkdir()
    gray = np.arange(30 * 20, dtype=np.uint16).reshape(30, 20) * 100
    Image.fromarray(gray).save(data / "sixteen.png")
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8))
    rgb.quantize(16).save(data / "palette.png")
    rgb.convert("CMYK").save(data / "cmyk.jpg")
    rgb.convert("RGBA").save(data / "alpha.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.save(data / "turned.jpg", exif=exif)
    rgb.resize((1, 1)).save(data / "one.png")
    Image.new("1", (20_000, 20_000)).save(data / "monster.png")
    result = run("encode", trained, data, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    codes = read_codes(tmp_path / "codes.safetensors")
    assert set(codes.names) == {"sixteen.png", "palette.png", "cmyk.jpg", "alpha.png", "turned.jpg", "one.png"}
    assert list(codes.unreadable) == ["monster.png"]


def test_wrong_inputs(workshop: Path, trained: Path, tmp_path: Path) -> None:
    lia, pictures = workshop / "toy.lia.safetensors", workshop / "pictures"
    (tmp_path / "no.zip").write_bytes(b"this is no zip")
    (tmp_path / "empty").mkdir()
    with zipfile.ZipFile(tmp_path / "labels.zip", "w") as file:
        file.write(pictures / "000.png", "000.png")
        file.writestr("dataset.json", json.dumps({"labels": [["other.png", 1]]}))
    conditional = toys.with_encoder(toys.stylegan(c_dim=3))
    conditional.save(tmp_path / "c.safetensors")
    toys.checkpoint(tmp_path / "plain.pkl")
    cases: dict[tuple[object, ...], str] = {
        ("train-encoder", lia, "--data", "no.zip"): "no.zip",
        ("train-encoder", lia, "--data", "nowhere"): "nowhere",
        ("train-encoder", lia, "--data", "empty"): "empty",
        ("train-encoder", "c.safetensors", "--data", "labels.zip", "features=none"): "label",
        ("train-encoder", lia, "--data", pictures, "stepz=3"): "stepz",
        ("train-encoder", lia, "--data", pictures, "--recipe", "encodr"): "did you mean 'encoder'",
        ("train-encoder", lia, "--data", pictures, "--features", "none.safetensors"): "none.safetensors",
        ("train-encoder", lia, "--data", pictures, "-o", "x.pkl"): "must end in .safetensors",
        ("train-encoder", lia, "--data", pictures, "-o", "missing/x.safetensors", "features=none"): "missing",
        ("train-encoder", "plain.pkl", "--data", pictures, "features=none"): "lia-adapt convert",
        ("train-encoder", lia, "--data", pictures, "split=first 0", "features=none"): "split",
        ("encode", lia, pictures): "lia-adapt train-encoder",
        ("encode", trained, "empty"): "empty",
        ("encode", trained, pictures, "--resize-mode", "pad"): "pad",
        ("encode", trained, pictures, "-o", "codes.npz"): "must end in .safetensors",
    }
    before = sorted(path.name for path in tmp_path.iterdir())
    for args, word in cases.items():
        assert word in refused(run(*args, cwd=tmp_path)), args
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_sigterm_saves_and_the_same_command_goes_on(workshop: Path, tmp_path: Path) -> None:
    settings = [*QUICK, "images=80000", "save_seconds=1000"]
    command = [sys.executable, "-m", "lia_adapter", "train-encoder", str(workshop / "toy.lia.safetensors")]
    command += ["--data", str(workshop / "pictures"), "-o", "t.safetensors", *settings]
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    stats = tmp_path / "t" / "stats.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (stats.exists() and stats.read_text().count("\n") >= 2):
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert "terminated; give the same command again" in errors
    assert (tmp_path / "t" / "state.safetensors").exists()
    done = json.loads(stats.read_text().splitlines()[-1])["step"]
    again = run(*command[3:-1], "save_seconds=1000", "images=80000", "--dry-run", cwd=tmp_path)
    assert again.returncode == 0 and done >= 2


def test_kill_9_twice_and_the_result_is_the_same(workshop: Path, tmp_path: Path) -> None:
    """Three processes for one run: the weights are those of a run that was left alone."""
    command = [sys.executable, "-m", "lia_adapter", "train-encoder", str(workshop / "toy.lia.safetensors")]
    command += ["--data", str(workshop / "pictures"), *QUICK, "images=1600", "save_seconds=0.05", "adversarial_weight=0.1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def start(out: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([*command, "-o", out], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)

    def steps() -> int:
        stats = tmp_path / "killed" / "stats.jsonl"
        return stats.read_bytes().count(b"\n") if stats.exists() else 0

    for least in (20, 60):
        process = start("killed.safetensors")
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and steps() < least and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    for out in ("killed.safetensors", "whole.safetensors"):
        assert start(out).wait(timeout=200) == 0
    killed, whole = (load_file(tmp_path / f"{name}.safetensors") for name in ("killed", "whole"))
    assert all(torch.equal(killed[name], whole[name]) for name in whole)
    logs = [(tmp_path / name / "stats.jsonl").read_text().splitlines() for name in ("killed", "whole")]
    assert [json.loads(line)["loss"] for line in logs[0]] == [json.loads(line)["loss"] for line in logs[1]]
