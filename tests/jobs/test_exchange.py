"""Directions to and from other programs: files are read here as those programs read them."""

import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lia_adapter import ops, projected
from lia_adapter.editing import Direction, Directions
from lia_adapter.errors import ConfigError, LIAError
from lia_adapter.generators import fingerprint, wrap
from lia_adapter.jobs.exchange import FORMS, export_directions, import_directions
from lia_adapter.lia import LIA
from lia_adapter.loading import load
from lia_adapter.mapping import InvertibleMapping
from tests import toys

DIM, LAYERS = 16, 4


pytestmark = pytest.mark.usefixtures("reference_ops")


@pytest.fixture(scope="module")
def lia() -> LIA:
    with ops.using("reference"):
        return toys.stylegan()


@pytest.fixture
def known(lia: LIA) -> Directions:
    random, space = torch.Generator().manual_seed(0), lia.code_space("y")
    steps = space.step(torch.randn(3, DIM, generator=random)).float()
    names = ("smile", "age 2", "größe")
    return Directions(fingerprint(lia.generator), tuple(Direction(n, "y", s, "t") for n, s in zip(names, steps, strict=True)))


def test_interfacegan_reads_a_unit_normal(known: Directions, tmp_path: Path) -> None:
    assert [p.name for p in export_directions(known, "interfacegan", tmp_path)] == ["smile.npy", "age 2.npy", "größe.npy"]
    boundary = np.load(tmp_path / "smile.npy")  # as its edit.py does
    assert boundary.shape == (1, DIM) and boundary.dtype == np.float32
    assert np.linalg.norm(boundary) == pytest.approx(1, abs=1e-6)
    latent = np.zeros((1, DIM)) + np.linspace(-3, 3, 5).reshape(-1, 1).astype(np.float32) * boundary  # linear_interpolate
    step = known["smile"].step
    assert np.allclose(latent[4], 3 * (step / step.norm()).numpy(), atol=1e-5)


def test_psp_adds_a_tensor(known: Directions, tmp_path: Path) -> None:
    export_directions(known, "psp", tmp_path)
    tensor = torch.load(tmp_path / "smile.pt", weights_only=True)
    assert tensor.shape == (1, DIM) and torch.equal(tensor[0], known["smile"].step)
    assert (torch.zeros(1, 18, DIM) + 2 * tensor).shape == (1, 18, DIM)  # edit_latents


def test_ganspace_has_components_and_their_deviations(known: Directions, lia: LIA, tmp_path: Path) -> None:
    (path,) = export_directions(known, "ganspace", tmp_path, lia)
    with np.load(path, allow_pickle=False) as arrays:
        assert {"lat_comp", "lat_stdev"} <= set(arrays)
        comp, stdev = arrays["lat_comp"], arrays["lat_stdev"]
    assert comp.shape == (3, 1, DIM) and stdev.shape == (3,) and comp.dtype == stdev.dtype == np.float32
    assert np.allclose(np.linalg.norm(comp, axis=-1), 1, atol=1e-6)
    assert np.allclose(comp[1] * stdev[1], known["age 2"].step.numpy()[None], atol=1e-6)


def test_ganspace_reads_components_as_its_own(lia: LIA, tmp_path: Path) -> None:
    """All that its viewer takes out of the file (interactive.py), beside what numpy finds in samples of w."""
    k, found = 3, Directions.find("pca", lia, count=3, samples=20_000)
    (path,) = export_directions(found, "ganspace", tmp_path, lia)
    with np.load(path, allow_pickle=False) as data:
        arrays = {key: data[key] for key in data}
    assert {key: array.shape for key, array in arrays.items()} == {
        "act_comp": (k, 1, DIM), "act_mean": (1, DIM), "act_stdev": (k,), "lat_comp": (k, 1, DIM), "lat_mean": (1, DIM),
        "lat_stdev": (k,), "var_ratio": (k,), "random_stdevs": (k,),
    }  # fmt: skip
    assert all(array.dtype == np.float32 for array in arrays.values())
    w = lia.generator.mapping(torch.from_numpy(np.random.RandomState(7).randn(40_000, DIM)).float()).numpy()
    variances, axes = np.linalg.eigh(np.cov(w.T))
    assert np.allclose(arrays["lat_mean"][0], w.mean(axis=0), atol=0.05 * w.std())
    assert np.allclose(arrays["act_stdev"], variances[::-1][:k] ** 0.5, rtol=0.03)
    assert np.allclose((w @ arrays["lat_comp"][:, 0].T).std(axis=0), arrays["lat_stdev"], rtol=0.03)
    assert np.allclose(arrays["var_ratio"], variances[::-1][:k] / variances.sum(), rtol=0.05)
    assert np.abs(np.sum(arrays["act_comp"][:, 0] * axes.T[::-1][:k], axis=1)).min() > 0.98
    random = np.random.RandomState(2).randn(2000, DIM)
    spread = (w @ (random / np.linalg.norm(random, axis=1, keepdims=True)).T).std(axis=0)
    assert spread.min() * 0.9 < arrays["random_stdevs"].min() and arrays["random_stdevs"].max() < spread.max() * 1.1


