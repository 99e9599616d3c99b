"""`train` and `demo` as their users meet them."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest

from lia_adapter.data.toyfaces import FACTORS
from lia_adapter.editing import read_directions
from lia_adapter.jobs import demo
from lia_adapter.loading import load
from lia_adapter.models import TOYFACES32
from lia_adapter.reports.demo import write_demo_report
from tests import toys
from tests.cli.test_convert_sample_inspect import refused, run
from tests.jobs.test_train import QUICK

KEYS = [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in QUICK.items()]
KEYS += ["encoder.split=all", *(f"encoder.{key}={value}" for key, value in toys.QUICK_ENCODER.items())]


def test_what_a_training_leaves(tmp_path: Path) -> None:
    toys.pictures(tmp_path / "pictures", 20)
    result = run("train", "toyfaces32", "--data", "pictures", *KEYS, "-o", "t.safetensors", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "images seen" in result.stdout and "frechet" in result.stdout
    for ending in ("png", "html", "json"):
        assert (tmp_path / f"t.{ending}").stat().st_size > 0
    page = (tmp_path / "t.html").read_text()
    assert "Reconstructions" in page and "http" not in page.replace("http://www.w3.org", "")
    names = {path.name for path in (tmp_path / "t").iterdir() if "tfevents" not in path.name}
    assert {"recipe.toml", "stats.jsonl", "samples-000010.png", "samples-000020.png", "encoder"} <= names
    assert "state.safetensors" not in names and not (tmp_path / "t/encoder/state.safetensors").exists()
    curve = json.loads((tmp_path / "t.json").read_text())["training"]["curve"]
    assert [shown for shown, _ in curve] == [80, 160]
    lia = load(tmp_path / "t.safetensors")
    assert lia.encoder is not None and lia.mapping is not None
    told = run("inspect", "t.safetensors", cwd=tmp_path)
    assert "additive, z and y 8" in told.stdout and "encoder    into y" in told.stdout


def test_one_that_is_to_be_converted(tmp_path: Path) -> None:
    toys.pictures(tmp_path / "pictures", 20)
    keys = [key for key in KEYS if not key.startswith("encoder.")]
    result = run("train", "toyfaces32", "--data", "pictures", *keys, "mapping=mlp", "-o", "t.safetensors", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "lia-adapt convert t.safetensors" in result.stdout
    assert "not invertible yet" in run("inspect", "t.safetensors", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["toyface32"], "did you mean 'toyfaces32'?"),
        (["toyfaces32", "imges=3"], "did you mean 'images'?"),
        (["toyfaces32", "-o", "t.pkl"], "must end in .safetensors"),
        (["ffhq128"], "Give --data"),
        (["toyfaces32", "--data", "nowhere"], "there is no nowhere"),
        (["toyfaces32", "mapping=mlp", "encoder.images=3"], "must be converted first"),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: list[str], message: str) -> None:
    assert message in refused(run("train", *arguments, cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_prints_both_stages(tmp_path: Path) -> None:
    result = run("train", "lsun-car128x96", "--data", "cars.zip", "-n", cwd=tmp_path)
    assert result.returncode == 0 and "width = 128" in result.stdout and "[encoder]" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_shipped_model() -> None:
    assert TOYFACES32.stat().st_size <= 3_000_000
    assert TOYFACES32.with_suffix(".md").exists()
    lia = load(TOYFACES32)
    assert (lia.generator.z_dim, lia.generator.y_dim, lia.generator.resolution) == (128, 128, (32, 32))
    assert lia.mapping is None and lia.discriminator is not None
    x = lia.sample(range(64))
    assert 0.2 < x.std() < 0.8 and (x[0] - x[1]).abs().mean() > 0.05


_QUICK_ENCODER = {"images": 128, "statistics_samples": 500, "known_answers": 16, "split": "first 500", "check_seconds": 0.5}


def test_the_demo_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_CONVERT", {**demo._CONVERT, **toys.QUICK})
    monkeypatch.setattr(demo, "_ENCODER", {**demo._ENCODER, **_QUICK_ENCODER})
    monkeypatch.setattr(demo, "FITTED", 300)
    monkeypatch.setattr(demo, "_TOLD", -1e9)  # this encoder has hardly learnt anything
    monkeypatch.setattr(demo, "_SECONDS", 0.1)
    shown = demo.run_demo(tmp_path / "demo.safetensors")
    page_path = write_demo_report(shown, tmp_path / "demo.safetensors")
    told = shown.figures["factors"]
    assert told.keys() == {factor.name for factor in FACTORS}
    found = [name for name, one in told.items() if one["found"]]
    assert shown.directions.names == found == read_directions(tmp_path / "demo" / demo.DIRECTIONS).names
    page = page_path.read_text()
    assert page.count("<img") == 2 + len(found) and "http" not in page.replace("http://www.w3.org", "")
    assert page.count("not found") == len(FACTORS) - len(found)


def test_a_demo_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_CONVERT", {**demo._CONVERT, **toys.QUICK})
    monkeypatch.setattr(demo, "_ENCODER", {**demo._ENCODER, **_QUICK_ENCODER})
    monkeypatch.setattr(demo, "FITTED", 300)
    monkeypatch.setattr(demo, "_SECONDS", 0.1)
    out, told = tmp_path / "demo.safetensors", list[tuple[str, int]]()

    def stop(what: str, done: int, total: int | None) -> None:
        told.append((what, done))
        if what == stop_at:
            raise KeyboardInterrupt

    for stop_at, begins in (
        ("known answers", ("fit flow", 0)),
        ("typicality of codes", ("encoder", 0)),
        (None, ("encoder", 128)),
    ):
        told.clear()
        with pytest.raises(KeyboardInterrupt) if stop_at else nullcontext():
            demo.run_demo(out, stop)
        assert next(entry for entry in told if entry[0] in ("fit flow", "encoder") or entry == begins) == begins
    assert not {path.name for path in (tmp_path / "demo").iterdir()} & {"converted.safetensors", "state.safetensors"}
