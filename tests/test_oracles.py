"""Real files, read and drawn, against the arrays that the programs which wrote them computed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lia_adapter.checkpoints import read_checkpoint
from lia_adapter.generators import broadcast, build, truncate

pytestmark = pytest.mark.usefixtures("each_path")

CHECKPOINTS = Path(__file__).parents[2] / "shared" / "checkpoints"
PREFIXES = ("sg2ada", "sg3_sg2", "nv-faces32", "eps_rect")


def readable() -> dict[str, dict[str, Any]]:
    """StyleGAN2 files of NVlabs' torch programs, by name; empty where ../shared is absent."""
    manifest = CHECKPOINTS / "MANIFEST.json"
    fixtures = json.loads(manifest.read_text())["fixtures"] if manifest.exists() else {}
    return {
        name: fixture
        for name, fixture in fixtures.items()
        if fixture["format"] == "nvlabs-persistence-pkl" and name.startswith(PREFIXES)
    }


@dataclass(frozen=True)
class Case:
    """A file that was read and what its authors' program made of the same inputs."""

    generator: Any
    discriminator: nn.Module | None
    oracle: dict[str, Tensor]
    tolerance: dict[str, float | None]

    def label(self, name: str) -> Tensor | None:
        c = self.oracle.get(name)
        return c if c is not None and c.shape[1] else None

    def compare(self, found: Tensor, name: str, kind: str) -> None:
        tolerance = self.tolerance[kind]
        assert tolerance is not None
        torch.testing.assert_close(found, self.oracle[name], rtol=0, atol=tolerance)


@pytest.fixture(scope="module", params=sorted(readable()) or ["../shared is absent"])
def case(request: pytest.FixtureRequest, shared: Path) -> Case:
    fixture, folder = readable()[request.param], shared / "checkpoints"
    checkpoint = read_checkpoint(folder / fixture["checkpoint"])
    generator, discriminator = build(checkpoint.family, checkpoint.config, checkpoint.tensors)
    with np.load(folder / fixture["oracle"]) as arrays:
        oracle = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    return Case(generator, discriminator, oracle, fixture["tolerance"])


def test_mapping(case: Case) -> None:
    y = case.generator.mapping(case.oracle["z"], case.label("c"))
    case.compare(y, "w", "w")
    case.compare(broadcast(y, case.generator.num_ws), "ws", "w")
    case.compare(case.generator.y_mean, "w_avg", "w")


def test_truncation(case: Case) -> None:
    ys = broadcast(case.generator.mapping(case.oracle["z"], case.label("c")), case.generator.num_ws)
    for name, psi, cutoff in (("ws_psi0.5", 0.5, None), ("ws_psi0.7", 0.7, None), ("ws_psi0.7_cut2", 0.7, 2)):
        if name in case.oracle:
            case.compare(truncate(ys, case.generator.y_mean, psi, cutoff), name, "w")


@pytest.mark.parametrize(
    ("image", "ys", "noise_mode"),
    [
        ("img_const", "ws", "const"),
        ("img_none", "ws", "none"),
        ("img_mix_const", "ws_mix", "const"),
        ("img_mix_none", "ws_mix", "none"),
        ("img_const_psi0.7", "ws_psi0.7", "const"),
    ],
)
def test_images(case: Case, image: str, ys: str, noise_mode: str) -> None:
    if image not in case.oracle:
        pytest.skip(f"the oracle has no {image}")
    case.compare(case.generator.synthesis(case.oracle[ys], noise_mode=noise_mode), image, "img")


def test_images_from_z(case: Case) -> None:
    case.compare(case.generator(case.oracle["z"], case.label("c")), "img_const", "img")


def test_images_have_the_stated_size(case: Case) -> None:
    expected = (case.generator.channels, *case.generator.resolution)
    assert case.oracle["img_const"].shape[1:] == expected


def test_logits(case: Case) -> None:
    if case.discriminator is None:
        assert case.tolerance["logits"] is None
        pytest.skip("the file has no discriminator")
    x, c = case.oracle["d_img"], case.label("d_c")
    for name in ("d_logits", "d_logits_n4", "d_logits_n1"):  # the first n of the batch: another grouping of mbstd
        if name in case.oracle:
            n = len(case.oracle[name])
            case.compare(case.discriminator(x[:n], None if c is None else c[:n]), name, "logits")


def test_the_averaged_weights_were_taken(case: Case) -> None:
    y = case.generator.mapping(case.oracle["z"], case.label("c"))
    tolerance = case.tolerance["w"]
    assert tolerance is not None
    assert (y - case.oracle["w_of_G_not_ema"]).abs().max() > 10 * tolerance
