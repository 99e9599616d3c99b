"""Real files, read and drawn, against the arrays that the programs which wrote them computed.

The manifest says what is expected of each file, so that a new one needs no new code.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from lia_adapter.checkpoints import Checkpoint, read_checkpoint
from lia_adapter.cli.main import main
from lia_adapter.errors import CheckpointError
from lia_adapter.generators import broadcast, build, build_encoder, truncate
from lia_adapter.loading import load
from lia_adapter.mapping import InvertibleMapping
from tests import toys

pytestmark = pytest.mark.usefixtures("each_implementation")

CHECKPOINTS = Path(__file__).parents[2] / "shared" / "checkpoints"
ABSENT = ["../shared is absent"]


def fixtures() -> dict[str, dict[str, Any]]:
    """The manifest's entries by name; empty where ../shared is absent."""
    manifest = CHECKPOINTS / "MANIFEST.json"
    found: dict[str, dict[str, Any]] = json.loads(manifest.read_text())["fixtures"] if manifest.exists() else {}
    return found


def expected(*kinds: str) -> list[str]:
    return sorted(name for name, fixture in fixtures().items() if fixture["expect"] in kinds) or ABSENT


@dataclass(frozen=True)
class Case:
    """A file that was read and what its authors' program made of the same inputs."""

    checkpoint: Checkpoint
    generator: Any
    discriminator: nn.Module | None
    oracle: dict[str, Tensor]
    tolerance: dict[str, float | None]

    def has(self, *names: str) -> None:
        """Skips the test where the oracle lacks an array."""
        for name in names:
            if name not in self.oracle:
                pytest.skip(f"the oracle has no {name}")

    def label(self, name: str) -> Tensor | None:
        c = self.oracle.get(name)
        return c if c is not None and c.shape[1] else None

    def y(self) -> Tensor:
        y: Tensor = self.generator.mapping(self.oracle["z"], self.label("c"))
        return y

    def ys(self) -> Tensor:
        """[N, num_ws, y_dim], also of a mapping that gives each layer its own."""
        y, n = self.y(), self.generator.num_ws
        return y.unflatten(1, [n, -1]) if y.shape[1] == n * self.generator.y_dim != self.generator.y_dim else broadcast(y, n)

    def compare(self, found: Tensor, name: str, kind: str) -> None:
        tolerance = self.tolerance[kind]
        assert tolerance is not None
        torch.testing.assert_close(found, self.oracle[name].reshape(found.shape), rtol=0, atol=tolerance)


def read_case(name: str, shared: Path) -> Case:
    fixture, folder = fixtures()[name], shared / "checkpoints"
    checkpoint = read_checkpoint(folder / fixture["checkpoint"])
    generator, discriminator = build(checkpoint.family, checkpoint.config, checkpoint.tensors)
    with np.load(folder / fixture["oracle"]) as arrays:
        oracle = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    return Case(checkpoint, generator, discriminator, oracle, fixture["tolerance"])


@pytest.fixture(scope="module", params=expected("convert", "per-layer"))
def drawn(request: pytest.FixtureRequest, shared: Path) -> Case:
    return read_case(request.param, shared)


@pytest.fixture(scope="module", params=expected("convert", "per-layer", "mapping-only"))
def mapped(request: pytest.FixtureRequest, shared: Path) -> Case:
    return read_case(request.param, shared)


@pytest.fixture(scope="module", params=expected("convert", "per-layer", "discriminator"))
def judged(request: pytest.FixtureRequest, shared: Path) -> Case:
    return read_case(request.param, shared)


def test_mapping(mapped: Case) -> None:
    mapped.compare(mapped.ys(), "ws", "w")
    if "w" in mapped.oracle:
        mapped.compare(mapped.y(), "w", "w")


def test_centre_of_truncation(mapped: Case) -> None:
    mapped.has("w_avg")
    means = mapped.generator.y_means  # StyleGAN-XL has one for each class
    mapped.compare(mapped.generator.y_mean if means is None else means, "w_avg", "w")


@pytest.mark.parametrize(
    ("name", "psi", "cutoff"), [("ws_psi0.5", 0.5, None), ("ws_psi0.7", 0.7, None), ("ws_psi0.7_cut2", 0.7, 2)]
)
def test_truncation(mapped: Case, name: str, psi: float, cutoff: int | None) -> None:
    mapped.has(name, "w_avg")
    mean, c = mapped.generator.y_mean, mapped.label("c")
    means = mapped.generator.y_means
    if means is not None and c is not None:
        mean = (c @ means)[:, None]
    if mean.shape[-1] != mapped.generator.y_dim:
        mean = mean.unflatten(-1, [mapped.generator.num_ws, -1])
    mapped.compare(truncate(mapped.ys(), mean, psi, cutoff), name, "w")


@pytest.mark.parametrize(
    ("image", "ys", "noise_mode"),
    [
        ("img_const", "ws", "const"),
        ("img_none", "ws", "none"),
        ("img_mix_const", "ws_mix", "const"),
        ("img_mix_none", "ws_mix", "none"),
        ("img_const_psi0.5", "ws_psi0.5", "const"),
        ("img_const_psi0.7", "ws_psi0.7", "const"),
        ("img_const_psi0.7_cut2", "ws_psi0.7_cut2", "const"),
    ],
)
def test_images(drawn: Case, image: str, ys: str, noise_mode: str) -> None:
    drawn.has(image, ys)
    drawn.compare(drawn.generator.synthesis(drawn.oracle[ys], noise_mode=noise_mode), image, "img")


