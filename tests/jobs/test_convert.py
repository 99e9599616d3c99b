"""`convert`: the fit keeps distribution and seeds, resumes bit-identically, and never touches the generator."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lia_adapter
from lia_adapter.config import load_recipe
from lia_adapter.errors import ConfigError, LIAError
from lia_adapter.generators import MappingSampler, fingerprint, seed_to_z, wrap
from lia_adapter.jobs.convert import convert_lia
from lia_adapter.jobs.run import report_paths
from lia_adapter.keys import COUPLINGS
from lia_adapter.lia import LIA
from lia_adapter.metrics.features import PixelFeatures
from lia_adapter.metrics.mapping import compare_mappings, correlation
from lia_adapter.reports.convert import write_convert_report
from lia_adapter.training.convert_config import ConvertConfig
from lia_adapter.training.mapping import fit_mapping, pick_coupling
from tests import toys


def config(**changes: object) -> ConvertConfig:
    return load_recipe(ConvertConfig, "convert", toys.QUICK | changes)


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("c_dim", [0, 3])
def test_samples_have_the_originals_moments(coupling: str, c_dim: int) -> None:
    lia = toys.stylegan(c_dim=c_dim)
    mapping, _ = fit_mapping(lia.generator, config(coupling=coupling, statistics_samples=20_000), device=torch.device("cpu"))
    z, y, c = MappingSampler(lia.generator).pairs(20_000, torch.Generator().manual_seed(9))
    mine = mapping.to_y(z, c)
    spread = y.std(dim=0)
    assert ((mine.mean(dim=0) - y.mean(dim=0)).abs() / spread).max() < 0.05
    assert (
        (torch.cov(mine.t()) - torch.cov(y.t())).abs() / torch.outer(spread, spread)
    ).max() < 0.1  # of 20,000 samples with long tails
    assert ((mapping.to_y(mapping.to_z(y, c), c) - y).abs() / spread).max() < 1e-4


def test_dense_keeps_the_seeds_and_beats_the_closed_form() -> None:
    lia = toys.stylegan()
    z, y, _ = MappingSampler(lia.generator).pairs(4000, torch.Generator().manual_seed(9))
    kept = {}
    for coupling, steps in (("affine", 0), ("dense", 100)):
        mapping, _ = fit_mapping(lia.generator, config(coupling=coupling, steps=steps), device=torch.device("cpu"))
        kept[coupling] = correlation(mapping.to_y(z), y)
    assert kept["dense"] > 0.9
    assert kept["dense"] > kept["affine"]


def test_a_killed_fit_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    lia, state = toys.stylegan(), tmp_path / ".f.fit"
    recipe = config(save_seconds=0.0)

    class Killed(Exception):
        pass

    def kill(name: str, done: int, total: int | None) -> None:
        if done == 17:
            raise Killed

    whole, _ = fit_mapping(lia.generator, recipe, device=torch.device("cpu"))
    with pytest.raises(Killed):
        fit_mapping(lia.generator, recipe, device=torch.device("cpu"), state_path=state, identity="x", progress=kill)
    seen: list[int] = []
    resumed, history = fit_mapping(
        lia.generator, recipe, device=torch.device("cpu"), state_path=state, identity="x",
        progress=lambda name, done, total: seen.append(done),
    )  # fmt: skip
    assert seen[0] == 17
    assert len(history["loss"]) == recipe.steps
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True))


@pytest.mark.parametrize("damage", [b"", b"rubbish", None])
def test_a_state_that_is_damaged_or_of_another_run_is_ignored(tmp_path: Path, damage: bytes | None) -> None:
    lia, state = toys.stylegan(), tmp_path / ".f.fit"
    fit_mapping(lia.generator, config(), device=torch.device("cpu"), state_path=state, identity="another")
    if damage is not None:
        state.write_bytes(damage)
    seen: list[int] = []
    fit_mapping(
        lia.generator, config(), device=torch.device("cpu"), state_path=state, identity="mine",
        progress=lambda name, done, total: seen.append(done),
    )  # fmt: skip
    assert seen[0] == 0


def test_convert_leaves_the_generator_alone_and_measures(tmp_path: Path) -> None:
    lia = toys.stylegan()
    before = fingerprint(lia.generator)
    out = tmp_path / "f.safetensors"
    result = convert_lia(lia, config(), out=out)
    assert fingerprint(result.generator) == before
    assert result.metrics["coupling"] == "flow"
    assert 0 < result.metrics["sliced_wasserstein"]["floor"]
    assert result.metrics["round_trip"]["value"] < 1e-4
    assert result.metrics["images"] == 50
    paths = report_paths(out)
    assert write_convert_report(result, out) == paths["html"]
    figures = json.loads(paths["json"].read_text())
    assert figures["frechet"]["ratio"] == pytest.approx(figures["frechet"]["value"] / figures["frechet"]["floor"])
    assert figures["provenance"]["source"] == "toy.pkl"
    page = paths["html"].read_text()
    assert "data:image/png;base64," in page
    assert "http" not in page.replace("http://www.w3.org", "")  # self-contained
    with Image.open(paths["png"]) as picture:
        assert picture.size == (8 * 8, 8 * 8)


def test_the_picture_shows_the_original_above_the_new(tmp_path: Path) -> None:
    result = convert_lia(toys.stylegan(), config(), out=tmp_path / "f.safetensors")
    with Image.open(tmp_path / "f.png") as picture:
        pixels = torch.from_numpy(np.array(picture))
    z = seed_to_z([8], 16)  # first of the second pair of rows
    before = result.synthesize(result.generator.mapping(z))
    after = result.sample([8], mapping="invertible")
    for row, image in ((16, before), (24, after)):
        expected = (image[0] * 127.5 + 128).clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
        assert (pixels[row : row + 8, :8].int() - expected.int()).abs().max() <= 1


def test_a_mapping_compared_with_itself_sits_on_the_floor() -> None:
    """An exact replacement must be told to be one: here the original is itself an invertible mapping."""
    lia = toys.stylegan()
    mapping, _ = fit_mapping(lia.generator, config(steps=0, coupling="affine"), device=torch.device("cpu"))
    same = wrap(mapping=mapping.to_y, synthesis=lia.generator.synthesis, z_dim=16)
    found = compare_mappings(same, mapping, PixelFeatures(), samples=2000, seeds=2, statistics_samples=4000, image_seconds=0)
    assert found["seeds_white"]["value"] == pytest.approx(1)
    assert 0.7 < found["frechet"]["ratio"] < 1.3
    assert abs(found["classifier"]["excess"]) < 0.05
    assert found["typical_z"]["value"] == pytest.approx(1, abs=0.1)


def test_readme_generator_that_is_no_stylegan() -> None:
    torch.manual_seed(0)
    lia = lia_adapter.convert(wrap(toys.Sprites(), mapping="style", synthesis="draw"), overrides=toys.QUICK)
    assert isinstance(lia, LIA)
    assert lia.mapping is not None
    assert lia.mapping.coupling == "flow"
    z = torch.randn(5, 10)
    assert (lia.to_z(lia.to_y(z)) - z).abs().max() < 1e-3
    assert lia.sample([1, 2], mapping="invertible").shape == (2, 3, 8, 12)


@pytest.mark.parametrize(("z_dim", "y_dim"), [(6, 8), (8, 6)])
def test_sizes_of_z_and_y_may_differ(z_dim: int, y_dim: int) -> None:
    result = convert_lia(toys.stylegan(z_dim=z_dim, y_dim=y_dim), config())
    assert result.mapping is not None
    assert result.mapping.coupling == "flow"
    assert result.z_dim == y_dim
    assert torch.isfinite(result.sample([1, 2], mapping="invertible")).all()


def test_dense_is_refused_where_it_cannot_be_had() -> None:
    with pytest.raises(ConfigError, match="coupling=flow"):
        pick_coupling(toys.stylegan(z_dim=6, y_dim=8).generator, "dense")


def test_adversarial_refinement_moves_the_mapping_alone(tmp_path: Path) -> None:
    lia, random = toys.stylegan(), torch.Generator().manual_seed(0)
    for i in range(8):
        pixels = torch.randint(0, 255, [20, 30, 3], generator=random, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / f"{i}.png")
    assert lia.discriminator is not None
    before = fingerprint(lia.discriminator)
    plain = convert_lia(lia, config())
    refined = convert_lia(lia, config(refine_steps=3), data=tmp_path)
    assert fingerprint(lia.discriminator) == before
    assert "refine/G" in refined.metrics["losses"]
    assert not torch.equal(plain.sample([1], mapping="invertible"), refined.sample([1], mapping="invertible"))
    assert torch.equal(plain.sample([1]), refined.sample([1]))
    assert refined.metrics["round_trip"]["value"] < 1e-4
    assert refined.provenance["data"] == {"images": 8, "unreadable": 0}


def test_data_without_a_discriminator_are_refused(tmp_path: Path) -> None:
    lia = toys.stylegan()
    lia.discriminator = None
    with pytest.raises(LIAError, match="holds no discriminator"):
        convert_lia(lia, config(), data=tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"coupling": "cubic"}, {"batch": 1}, {"steps": -1}, {"dense_learning_rate": 0.0}, {"eval_seeds": 0}, {"seed": 2**31}],
)
def test_values_out_of_range_are_told(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(change))} is"):
        config(**change)
