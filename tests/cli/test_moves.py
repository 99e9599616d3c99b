"""`mix`, `interpolate` and `video` as their users meet them."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from tests import toys
from tests.cli.test_convert_sample_inspect import refused, run
from tests.reports.test_page import needs_nothing


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a LIA that has an encoder, one that was not converted, a conditional one, and pictures."""
    folder = tmp_path_factory.mktemp("shop")
    plain = toys.stylegan()
    plain.save(folder / "plain.safetensors")
    toys.with_encoder(plain).save(folder / "toy.safetensors")
    toys.stylegan(c_dim=2).save(folder / "classes.safetensors")
    toys.pictures(folder / "in", 3)
    (folder / "void").mkdir()
    return folder


def test_a_mixture_says_which_layers_each_grid_has(shop: Path, tmp_path: Path) -> None:
    result = run("mix", shop / "toy.safetensors", shop / "in", "seeds:0-1", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "coarse     layer 0 of 4 from seeds:0-1\nmiddle     layers 1-2 of 4 from seeds:0-1\n" in result.stdout
    assert "wrote 18 mixtures into mix; open mix/mix.html in a browser" in result.stdout
    assert len(list((tmp_path / "mix").glob("*+*.png"))) == 18
    page = needs_nothing((tmp_path / "mix" / "mix.html").read_text())
    assert len([1 for name, _ in page.elements if name == "img"]) == 3 and "Middle: layers 1-2 from" in page.text
    one = run("mix", shop / "plain.safetensors", "seeds:1", "seeds:2", "--layers", "0,2-3", "-o", "one", cwd=tmp_path)
    assert "layers     layers 0, 2-3 of 4 from seeds:2" in one.stdout, one.stderr


def test_ways_are_drawn_measured_and_told_of(shop: Path, tmp_path: Path) -> None:
    result = run("interpolate", shop / "toy.safetensors", shop / "in" / "000.png", "seeds:3", "--steps", 4, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.search(r"length     \S+ straight in y, \S+ along a great circle in z: 000.png to seed0003", result.stdout)
    assert "sums over 3 steps of the root mean squared difference of pixels" in result.stdout
    page = needs_nothing((tmp_path / "path" / "path.html").read_text())
    assert "000.png → seed0003" in page.text and "no proof that it is the better one" in page.text
    plain = run("interpolate", shop / "plain.safetensors", "seeds:0", "seeds:1", "-o", "p", cwd=tmp_path)
    assert "left out   the way through z. This checkpoint was not converted" in plain.stdout
    assert "There is no way through z." in needs_nothing((tmp_path / "p" / "path.html").read_text()).text


def test_films_come_with_a_page_and_figures(shop: Path, tmp_path: Path) -> None:
    made = {
        "a.webp": (shop / "in", "seeds:3", "--frames", 2, "--loop"), "b.gif": ("--seconds", 0.2, "--fps", 25),
        "c.apng": (shop / "in" / "000.png", "seeds:4", "--frames", 3, "--space", "y"),
    }  # fmt: skip
    for (name, arguments), count in zip(made.items(), (8, 5, 4), strict=True):
        result = run("video", shop / "toy.safetensors", *arguments, "-o", name, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert f"wrote {name}: {count} frames of 8 x 8" in result.stdout and f"frames {count}/{count}" in result.stderr
        with Image.open(tmp_path / name) as image:
            assert getattr(image, "n_frames", 1) == count
        assert f"{count} frames of 8 x 8" in needs_nothing((tmp_path / name).with_suffix(".html").read_text()).text
        assert json.loads((tmp_path / name).with_suffix(".json").read_text())["count"] == count
    conditional = run("video", shop / "classes.safetensors", "--class", 1, "--seconds", 0.1, cwd=tmp_path)
    assert "wrote video.webp: 3 frames" in conditional.stdout, conditional.stderr


def test_what_directions_do_is_filmed(shop: Path, tmp_path: Path) -> None:
    found = run("directions", "find", "pca", shop / "toy.safetensors", "samples=500", "count=2", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    source = shop / "in" / "000.png"
    arguments = ("video", shop / "toy.safetensors", source, "--move", "pca-1=3", "--keep", "pca-2", "--seconds", 0.2)
    assert "about" in run(*arguments, "-n", cwd=tmp_path).stdout
    result = run(*arguments, cwd=tmp_path)
    assert "film       000.png along pca-1 ± 3 standard deviations, pca-2 kept, there and back" in result.stdout, result.stderr
    assert "wrote video.webp: 6 frames of 8 x 8" in result.stdout
    unknown = run("video", shop / "toy.safetensors", shop / "in", "--move", "pca-3=3", cwd=tmp_path)
    assert "pca-1" in refused(unknown)


def test_a_video_is_drawn_again(shop: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    assert run("video", shop / "toy.safetensors", "--seconds", 0.2, "-o", "a.mp4", cwd=tmp_path).returncode == 0
    result = run("video", shop / "toy.safetensors", "a.mp4", "--smooth", 1, "-o", "b.webm", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "smoothed in z over 1 frames, and pasted back\n" in result.stdout
    assert "wrote b.webm: 6 frames of 8 x 8" in result.stdout
    assert "-o would write over" in refused(run("video", shop / "toy.safetensors", "a.mp4", "-o", "a.mp4", cwd=tmp_path))


@pytest.mark.parametrize(
    "arguments",
    [
        ("mix", "in", "seeds:0-1"), ("interpolate", "in", "--steps", 4), ("video", "in", "--loop"), ("video", "--seconds", 2),
    ],
)  # fmt: skip
def test_what_it_would_take_is_told_and_nothing_written(shop: Path, tmp_path: Path, arguments: tuple[object, ...]) -> None:
    command, *rest = (shop / "in" if argument == "in" else argument for argument in arguments)
    result = run(command, shop / "toy.safetensors", *rest, "-n", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.search(r"memory +about .*\ntime +about", result.stdout) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("command", [("sample",), ("reconstruct", "in"), ("edit", "in"), ("mix", "in", "in"), ("video", "in")])
def test_truncation_is_a_number(shop: Path, command: tuple[str, ...], number: str) -> None:
    name, *rest = (shop / part if part == "in" else part for part in command)
    assert "is no finite number" in refused(run(name, shop / "toy.safetensors", *rest, "--trunc", number, cwd=shop))


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("mix plain.safetensors in seeds:0", "no encoder to read in with"),
        ("mix toy.safetensors void seeds:0", "holds no images"),
        ("video toy.safetensors --move smile=2", "--move needs a SOURCE to move"),
        ("video toy.safetensors in --move smile=2 --loop", "--loop is not for what directions do"),
        ("video toy.safetensors in --keep smile", "--keep is not for a way through key frames"),
        ("mix toy.safetensors gone seeds:0", "there is no gone"),
        ("mix toy.safetensors seeds:0-16 seeds:0", "holds 17 pictures; at most 16 are shown. Give fewer."),
        ("mix toy.safetensors seeds:0 seeds:none", "cannot read the seeds 'none'"),
        ("mix toy.safetensors seeds:0 seeds:1 --layers 4", "--layers names layer 4; this generator has 0 to 3."),
        ("mix toy.safetensors seeds:0 seeds:1 --layers 1 --fine", "--layers and --fine both"),
        ("mix toy.safetensors toy.safetensors seeds:1", "holds no codes"),
        ("mix toy.safetensors codes.npz seeds:1", "codes.npz"),
        ("mix classes.safetensors seeds:0 seeds:1", "this generator is conditional: give --class"),
        ("mix toy.safetensors seeds:0 seeds:1 --class 1", "this generator is unconditional"),
        ("interpolate toy.safetensors seeds:1", "the sources hold 1 in all to go between; expected 2 to 16."),
        ("interpolate toy.safetensors seeds:1-2 seeds:3", "seeds:1-2 holds 2 pictures; expected one in each source"),
        ("interpolate toy.safetensors seeds:1-2 --features gone.pth", "gone.pth"),
        ("video toy.safetensors seeds:1", "there is one key frame, seed0001"),
        ("video toy.safetensors seeds:0-1 -o a.avi", "-o a.avi must end in one of .webp, .apng, .gif, .mp4, .webm"),
        ("video toy.safetensors seeds:0-1 -o no/a.gif", "the folder"),
        ("video toy.safetensors seeds:0-1 --smooth 1", "--smooth is not for a way through key frames"),
        ("video toy.safetensors --loop", "--loop is not for a walk without sources"),
        ("video plain.safetensors seeds:0-1 --space z", "no way through z. This checkpoint was not converted"),
        ("video toy.safetensors --seconds 0.001", "--seconds is 0.001, which is not one frame at 30 a second"),
        ("video toy.safetensors --seconds inf", "inf is no finite number"),
        ("video toy.safetensors --fps nan", "nan is no finite number"),
        ("video toy.safetensors seeds:0-1 --fps 200", "200.0 is not in the range"),
        ("video toy.safetensors --fps 60 -o a.gif", "Give --fps 50, or write .webp."),
        ("video toy.safetensors a.mp4 seeds:0", "a.mp4 is a video, which is drawn by itself"),
        ("video plain.safetensors a.mp4", "no encoder"),
        ("video toy.safetensors in/000.png in/001.png -o in/000.png", "must end in one of"),
    ],
)
def test_what_cannot_be_done_is_one_line(shop: Path, command: str, said: str) -> None:
    before = sorted(shop.rglob("*"))
    result = run(*command.split(), cwd=shop)
    lines = [line for line in result.stderr.splitlines() if not re.match(r"(open|encode|pictures) ", line)]
    assert result.returncode == 2 and len(lines) == 1 and lines[0].startswith("lia-adapt: "), result.stderr
    assert said in lines[0]
    assert sorted(shop.rglob("*")) == before


def test_codes_of_another_generator_are_refused(shop: Path, tmp_path: Path) -> None:
    toys.with_encoder(toys.stylegan(seed=5)).save(tmp_path / "other.safetensors")
    assert run("encode", tmp_path / "other.safetensors", shop / "in", "-o", "c.safetensors", cwd=tmp_path).returncode == 0
    for command in (("mix", "seeds:0"), ("interpolate",), ("video",)):
        name, *more = command
        line = refused(run(name, shop / "toy.safetensors", "c.safetensors", *more, cwd=tmp_path))
        assert "holds codes of another generator" in line
