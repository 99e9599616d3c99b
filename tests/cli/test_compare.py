"""`compare` as its users meet it, with right and wrong inputs."""

from pathlib import Path

import pytest

from tests import toys
from tests.cli.test_convert_sample_inspect import refused, run


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a LIA file, pictures, codes of them, and codes by another program."""
    folder = tmp_path_factory.mktemp("workshop")
    lia = toys.with_encoder(toys.stylegan())
    lia.save(folder / "toy.safetensors")
    toys.pictures(folder / "in", 6)
    (folder / "in" / "torn.png").write_bytes(b"no picture")
    toys.with_encoder(toys.stylegan(seed=3)).save(folder / "stranger.safetensors")
    for name, file in (("toy", "c"), ("stranger", "d")):
        done = run("encode", f"{name}.safetensors", "in", "-o", f"{file}.safetensors", cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def test_compare(workshop: Path, tmp_path: Path) -> None:
    command = ("compare", workshop / "toy.safetensors", workshop / "in", "--codes", f"mine={workshop / 'c.safetensors'}")
    options = ("--also", f"same={workshop / 'in'}", "-o", "c.html")
    dry = run(*command, *options, "-n", cwd=tmp_path)
    assert dry.returncode == 0 and "time " in dry.stdout and not list(tmp_path.iterdir())
    result = run(*command, *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"c.{ending}" for ending in ("csv", "html", "json", "png", "tex")
    ]
    first, *lines = result.stdout.splitlines()
    assert first.split() == ["6", "images", "encoder", "mine", "same"]
    table = {line.split("  ")[0]: line.split() for line in lines}
    assert table["MSE"][-1] == "0.0000" and table["PSNR (dB)"][-1] == "∞" and table["LEC"][-1] == "–"
    assert "same is better than encoder by MSE" in result.stdout and "wrote c.json; open c.html in a browser" in result.stdout
    assert "'torn.png': 'mine' does not have it" in result.stdout
    assert "measure encoder 6/6" in result.stderr and "read 12/12" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--codes", "c.safetensors"), "'c.safetensors' is no NAME=FILE, such as"),
        (("--also", "=in"), "'=in' is no NAME=FOLDER, such as"),
        (("--also", "a=in", "--also", "a=other"), "two methods are called 'a'"),
        (("--also", "a=in", "--codes", "a=c.safetensors"), "two methods are called 'a'"),
        (("--codes", "a=d.safetensors"), "d.safetensors holds codes of another generator"),
        (("--codes", "a=in/000.png"), "Run lia-adapt encode"),
        (("--codes", "a=nothing.safetensors"), "there is no codes file nothing.safetensors"),
        (("--also", "a=nothing"), "there is no nothing, for the method 'a'"),
        (("--also", "a=c.safetensors"), "c.safetensors"),
        (("--lpips",), "--lpips needs a network"),
        (("--features", "c.safetensors"), "torchvision"),
        (("--identity", "in/000.png"), "--identity: "),
        (("-o", "c.pdf"), "-o c.pdf must end in .json"),
        (("--split", "first 100"), "more images than"),
    ],
)  # fmt: skip
def test_wrong_inputs_end_in_one_line(workshop: Path, options: tuple[str, ...], message: str) -> None:
    assert message in refused(run("compare", "toy.safetensors", "in", *options, cwd=workshop))
