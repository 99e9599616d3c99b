"""`encode`: files of codes of a folder of any size, whole, resumed, shared out, and bound to their generator."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lia_adapter.codes import check_generator, read_codes, shard_paths
from lia_adapter.data import open_images
from lia_adapter.errors import LIAError
from lia_adapter.generators import fingerprint
from lia_adapter.jobs import encode
from lia_adapter.jobs.encode import encode_images, unusual_names
from lia_adapter.lia import LIA
from lia_adapter.metrics.typicality import Typicality, usual_size
from lia_adapter.notes import say_once
from tests import toys


@pytest.fixture(scope="module")
def lia() -> LIA:
    return toys.with_encoder(toys.stylegan())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = toys.pictures(tmp_path / "data", 11, (8, 10))
    (folder / "005.png").write_bytes(b"no picture")
    return folder


def test_every_number_is_what_the_lia_says(lia: LIA, data: Path, tmp_path: Path) -> None:
    (path,) = encode_images(lia, data, tmp_path / "codes.safetensors", batch=4)
    codes = read_codes(path)
    assert codes.names == tuple(f"{i:03d}.png" for i in range(11) if i != 5)
    assert list(codes.unreadable) == ["005.png"] and codes.generator == fingerprint(lia.generator)
    images = open_images(data, (8, 8), 3)
    x = torch.stack([item.x for item in map(images.load, range(11)) if item is not None])
    y = lia.encode(x)
    assert torch.allclose(codes.tensors["y"], y, atol=1e-5)
    assert codes.tensors["z"].dtype == torch.float64
    assert torch.allclose(lia.to_y(codes.tensors["z"]), y, atol=1e-4)
    assert torch.allclose(codes.tensors["mse"], (lia.reconstruct(x) - x).square().mean(dim=(1, 2, 3)), atol=1e-5)
    assert codes.tensors["typicality"].shape == (10,) and (codes.tensors["z_size"] > 0).all()
    assert torch.allclose(codes.tensors["prior_p"], lia.prior_p(y), atol=2e-3)
    assert codes.placements[0]["size"] == [8, 10] or tuple(codes.placements[0]["size"]) == (8, 10)


def test_shards_resume_and_read_as_one(lia: LIA, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_codes(encode_images(lia, data, tmp_path / "whole.safetensors")[0])
    monkeypatch.setattr(encode, "_SHARD", 4)
    out = tmp_path / "codes.safetensors"
    paths = encode_images(lia, data, out)
    assert (
        [path.name for path in paths]
        == [f"codes-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
        == [path.name for path in shard_paths(out, 3)]
    )
    assert all(torch.allclose(read_codes(out).tensors[name], whole.tensors[name], atol=1e-5) for name in ("y", "mse"))
    assert read_codes(out).names == whole.names and read_codes(out).unreadable == whole.unreadable
    kept = {path: path.stat().st_mtime_ns for path in paths}
    paths[1].unlink()
    with pytest.raises(LIAError, match="00002-of-00003.safetensors is missing. Run the same lia-adapt encode again"):
        read_codes(out)
    encode_images(lia, data, out)
    assert [path.stat().st_mtime_ns == kept[path] for path in paths] == [True, False, True]
    encode_images(lia, data, out, resize_mode="stretch")
    assert not any(path.stat().st_mtime_ns == kept[path] for path in paths)


def test_codes_into_ys_and_of_classes(tmp_path: Path) -> None:
    conditional = toys.with_encoder(toys.stylegan(c_dim=3))
    data = toys.pictures(tmp_path / "d", 6)
    labels = {"labels": [[f"{i:03d}.png", i % 3] for i in range(6)]}
    (data / "dataset.json").write_text(json.dumps(labels))
    codes = read_codes(encode_images(conditional, data, tmp_path / "c.safetensors")[0])
    assert torch.equal(codes.tensors["c"], torch.eye(3).repeat(2, 1))
    assert torch.allclose(conditional.to_y(codes.tensors["z"], codes.tensors["c"]), codes.tensors["y"], atol=1e-4)


def test_codes_of_another_generator_are_refused(lia: LIA, data: Path, tmp_path: Path) -> None:
    codes = read_codes(encode_images(lia, data, tmp_path / "c.safetensors")[0])
    check_generator(codes, lia, "c.safetensors")
    with pytest.raises(LIAError, match="another generator"):
        check_generator(codes, toys.stylegan(seed=3), "c.safetensors")


def test_images_of_the_wrong_kind_are_named(lia: LIA, tmp_path: Path) -> None:
    """A typicality fitted to one flat colour finds noise unusual."""
    data = tmp_path / "d"
    data.mkdir()
    random = np.random.default_rng(0)
    for i in range(400):
        Image.fromarray(np.clip(np.full((8, 8, 3), 128) + random.normal(0, 4, (8, 8, 3)), 0, 255).astype(np.uint8)).save(
            data / f"flat{i:03d}.png"
        )
    codes = read_codes(encode_images(lia, data, tmp_path / "a.safetensors")[0])
    usual = toys.with_encoder(toys.stylegan())
    usual.typicality = Typicality.fit(codes.tensors["y"], usual.whitening()[1])
    Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(data / "noise.png")
    found = unusual_names(read_codes(encode_images(usual, data, tmp_path / "b.safetensors")[0]))
    assert "noise.png" in found and len(found) < 40


def test_wrong_files(lia: LIA, data: Path, tmp_path: Path) -> None:
    with pytest.raises(LIAError, match="lia-adapt train-encoder"):
        encode_images(toys.stylegan(), data, tmp_path / "c.safetensors")
    with pytest.raises(LIAError, match="there is no codes file"):
        read_codes(tmp_path / "none.safetensors")
    save_file({"y": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(LIAError, match="holds no codes"):
        read_codes(tmp_path / "other.safetensors")
    good = encode_images(lia, data, tmp_path / "c.safetensors")[0].read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(good[:-100])
    with pytest.raises(LIAError, match="no readable codes file"):
        read_codes(tmp_path / "cut.safetensors")
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "a.png").write_bytes(b"nothing")
    with pytest.raises(LIAError, match="can be read"):
        encode_images(lia, bad, tmp_path / "d.safetensors")
    assert not (tmp_path / "d.safetensors").exists()


def test_an_argument_is_taken_by_its_old_name_and_that_is_told(lia: LIA, data: Path, tmp_path: Path) -> None:
    say_once.cache_clear()
    (new,), (old,) = (
        encode_images(lia, data, tmp_path / f"{name}.safetensors", **{name: "stretch"}) for name in ("resize_mode", "fit")
    )
    assert read_codes(new).about == read_codes(old).about
    assert say_once.cache_info().currsize == 1


def test_the_prior_s_p_is_told_but_of_files_of_before(
    lia: LIA, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of a version that did not know it are kept, read and joined with others; then it is not told."""
    monkeypatch.setattr(encode, "_SHARD", 4)
    out = tmp_path / "codes.safetensors"
    made = encode.encode(lia, data, out)
    p = read_codes(out).tensors["prior_p"]
    assert made.prior_p == float(p.median()) and made.improbable == pytest.approx(float((p < 0.01).double().mean()))
    old = read_codes(made.paths[1])
    del old.tensors["prior_p"]
    old.save(made.paths[1])
    again = encode.encode(lia, data, out)
    assert math.isnan(again.prior_p) and math.isnan(again.improbable) and again.mse == made.mse
    assert "prior_p" not in read_codes(out).tensors and "prior_p" in read_codes(again.paths[0]).tensors


