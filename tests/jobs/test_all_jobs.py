"""What all jobs have in common: names of results, devices, modules that are left as they were, words for both fronts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import lia_adapter
from lia_adapter.devices import device_name
from lia_adapter.errors import ConfigError, LIAError, argument
from lia_adapter.jobs.convert import convert
from lia_adapter.jobs.encode import encode
from lia_adapter.jobs.reconstruct import reconstruct_images
from lia_adapter.jobs.run import checked_out
from lia_adapter.jobs.train_encoder import train_encoder
from lia_adapter.lia import LIA
from tests import toys
from tests.cli.test_convert_sample_inspect import QUICK, refused, run
from tests.test_download import Site, site  # noqa: F401

SMALL = {key: json.loads(value) if value[0].isdigit() else value for key, value in (pair.split("=") for pair in QUICK)}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a LIA that has an encoder, and pictures."""
    folder = tmp_path_factory.mktemp("workshop")
    toys.with_encoder(toys.stylegan()).save(folder / "toy.safetensors")
    toys.pictures(folder / "in", 12)
    return folder


@pytest.mark.parametrize(
    ("command", "made"),
    [
        (("sample", "toy.safetensors", "--seeds", "0-1"), "samples.png"),
        (("encode", "toy.safetensors", "in"), "codes.safetensors"),
        (("invert", "toy.safetensors", "in", "--split", "first 1", "--steps", "1"), "inverted.safetensors"),
        (("reconstruct", "toy.safetensors", "in"), "reconstructions"),
        (("evaluate", "toy.safetensors", "--data", "in"), "evaluation.json"),
        (("compare", "toy.safetensors", "in", "--also", "same=in"), "comparison.json"),
        (("dataset", "in", "--size", "8x8"), "dataset.zip"),
    ],
)
def test_every_result_has_a_name_of_its_own(workshop: Path, command: tuple[str, ...], made: str) -> None:
    result = run(*command, cwd=workshop)
    assert result.returncode == 0, result.stderr
    assert (workshop / made).exists() and made in result.stdout


def test_pictures_of_another_run_are_not_lost(tmp_path: Path) -> None:
    lia, folder = toys.with_encoder(toys.stylegan()), toys.pictures(tmp_path / "in", 2)
    reconstruct_images(lia, folder, tmp_path / "out")
    before = (tmp_path / "out" / "000.png").read_bytes()
    reconstruct_images(lia, folder, tmp_path / "out")  # the same again
    with pytest.raises(ConfigError, match=r"holds grid.png, which a run on .*in made"):
        reconstruct_images(lia, folder, tmp_path / "out", psi=0.5)
    assert (tmp_path / "out" / "000.png").read_bytes() == before
    (toys.pictures(tmp_path / "others", 1) / "000.png").rename(tmp_path / "others" / "x.png")
    with pytest.raises(ConfigError, match=r"holds grid.png, which a run on .*in made"):  # though no other name is the same
        reconstruct_images(lia, tmp_path / "others", tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "001.png").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="something else made"):
        reconstruct_images(lia, folder, tmp_path / "mine")
    assert (tmp_path / "mine" / "001.png").read_bytes() == b"mine"


def test_an_interrupted_run_goes_over_its_own_pictures(tmp_path: Path) -> None:
    lia, folder = toys.with_encoder(toys.stylegan()), toys.pictures(tmp_path / "in", 3)

    def stop(name: str, done: int, total: int | None) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reconstruct_images(lia, folder, tmp_path / "out", batch=1, progress=stop)
    assert (tmp_path / "out" / "000.png").exists()
    assert reconstruct_images(lia, folder, tmp_path / "out", batch=1)["count"] == 3


def state_of(module: nn.Module) -> list[bool]:
    return [m.training for m in module.modules()] + [p.requires_grad for p in module.parameters()]


def test_modules_are_left_as_they_were_found(tmp_path: Path) -> None:
    generator = toys.stylegan().generator
    generator.train().requires_grad_(True)
    generator.get_submodule("synthesis").eval()  # a part has another mode
    found = state_of(generator)
    lia = convert(LIA(generator, family="stylegan2"), overrides=SMALL)
    assert state_of(generator) == found
    train_encoder(lia, toys.pictures(tmp_path / "in", 8), "encoder-cpu", toys.QUICK_ENCODER | {"images": 16})
    assert state_of(generator) == found