@pytest.mark.parametrize("form", FORMS)
def test_files_of_others_are_left_alone(known: Directions, lia: LIA, tmp_path: Path, form: str) -> None:
    of = lia if form == "ganspace" else None
    paths = export_directions(known, form, tmp_path / "out", of)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}
    assert export_directions(known, form, tmp_path / "out", of) == paths  # once more the same
    assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}
    other = replace(known, found=tuple(replace(one, step=one.step.flip(0)) for one in known))
    with pytest.raises(ConfigError, match=f"out .*out holds {paths[0].name}, which something else made, or other directions"):
        export_directions(other, form, tmp_path / "out", of)
    paths[0].unlink()
    paths[-1].unlink(missing_ok=True)
    paths[-1].mkdir()  # nor is any written where another may not be
    with pytest.raises(ConfigError, match=f"holds {paths[-1].name}"):
        export_directions(known, form, tmp_path / "out", of)
    assert len(paths) == 1 or not paths[0].exists()


def test_ganspace_wants_the_generator(known: Directions, lia: LIA, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a file for ganspace holds the mean and the spread of y, too: give lia"):
        export_directions(known, "ganspace", tmp_path / "out")
    with pytest.raises(ConfigError, match="a file for psp needs no lia"):
        export_directions(known, "psp", tmp_path / "out", lia)
    with pytest.raises(LIAError, match="of another generator"):
        export_directions(known, "ganspace", tmp_path / "out", toys.stylegan(seed=5))
    assert not (tmp_path / "out").exists()


class _Linear(torch.nn.Module):
    """z of 6 -> y of 10, by a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.style = torch.nn.Linear(6, 10)
        self.out = torch.nn.Linear(10, 3 * 64)

    def draw(self, y: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.out(y)).reshape(-1, 3, 8, 8)


def test_a_boundary_of_z_becomes_its_step_in_y(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = _Linear()
    linear = LIA(wrap(net, mapping="style", synthesis=net.draw, z_dim=6, y_dim=10, num_ws=1))
    normal = np.random.RandomState(0).randn(1, 6)
    np.save(tmp_path / "smile_boundary.npy", normal / np.linalg.norm(normal))  # float64, as InterFaceGAN's are
    (found,) = import_directions(linear, [tmp_path / "smile_boundary.npy"], "z")
    step = normal[0] @ net.style.weight.detach().double().numpy().T  # what a step of z makes of y, wherever
    assert (found.name, found.space, found.about["space_of_file"]) == ("smile_boundary", "y", "z")
    cosine = found.step.numpy() @ step / np.linalg.norm(found.step) / np.linalg.norm(step)
    assert cosine == pytest.approx(1, abs=1e-5)
    deviation = np.linalg.norm(net.style.weight.detach().double().numpy().T @ step / np.linalg.norm(step))
    assert float(found.step.norm()) == pytest.approx(deviation, rel=0.03)
    for space, size in (("y", 10), ("z", 6)):
        np.save(tmp_path / "wrong.npy", np.ones((1, 16 - size), np.float32))
        with pytest.raises(LIAError, match=rf"takes \[N, {size}\]"):
            import_directions(linear, [tmp_path / "wrong.npy"], space)
    with pytest.raises(LIAError, match="space is 's'; expected y or z"):
        import_directions(linear, [tmp_path / "smile_boundary.npy"], "s")


@pytest.mark.parametrize("c_dim", [0, 3])
def test_a_boundary_of_z_moves_seeds_as_the_original_mapping_does(tmp_path: Path, c_dim: int) -> None:
    lia = toys.with_encoder(toys.stylegan(c_dim=c_dim))
    np.save(tmp_path / "b.npy", np.eye(DIM, dtype=np.float32)[:2])
    found = import_directions(lia, [tmp_path / "b.npy"], "z")
    z = torch.from_numpy(np.random.RandomState(3).randn(20_000, DIM)).float()
    c = torch.eye(3)[torch.arange(20_000) % 3] if c_dim else None
    for i, one in enumerate(found):
        slope = (z[:, i : i + 1] * lia.generator.mapping(z, c)).mean(dim=0)  # E[∂y/∂zᵢ] = E[zᵢ y] (Stein 1981)
        assert float(torch.nn.functional.cosine_similarity(one.step.float(), slope, dim=0)) > 0.99


def test_a_generator_trained_with_its_own_mapping_keeps_directions_of_z(tmp_path: Path) -> None:
    generator = toys.stylegan(invertible=InvertibleMapping("affine", DIM).config()).generator
    own = LIA(generator, generator.learnt_mapping)
    np.save(tmp_path / "b.npy", 5 * np.eye(DIM)[:1])
    (found,) = import_directions(own, [tmp_path / "b.npy"], "z")
    assert found.space == "z" and torch.equal(found.step.float(), torch.eye(DIM)[0])


def test_what_a_file_of_ganspace_says_of_its_space(lia: LIA, tmp_path: Path) -> None:
    comp, k = np.eye(DIM, dtype=np.float32)[:3, None], 3
    rest = {
        "act_comp": np.zeros((k, 1, 512, 4, 4), np.float32), "act_mean": np.zeros((1, 512, 4, 4), np.float32),
        "act_stdev": np.ones(k, np.float32), "lat_mean": np.zeros((1, DIM), np.float32),
        "var_ratio": np.ones(k, np.float32), "random_stdevs": np.ones(k, np.float32),
    }  # fmt: skip
    of_w = npz(tmp_path / "w.npz", lat_comp=comp, lat_stdev=np.array([3, 2, 1], np.float32), **rest)
    of_z = npz(tmp_path / "z.npz", lat_comp=comp, lat_stdev=np.ones(k, np.float32), **rest)
    (tmp_path / "unsaid").mkdir()
    unsaid = npz(tmp_path / "unsaid" / "z.npz", lat_comp=comp)

    def steps(path: Path, space: str | None = None) -> torch.Tensor:
        found = import_directions(lia, [path], space)
        assert found.names == [f"{path.stem}-{i}" for i in (1, 2, 3)]
        return torch.stack([one.step.float() for one in found])

    plain = steps(of_w)
    assert torch.equal(plain / plain.norm(dim=1, keepdim=True), torch.eye(DIM)[:3])
    assert not torch.allclose(steps(of_z), plain, atol=0.01) and torch.equal(steps(of_z, "y"), plain)
    assert torch.equal(steps(unsaid), plain) and torch.equal(steps(unsaid, "z"), steps(of_z))


def test_a_mapping_that_gives_each_layer_its_own_has_no_one_y(shared: Path, tmp_path: Path) -> None:
    lia = load(shared / "checkpoints" / "idinvert_generator.pth")
    np.save(tmp_path / "a.npy", np.ones((1, 32), np.float32))
    for space in ("y", "z"):
        with pytest.raises(LIAError, match="each of its 6 layers a y of its own"):
            import_directions(lia, [tmp_path / "a.npy"], space)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_is_read_as_the_same(known: Directions, lia: LIA, tmp_path: Path, form: str) -> None:
    found = import_directions(lia, export_directions(known, form, tmp_path, lia if form == "ganspace" else None))
    assert found.generator == known.generator
    assert found.names == (known.names if form != "ganspace" else ["components-1", "components-2", "components-3"])
    for one, two in zip(known, found, strict=True):  # whose unit is one standard deviation here, as it was there
        torch.testing.assert_close(two.step.float(), one.step, rtol=1e-4, atol=1e-5)
        assert two.space == "y" and two.method == "import"


def test_a_step_for_each_layer_is_of_ys(lia: LIA, tmp_path: Path) -> None:
    wide = np.random.default_rng(0).normal(size=(LAYERS, DIM)).astype(np.float32)
    wide[1] = 0
    np.save(tmp_path / "wide.npy", wide)
    (found,) = import_directions(lia, [tmp_path / "wide.npy"])
    assert found.space == "ys" and found.step.shape == (LAYERS, DIM) and not found.step[1].any()
    ratios = found.step.numpy()[[0, 2, 3]] / wide[[0, 2, 3]]
    assert np.allclose(ratios, ratios[0, 0], rtol=1e-4)
    with pytest.raises(LIAError, match="'wide' is of ys"):
        export_directions(Directions("a", (found,)), "psp", tmp_path / "out")


def test_what_has_no_form_there(known: Directions, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="no form 'x'; expected interfacegan, ganspace, psp"):
        export_directions(known, "x", out)
    for form in FORMS:
        with pytest.raises(LIAError, match="no directions"):
            export_directions(Directions("a", ()), form, out)
    for name in ("a/b", "../x", "/etc/x"):
        with pytest.raises(LIAError, match="is no name of a file. Rename it"):
            export_directions(known.renamed({"größe": name}), "psp", out)
    both = Directions("a", (*known, Direction("smile", "z", torch.ones(DIM), "t")))
    with pytest.raises(LIAError, match="'smile' is of y and of z"):
        export_directions(both, "interfacegan", out)
    for form in ("psp", "ganspace"):
        with pytest.raises(LIAError, match="'smile' is of z, which"):
            export_directions(both, form, out)
    assert not out.exists()


class Evil:
    """What a pickle would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("ran",)


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def files_of_no_use(folder: Path) -> dict[str, tuple[Path, str]]:
    random = np.random.default_rng(0)
    good = random.normal(size=(3, 1, DIM)).astype(np.float32)
    (folder / "junk.npz").write_bytes(b"junk")
    (folder / "junk.npy").write_bytes(b"junk")
    (folder / "junk.pt").write_bytes(b"junk")
    buffer = io.BytesIO()
    np.savez(buffer, lat_comp=good)
    (folder / "cut.npz").write_bytes(buffer.getvalue()[:-30])
    damaged = bytearray(buffer.getvalue())
    damaged[len(damaged) // 3] ^= 0xFF
    (folder / "damaged.npz").write_bytes(damaged)
    with zipfile.ZipFile(folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("lat_comp.npy", "w", force_zip64=True) as file:
            file.write(bytes(2**21))
    np.save(folder / "zero.npy", np.zeros((1, DIM), np.float32))
    np.save(folder / "other.npy", np.ones((1, DIM + 1), np.float32))
    np.save(folder / "whole.npy", np.ones((1, DIM), np.int64))
    np.save(folder / "nan.npy", np.full((1, DIM), np.nan, np.float32))
    torch.save({"a": Evil()}, folder / "evil.pt")
    return {
        "missing": (folder / "missing.npz", "there is no"), "junk.npz": (folder / "junk.npz", "no .npz file, or damaged"),
        "junk.npy": (folder / "junk.npy", "no array of numpy"), "junk.pt": (folder / "junk.pt", "junk.pt"),
        "cut": (folder / "cut.npz", "damaged"), "damaged": (folder / "damaged.npz", "damaged"),
        "bomb": (folder / "bomb.npz", "more than codes take"),
        "zero": (folder / "zero.npy", "direction zero is zero"), "other": (folder / "other.npy", r"holds codes \[1, 17\]"),
        "whole": (folder / "whole.npy", "expected floating-point"), "nan": (folder / "nan.npy", "not finite"),
        "evil": (folder / "evil.pt", "evil.pt"),
        "sizes": (npz(folder / "sizes.npz", lat_comp=good[:, :, 1:]), r"lat_comp \[3, 1, 15\]"),
        "scalar": (npz(folder / "scalar.npz", lat_comp=np.float32(1)), r"lat_comp \[\]"),
        "text": (npz(folder / "text.npz", lat_comp=np.array([["a"] * DIM])), "of <U1"),
        "complex": (npz(folder / "complex.npz", lat_comp=good + 1j), "complex"),
        "empty": (npz(folder / "empty.npz", lat_comp=good[:0]), r"lat_comp \[0, 1, 16\]"),
        "objects": (npz(folder / "objects.npz", lat_comp=np.array([Evil()], dtype=object)), "is a pickle"),
        "finite": (npz(folder / "finite.npz", lat_comp=good * np.inf), "not finite"),
    }  # fmt: skip


def test_files_that_cannot_be_read(
    lia: LIA, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projected, "_MAX_BYTES", 2**20)
    for name, (path, words) in files_of_no_use(tmp_path).items():
        with pytest.raises(LIAError, match=words) as caught:
            import_directions(lia, [path])
        assert "\n" not in str(caught.value), name
    assert "ran" not in capsys.readouterr().out


def test_two_files_of_one_name(lia: LIA, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "smile.npy", np.ones((1, DIM), np.float32))
    with pytest.raises(ConfigError, match="two directions 'smile' of y"):
        import_directions(lia, [tmp_path / "a" / "smile.npy", tmp_path / "b" / "smile.npy"])
