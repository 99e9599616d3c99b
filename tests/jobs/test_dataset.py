"""`dataset`: what comes out is what was asked for, where NVlabs' programs look for it, or nothing at all."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lia_adapter.data import ImageSet, open_images
from lia_adapter.errors import LIAError
from lia_adapter.jobs.dataset import make_dataset
from tests.cli.test_convert_sample_inspect import refused, run


def pictures(folder: Path, sizes: list[tuple[int, int]], labels: object = None, ending: str = "png") -> Path:
    """A folder of noise of sizes (H, W): no two are the same, and none is the same mirrored or turned."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for i, size in enumerate(sizes):
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"p{i:02d}.{ending}")
    if labels is not None:
        (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    return folder


def pixels(images: ImageSet) -> torch.Tensor:
    items = [images.load(i) for i in range(len(images))]
    return torch.stack([item.x for item in items if item is not None])


def as_nvlabs_reads(path: Path) -> tuple[list[np.ndarray], object]:
    """Images in order of their names, and labels in that order, by what the format says and by no code of ours."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        assert names == [f"{i // 1000:05d}/img{i:08d}.png" for i in range(len(names))]
        assert sorted(archive.namelist()) == [*names, "dataset.json"]
        labels = json.loads(archive.read("dataset.json"))["labels"]
        if labels is not None:
            assert [name for name, _ in labels] == names
            labels = [label for _, label in labels]
        images = [Image.open(io.BytesIO(archive.read(name))) for name in names]
        assert {(image.format, image.mode) for image in images} == {("PNG", "RGB")}
        return [np.asarray(image) for image in images], labels


@pytest.mark.parametrize("mode", ["crop", "letterbox", "stretch"])
def test_the_zip_gives_the_same_pixels_as_the_folder(tmp_path: Path, mode: str) -> None:
    folder = pictures(tmp_path / "in", [(24, 32), (50, 20), (12, 16), (9, 40), (100, 100)])
    make_dataset(folder, tmp_path / "a.zip", (12, 16), resize_mode=mode)
    expected = pixels(open_images(folder, (12, 16), 3, resize_mode=mode))
    assert torch.equal(pixels(open_images(tmp_path / "a.zip", (12, 16), 3)), expected)
    images, labels = as_nvlabs_reads(tmp_path / "a.zip")
    assert labels is None and {image.shape for image in images} == {(12, 16, 3)}
    with Image.open(folder / "p02.png") as image:  # is of this size already
        np.testing.assert_array_equal(images[2], np.asarray(image))
    if mode == "letterbox":  # 50 x 20 to 12 x 16: 5 of 16 columns, in the middle
        bars = (images[1] == 0).all(axis=(0, 2))
        assert bars.tolist() == [True] * 5 + [False] * 5 + [True] * 6
    gray = [pixels(open_images(path, (12, 16), 1)) for path in (folder / "p02.png", tmp_path / "a.zip")]
    assert torch.equal(gray[0][0], gray[1][2])


def test_the_same_images_make_the_same_bytes_and_a_zip_is_a_source(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "in", [(8, 8)] * 3, [[f"p{i:02d}.png", i] for i in range(3)])
    for source, out in ((folder, "a.zip"), (folder, "b.zip"), (tmp_path / "a.zip", "c.zip")):
        make_dataset(source, tmp_path / out, (8, 8))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes() == (tmp_path / "c.zip").read_bytes()


@pytest.mark.parametrize("make", [lambda i: 9 - i, lambda i: [i / 3, -i]])
def test_labels_stay_with_their_images(tmp_path: Path, make: object) -> None:
    assert callable(make)
    names = [f"p{i:02d}.png" for i in range(10)]
    folder = pictures(tmp_path / "in", [(8, 8)] * 10, [[name, make(i)] for i, name in reversed(list(enumerate(names)))])
    (folder / "p07.png").write_bytes(b"no picture")
    written = make_dataset(folder, tmp_path / "a.zip", (8, 8), split="last 4")
    assert written.images == 3 and written.labelled and list(written.unreadable) == ["p07.png"]
    images, labels = as_nvlabs_reads(tmp_path / "a.zip")
    assert labels == [make(i) for i in (6, 8, 9)]
    for image, name in zip(images, ("p06.png", "p08.png", "p09.png"), strict=True):
        with Image.open(folder / name) as original:
            np.testing.assert_array_equal(image, np.asarray(original))


def test_toy_faces(tmp_path: Path) -> None:
    make_dataset("toyfaces:20", tmp_path / "a.zip", (16, 24), split="not first 4")
    faces = open_images("toyfaces:20", (16, 24), 3, split="last 16", c_dim=2)
    again = open_images(tmp_path / "a.zip", (16, 24), 3, c_dim=2)
    assert torch.equal(pixels(again), pixels(faces))
    found, expected = again.labels(range(16)), faces.labels(range(16))
    assert found is not None and expected is not None and torch.equal(found, expected)
    assert 0 < expected[:, 0].sum() < 16


def test_at_most_so_many_that_could_be_read(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "in", [(8, 8)] * 9)
    for name in ("p01.png", "p08.png"):
        (folder / name).write_bytes(b"")
    written = make_dataset(folder, tmp_path / "a.zip", (8, 8), limit=3)
    assert written.images == 3 and written.unreadable == {"p01.png": "it is empty"}
    expected = pixels(open_images(folder, (8, 8), 3, split="first 4"))
    assert torch.equal(pixels(open_images(tmp_path / "a.zip", (8, 8), 3)), expected)
    assert make_dataset(folder, tmp_path / "a.zip", (8, 8), limit=100).images == 7


def test_an_lmdb_as_lsun_is_distributed(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb", reason="needs the lmdb package, to write a database with")
    folder = pictures(tmp_path / "in", [(30, 40 + i) for i in range(12)], ending="webp")
    keys = [f"{i * 2654435761 % 2**32:08x}" * 5 for i in range(12)]
    with lmdb.open(str(tmp_path / "car_lmdb"), map_size=2**24) as environment:
        for key, path in zip(keys, sorted(folder.iterdir()), strict=True):
            with environment.begin(write=True) as transaction:
                transaction.put(key.encode(), path.read_bytes())
    images = open_images(tmp_path / "car_lmdb", (12, 16), 3, split="last 5")
    assert images.names == tuple(sorted(f"{key}.webp" for key in keys)[-5:])
    result = run("dataset", "car_lmdb", "-o", "a.zip", "--size", "16x12", "--split", "first 7", "--max", 5, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    in_order = [folder / f"p{keys.index(key):02d}.webp" for key in sorted(keys)[:5]]
    expected = torch.cat([pixels(open_images(path, (12, 16), 3)) for path in in_order])
    assert torch.equal(pixels(open_images(tmp_path / "a.zip", (12, 16), 3)), expected)


# -- as a command


def test_what_it_tells(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "in", [(20, 20)] * 2 + [(8, 99)])
    for i in range(12):
        (folder / f"torn{i:02d}.png").write_bytes(b"no picture")
    result = run("dataset", "in", "-o", "a.zip", "--size", "16x12", "--resize-mode", "letterbox", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[:2] == ["images     3, 16 x 12, without labels", "unreadable 12, left out"]
    assert lines[2].startswith("           'torn00.png': it is not an image") and len(lines) == 14
    assert lines[12:] == ["           and 2 more", f"wrote a.zip, {(tmp_path / 'a.zip').stat().st_size / 1e6:.1f} MB"]
    assert "dataset 15/15" in result.stderr
    assert [image.shape for image in as_nvlabs_reads(tmp_path / "a.zip")[0]] == [(12, 16, 3)] * 3
    result = run("dataset", "in", "-o", "b.zip", "--size", "16x12", "--max", 3, cwd=tmp_path)
    assert result.stdout.splitlines()[1] == "enlarged   1, which were smaller than 16 x 12"
    assert "dataset 3/3" in result.stderr


def test_wrong_inputs(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "in", [(8, 8)] * 3, [["p00.png", 1]])
    torn = tmp_path / "torn"
    torn.mkdir()
    (torn / "a.png").write_bytes(b"")
    (tmp_path / "cut_lmdb").mkdir()
    (tmp_path / "cut_lmdb" / "data.mdb").write_bytes(b"\0" * 5000)
    (tmp_path / "in.zip").write_bytes(b"old")
    for source, options, message in (
        ("in", ("--size", "96"), "--size is '96'; expected width x height in pixels, for example 128x96."),
        ("in", ("--size", "0x96"), "--size is '0x96'"),
        ("in", ("--max", "0"), "--max"),
        ("in", ("--resize-mode", "cut"), "--resize-mode"),
        ("in", ("--split", "first 4"), "asks for more images"),
        ("in", ("-o", "a.tar"), "must end in .zip"),
        ("in", ("-o", "absent/a.zip"), "does not exist"),
        ("in", (), "dataset.json has no label for 'p01.png' and 1 other images; expected one for all"),
        ("in.zip", ("-o", "in.zip"), "is the data set that is to be read"),
        ("absent", (), "there is no absent"),
        ("cut_lmdb", (), "is not an LMDB file"),
    ):
        assert message in refused(run("dataset", source, "-o", "a.zip", "--size", "8x8", *options, cwd=tmp_path))
    result = run("dataset", "torn", "-o", "a.zip", "--size", "8x8", cwd=tmp_path)
    assert result.returncode == 2
    assert "none of the 1 images of torn can be read; 'a.png': it is empty" in result.stderr.splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} == {"in", "torn", "cut_lmdb", "in.zip"}
    assert (tmp_path / "in.zip").read_bytes() == b"old" and len(list(folder.iterdir())) == 4


def test_an_interruption_leaves_what_was_there(tmp_path: Path) -> None:
    def interrupt(what: str, done: int, total: int | None) -> None:
        if done == 3:
            raise KeyboardInterrupt

    out = tmp_path / "a.zip"
    for before in (None, b"old"):
        if before:
            out.write_bytes(before)
        with pytest.raises(KeyboardInterrupt):
            make_dataset("toyfaces:200", out, (8, 8), progress=interrupt)
        assert [path.read_bytes() for path in tmp_path.iterdir()] == ([before] if before else [])


def test_a_kill_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    code = (
        "from lia_adapter.jobs.dataset import make_dataset\n"
        "make_dataset('toyfaces', 'a.zip', (64, 64), progress=lambda *done: print(*done, flush=True))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "dataset 1 100000\n"
    assert len(list(tmp_path.glob(".a.zip.*.tmp"))) == 1
    process.kill()
    process.communicate()
    assert not (tmp_path / "a.zip").exists()
    make_dataset("toyfaces:2", tmp_path / "a.zip", (8, 8))
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(LIAError, match=r"cannot write .*a\.zip: no space left on device"):
        make_dataset("toyfaces:2", tmp_path / "a.zip", (8, 8))
    assert list(tmp_path.iterdir()) == []