def test_jobs_write_without_a_command_line(tmp_path: Path) -> None:
    toys.checkpoint(tmp_path / "toy.pkl")
    lia = lia_adapter.convert(tmp_path / "toy.pkl", overrides=SMALL, out=tmp_path / "toy.safetensors", device="cpu")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy.json", "toy.pkl", "toy.png", "toy.safetensors"]
    folder = toys.pictures(tmp_path / "in", 8, lia.generator.resolution)
    small = toys.QUICK_ENCODER | {"images": 16}
    trained = lia_adapter.train_encoder(
        tmp_path / "toy.safetensors", folder, "encoder-cpu", small, out=tmp_path / "e.safetensors"
    )
    assert (tmp_path / "e").is_dir() and (tmp_path / "e.png").exists()
    assert lia_adapter.load(tmp_path / "e.safetensors").encoder is not None
    assert json.loads((tmp_path / "e.json").read_text())["after"] == trained.metrics["encoder"]["after"]


def test_encode_tells_what_it_found(tmp_path: Path) -> None:
    lia, folder = toys.with_encoder(toys.stylegan()), toys.pictures(tmp_path / "in", 5)
    (folder / "torn.png").write_bytes(b"no picture")
    first = encode(lia, folder, tmp_path / "c.safetensors")
    again = encode(lia, folder, tmp_path / "c.safetensors")  # from the file that is there
    assert first == again
    assert first.count == 5 and list(first.unreadable) == ["torn.png"] and 0 < first.mse <= first.worst


def test_words_are_those_of_the_layer(tmp_path: Path) -> None:
    error = LIAError(f"give {argument('trust_codes')}")
    assert str(error) == "give trust_codes" and error.told(lambda name: f"--{name}") == "give --trust_codes"
    with pytest.raises(ConfigError, match=r"^out x\.pt must end in \.safetensors"):
        checked_out("x.pt", "")
    toys.checkpoint(tmp_path / "toy.pkl")
    assert "-o x.pt must end in" in refused(run("convert", "toy.pkl", "-o", "x.pt", cwd=tmp_path))


@pytest.mark.parametrize("name", ["gpu", "abacus", "cuda:77", "mps"])
def test_a_device_that_cannot_be_used_is_told_in_one_line(name: str) -> None:
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("it can be used here")
    with pytest.raises(ConfigError, match=f"device '{name}'") as told:
        device_name(name)
    assert "\n" not in str(told.value) and len(str(told.value)) < 200


def test_a_dry_run_downloads_nothing(site: Site, tmp_path: Path) -> None:  # noqa: F811
    result = run("convert", site.url, "-n", cwd=tmp_path)
    assert result.returncode == 0 and site.asked == [], result.stderr
    assert "would download it" in result.stdout and "secret" not in result.stdout and "steps =" in result.stdout


def test_help_does_not_import_torch() -> None:
    code = "import sys; from lia_adapter.cli.main import COMMANDS, main\n"
    code += "for name in COMMANDS:\n    try: main.main([name, '--help'])\n    except SystemExit: pass\n"
    code += "print('torch' in sys.modules, 'requests' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"


@pytest.mark.parametrize(
    ("words", "offered"),
    [("lia-adapt tr", "train-encoder"), ("lia-adapt export --to ", "onnx"), ("lia-adapt convert --recipe c", "convert")],
)
def test_the_shell_completes(words: str, offered: str) -> None:
    count = len(words.split()) - (not words.endswith(" "))
    extra = {"_LIA_ADAPT_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(count)}
    code = "import sys; sys.argv = ['lia-adapt']; from lia_adapter.cli.main import main; main.main(prog_name='lia-adapt')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**extra, "PATH": ""}, check=False)
    assert f"plain,{offered}" in done.stdout.splitlines(), done.stderr


def test_the_package_has_what_it_says() -> None:
    assert all(hasattr(lia_adapter, name) for name in lia_adapter.__all__)
    assert set(lia_adapter.__all__) <= set(dir(lia_adapter))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lia_adapter.nothing  # noqa: B018