def test_samples_and_the_nearest_usual_code_are_kept_beside(lia: LIA, data: Path, tmp_path: Path) -> None:
    (path,) = encode_images(lia, data, tmp_path / "codes.safetensors", split="first 3", samples=2, project=True)
    found = read_codes(path).tensors
    (path,) = encode_images(lia, data, tmp_path / "plain.safetensors", split="first 3")
    plain = read_codes(path).tensors
    assert found["samples_y"].shape == found["samples_z"].shape == (3, 2, 16) and found["samples_mse"].shape == (3, 2)
    assert torch.allclose(lia.to_y(found["samples_z"].flatten(0, 1)), found["samples_y"].flatten(0, 1), atol=1e-4)
    assert (found["samples_mse"].mean(dim=1) <= 1.031 * plain["mse"]).all()
    assert torch.allclose(found["own_mse"], plain["mse"], rtol=1e-4) and (found["z_size"] < usual_size(16) + 1e-6).all()
    batches = read_codes(
        encode_images(lia, data, tmp_path / "again.safetensors", split="first 3", samples=2, project=True, batch=1)[0]
    )
    assert torch.allclose(batches.tensors["samples_z"], found["samples_z"], atol=1e-3)
    with pytest.raises(LIAError, match="samples is -1"):
        encode_images(lia, data, tmp_path / "x.safetensors", samples=-1)
