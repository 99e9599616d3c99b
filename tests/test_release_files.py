"""Files that release 0.1 wrote (tests/data/make_release.py): they load, say what they are, and answer as that release did.

The machine that made them gives the same bits; other processors' kernels add up in another order.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from lia_adapter.cli.main import main
from lia_adapter.codes import read_codes
from lia_adapter.generators import fingerprint
from lia_adapter.jobs.reconstruct import reconstruct_images
from lia_adapter.lia import LIA
from lia_adapter.loading import load

DATA = next(parent / "data" for parent in Path(__file__).parents if parent.name == "tests")
FOLDER = DATA / "release-0.1"


@pytest.fixture(scope="module")
def answers() -> dict[str, Tensor]:
    with np.load(FOLDER / "answers.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="module")
def converted() -> LIA:
    return load(FOLDER / "converted.safetensors")


@pytest.fixture(scope="module")
def encoder() -> LIA:
    return load(FOLDER / "encoder.safetensors")


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_converted_lia(converted: LIA, answers: dict[str, Tensor]) -> None:
    assert converted.mapping is not None and converted.mapping.coupling == "dense"
    assert converted.metrics["round_trip"]["value"] < 1e-4 and converted.provenance["recipe"]["steps"] == 30
    close(converted.generator.mapping(answers["z"]), answers["y"])
    close(converted.to_y(answers["z"]), answers["converted_y"])
    close(converted.to_z(answers["y"]), answers["converted_z"])
    close(converted.sample([0, 1], psi=0.7, mapping="invertible"), answers["images"])
    assert converted.discriminator is not None
    close(converted.discriminator(converted.sample([0, 1], mapping="invertible")), answers["logits"])


def test_an_adapter_alone(converted: LIA, answers: dict[str, Tensor]) -> None:
    """It knows its generator, by the file and by the weights."""
    for generator in (converted.generator, FOLDER / "converted.safetensors"):
        adapter = load(FOLDER / "adapter.safetensors", generator=generator)
        assert adapter.mapping is not None and adapter.mapping.coupling == "additive"
        close(adapter.to_y(answers["z"]), answers["adapter_y"])
        close(adapter.to_z(answers["y"]), answers["adapter_z"])


def test_a_trained_encoder(encoder: LIA, answers: dict[str, Tensor]) -> None:
    assert "correlation" in encoder.metrics["encoder"]["after"]
    y = encoder.encode(answers["x"])
    close(y, answers["encoded"])
    close(encoder.reconstruct(answers["x"]), answers["reconstructed"])
    close(encoder.typicality_of(answers["encoded"]), answers["typicality"])
    close(encoder.to_z(answers["y"]), answers["converted_z"])


def test_codes(encoder: LIA, answers: dict[str, Tensor]) -> None:
    codes = read_codes(FOLDER / "codes.safetensors")
    assert codes.names == ("000.png", "001.png") and codes.about["how"] == "encode" and not codes.unreadable
    assert codes.generator == fingerprint(encoder.generator)
    assert {f"codes_{name}" for name in codes.tensors} == {name for name in answers if name.startswith("codes_")}
    for name, tensor in codes.tensors.items():
        assert torch.equal(tensor, answers[f"codes_{name}"])
    close(codes.tensors["y"], answers["encoded"])
    close(encoder.to_z(codes.tensors["y"]), codes.tensors["z"])


def test_codes_are_drawn_and_pasted_back(
    encoder: LIA, answers: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their images are found where they were, from the folder that they were made in."""
    shutil.copytree(FOLDER / "pictures", tmp_path / "pictures")
    monkeypatch.chdir(tmp_path)
    figures = reconstruct_images(encoder, FOLDER / "codes.safetensors", tmp_path / "out")
    assert figures["originals"] is None and figures["count"] == 2
    assert figures["mse_of"] == pytest.approx(dict(zip(("000.png", "001.png"), answers["codes_mse"].tolist(), strict=True)))
    for i, drawn in enumerate(answers["reconstructed"]):
        expected = (drawn * 127.5 + 128).clamp(0, 255).permute(1, 2, 0).numpy()
        with (
            Image.open(tmp_path / "out" / f"{i:03d}.png") as found,
            Image.open(tmp_path / "out" / f"{i:03d}.pasted.png") as whole,
        ):
            assert np.abs(np.asarray(found) - expected).max() <= 1.01
            assert found.size == (16, 16) and whole.size == (24, 16)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "converted",
            ["a LIA file: stylegan2 generator and adapter", "dense, z and y 16", "toy.pkl", "1.108 x its noise floor"],
        ),
        ("adapter", ["a LIA file: the adapter alone", "additive, z and y 16", "toy.pkl"]),
        ("encoder", ["a LIA file: stylegan2 generator and adapter", "into y, trained on 12 images"]),
        ("codes", ["codes.safetensors", "typicality"]),
    ],
)
def test_inspect_describes_them(name: str, words: list[str]) -> None:
    done = CliRunner().invoke(main, ["inspect", str(FOLDER / f"{name}.safetensors")])
    assert done.exit_code == 0, done.output
    for word in words:
        assert word in done.output