def test_images_from_z(drawn: Case) -> None:
    drawn.has("img_const")
    drawn.compare(drawn.generator.synthesis(drawn.ys()), "img_const", "img")


def test_images_have_the_stated_size(drawn: Case) -> None:
    image = next(drawn.oracle[name] for name in ("img_const", "img_none", "img_mix_const") if name in drawn.oracle)
    assert image.shape[1:] == (drawn.generator.channels, *drawn.generator.resolution)


def test_planes(mapped: Case) -> None:
    mapped.has("planes_8x8_mean")
    planes = mapped.generator.synthesis(mapped.oracle["ws"][:1], noise_mode="const")
    small = nn.functional.avg_pool2d(planes, planes.shape[-1] // mapped.oracle["planes_8x8_mean"].shape[-1])
    mapped.compare(small, "planes_8x8_mean", "img")


@pytest.mark.parametrize("name", ["d_logits", "d_logits_n4", "d_logits_n1"])  # the first n: another grouping of mbstd
def test_logits(judged: Case, name: str) -> None:
    judged.has(name)
    if judged.discriminator is None:
        why = " ".join(judged.checkpoint.notes)
        assert "discriminator" in why, "a discriminator that is not read is at least spoken of"
        pytest.skip(f"no discriminator: {why}")
    n = len(judged.oracle[name])
    c = judged.label("d_c")
    judged.compare(judged.discriminator(judged.oracle["d_img"][:n], None if c is None else c[:n]), name, "logits")


def test_the_averaged_weights_were_taken(mapped: Case) -> None:
    mapped.has("w_of_G_not_ema")
    tolerance = mapped.tolerance["w"]
    assert tolerance is not None
    assert (mapped.y() - mapped.oracle["w_of_G_not_ema"]).abs().max() > 10 * tolerance


@pytest.mark.parametrize("name", expected("convert", "encoder"))
def test_encoder(name: str, shared: Path) -> None:
    case = read_case(name, shared)
    encoder = build_encoder(case.checkpoint.config, case.checkpoint.tensors)
    if encoder is None:
        assert "e_w" not in case.oracle and fixtures()[name]["expect"] != "encoder"
        pytest.skip("the file has no encoder")
    codes, tolerance = encoder(case.oracle["e_img"]), case.tolerance["w"]
    assert tolerance is not None
    wanted = case.oracle["e_w"].reshape(codes.shape)
    # Random weights make codes of some thousands, of which float32 has seven digits: the tolerance is that of a scale of 1.
    torch.testing.assert_close(codes, wanted, rtol=0, atol=tolerance * max(1.0, float(wanted.std())))
    if "e_rec" in case.oracle:
        case.compare(case.generator.synthesis(broadcast(codes, case.generator.num_ws)), "e_rec", "img")


@pytest.mark.parametrize("name", expected("convert"))
def test_invertible_mapping(name: str, shared: Path) -> None:
    case = read_case(name, shared)
    case.has("ne_z_tied")
    assert isinstance(case.generator.mapping, InvertibleMapping)
    y = case.oracle["ne_w_in"]
    z = case.generator.mapping.to_z(y)
    case.compare(z.float(), "ne_z_tied", "w")
    torch.testing.assert_close(case.generator.mapping.to_y(z), y.to(z.dtype), rtol=0, atol=1e-5, check_dtype=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", expected("convert"))
def test_the_commands(name: str, shared: Path, tmp_path: Path) -> None:
    """Each goes through convert, and samples afterwards; conditional ones by class."""
    source = shared / "checkpoints" / fixtures()[name]["checkpoint"]
    out, picture = tmp_path / "f.safetensors", tmp_path / "p.png"
    few = ["--steps", "50", "statistics_samples=5000", "eval_samples=1000"]
    done = CliRunner().invoke(main, ["convert", str(source), *few, "-o", str(out)])
    assert done.exit_code == 0, done.output
    of_class = ["--class", "1"] if load(out).generator.c_dim else []
    done = CliRunner().invoke(main, ["sample", str(out), "--seeds", "0-3", *of_class, "-o", str(picture)])
    assert done.exit_code == 0 and picture.exists(), done.output


def test_the_official_lia_becomes_one_file(shared: Path, tmp_path: Path) -> None:
    source, out = shared / "checkpoints" / "lia_tf.pkl", tmp_path / "lia.safetensors"
    done = CliRunner().invoke(main, ["convert", str(source), "-o", str(out)])
    assert done.exit_code == 0 and "nothing to fit" in done.output, done.output
    lia, original = load(out), load(source)
    with np.load(shared / "checkpoints" / "lia_tf.npz") as arrays:
        x = torch.from_numpy(arrays["e_img"])
    assert torch.equal(lia.encode(x), original.encode(x)) and torch.equal(lia.reconstruct(x), original.reconstruct(x))
    y = lia.encode(x)
    torch.testing.assert_close(lia.to_y(lia.to_z(y)), y, rtol=0, atol=1e-5)
    assert torch.equal(lia.sample([3], psi=0.7), original.sample([3], psi=0.7))
    codes = tmp_path / "codes.safetensors"
    toys.pictures(tmp_path / "images", 2, (16, 16))
    done = CliRunner().invoke(main, ["encode", str(out), str(tmp_path / "images"), "-o", str(codes)])
    assert done.exit_code == 0 and codes.exists(), done.output


@pytest.mark.parametrize("name", expected("refuse"))
def test_refused_by_name(name: str, shared: Path) -> None:
    with pytest.raises(CheckpointError, match=r" holds .*: ") as refusal:
        read_checkpoint(shared / "checkpoints" / fixtures()[name]["checkpoint"])
    assert "\n" not in str(refusal.value)
