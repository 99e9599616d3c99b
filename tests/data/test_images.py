"""Folders and zips as untidy as people's are: what is found in them, labels, splits, and what can't be read."""

import io
import json
import os
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lia_adapter.data import ImageSet, open_images, source
from lia_adapter.data.source import image_names, open_source
from lia_adapter.errors import ConfigError, LIAError

Files = Mapping[str, bytes]
Maker = Callable[[Path, Files], Path]


def picture(value: int, h: int = 8, w: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (w, h), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def dataset(labels: object) -> bytes:
    return json.dumps({"labels": labels}).encode()


def folder(path: Path, files: Files) -> Path:
    for name, data in files.items():
        (path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (path / "set" / name).write_bytes(data)
    return path / "set"


def stored(path: Path, files: Files, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path / "set.zip", "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path / "set.zip"


def deflated(path: Path, files: Files) -> Path:
    return stored(path, files, zipfile.ZIP_DEFLATED)


MAKERS = [folder, stored, deflated]


def opened(path: Path, **options: Any) -> ImageSet:
    return open_images(path, (4, 4), 3, **options)


def values(images: ImageSet) -> list[int | None]:
    """The gray of each image."""
    items = [images.load(i) for i in range(len(images))]
    return [None if item is None else round(float(item.x.mean() + 1) * 127.5) for item in items]


# -- what is found


@pytest.mark.parametrize("make", MAKERS)
def test_all_images_at_any_depth_in_order_of_their_names(tmp_path: Path, make: Maker) -> None:
    names = ["a.JPG", "b.png", "deep.er/c.png", "deep/a.png", "deep/er/c.webp", "z.tif", "é b.jpeg"]
    files = {name: picture(i) for i, name in reversed(list(enumerate(names)))}
    others = ["notes.txt", "b.png.part", "deep/x.npy", ".hidden.png", ".cache/a.png", "__MACOSX/._b.png", "deep/._a.png"]
    images = opened(make(tmp_path, files | dict.fromkeys(others, b"no image")))
    assert images.names == tuple(names) == tuple(sorted(names))
    assert len(images) == 7 and values(images) == list(range(7)) and images.unreadable == {}
    item = images.load(3)
    assert item is not None and item.x.shape == (3, 4, 4) and item.placement.size == (8, 8)
    assert images.original(3).getpixel((0, 0)) == (3, 3, 3) and images.original(3).size == (8, 8)


def test_links_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    inside, outside = folder(tmp_path, {"a.png": picture(1)}), folder(tmp_path / "other", {"b.png": picture(2)})
    (inside / "link").symlink_to(outside)
    (inside / "circle").symlink_to(inside)
    (inside / "c.png").symlink_to(outside / "b.png")
    (inside / "nowhere.png").symlink_to(tmp_path / "absent")
    (inside / "folder.png").mkdir()
    os.mkfifo(inside / "pipe.png")
    assert opened(inside).names == ("a.png", "c.png", "link/b.png")


def test_one_image_file_is_a_data_set_of_one(tmp_path: Path) -> None:
    images = opened(folder(tmp_path, {"a.png": picture(7), "b.png": picture(8)}) / "b.png")
    assert images.names == ("b.png",) and values(images) == [8]


def test_a_zip_that_was_made_on_windows(tmp_path: Path) -> None:
    path = stored(tmp_path, {"00\\a.png": picture(1), "dataset.json": dataset([["00\\a.png", 0]])})
    images = opened(path, c_dim=1)
    assert images.names == ("00/a.png",) and values(images) == [1]


@pytest.mark.parametrize("make", MAKERS)
def test_many_threads_read_at_once(tmp_path: Path, make: Maker) -> None:
    random = np.random.default_rng(0)
    files = {f"{i:03}.png": random.bytes(int(random.integers(0, 5000))) for i in range(200)}
    found = open_source(make(tmp_path, files))
    names = image_names(found) * 5
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(found.read, names)) == [files[name] for name in names]


# -- sources that are none


def test_sources_that_are_none(tmp_path: Path) -> None:
    text = folder(tmp_path, {"notes.txt": b"no image"}) / "notes.txt"
    cut, empty = tmp_path / "cut.zip", tmp_path / "empty"
    empty.mkdir()
    cut.write_bytes(stored(tmp_path, {"a.png": picture(1)}).read_bytes()[:-30])
    for path, message in (
        (tmp_path / "absent", "there is no .*absent; expected a folder of images or a dataset zip"),
        (text, "neither a folder, nor a zip file, nor an image"),
        (cut, "damaged zip file"),
        (text.parent, "holds no images: of its 1 files none ends in .*.jpg"),
        (stored(tmp_path, {"notes.txt": b""}), "holds no images: of its 1 files"),
        (stored(empty, {}), "holds no images: of its 0 files"),
        (Path(os.devnull), "nor an ordinary file"),
    ):
        with pytest.raises(LIAError, match=message):
            opened(path)


def test_zips_that_are_refused(tmp_path: Path) -> None:
    path = stored(tmp_path, {"a.png": picture(1)})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1  # the flag of encryption
    path.write_bytes(data)
    with pytest.raises(LIAError, match=r"encrypted .*a\.png"):
        opened(path)
    with pytest.raises(LIAError, match="method that is not read"):
        opened(stored(tmp_path, {"a.png": picture(1)}, zipfile.ZIP_BZIP2))
    for name in ("../a.png", "b/../../a.png", "/a.png", "..\\a.png"):
        with pytest.raises(LIAError, match="points outside"):
            opened(stored(tmp_path, {name: picture(1)}))


def test_a_number_of_channels_or_a_fit_that_there_is_not(tmp_path: Path) -> None:
    path = folder(tmp_path, {"a.png": picture(1)})
    with pytest.raises(ConfigError, match="draws 2 channels"):
        open_images(path, (4, 4), 2)
    with pytest.raises(ConfigError, match="there is no resize mode 'cut'"):
        opened(path, resize_mode="cut")


# -- images that can't be read


@pytest.mark.parametrize("make", MAKERS)
def test_what_cannot_be_read_is_listed_with_the_reason(tmp_path: Path, make: Maker) -> None:
    images = opened(make(tmp_path, {"a.png": picture(1), "b.png": b"<html>", "c.png": b"", "d.png": picture(4)[:-30]}))
    assert images.unreadable == {}
    for _ in range(2):
        assert values(images) == [1, None, None, None]
    assert list(images.unreadable) == ["b.png", "c.png", "d.png"]
    assert [why.split(",")[0].split(" (")[0] for why in images.unreadable.values()] == [
        "it is not an image", "it is empty", "it is damaged",
    ]  # fmt: skip
    with pytest.raises(LIAError, match=r"cannot read 'c\.png' of .*: it is empty\. Leave it out"):
        images.original(2)


def test_files_that_go_away_or_may_not_be_read(tmp_path: Path) -> None:
    path = folder(tmp_path, {"a.png": picture(1), "b.png": picture(2)})
    images = opened(path)
    (path / "a.png").unlink()
    assert values(images) == [None, 2] and images.unreadable == {"a.png": "no such file or directory"}
    (path / "a.png").write_bytes(picture(1))
    assert values(images) == [None, 2]  # what was found unreadable stays so: a run must not depend on when it looked
    path = stored(tmp_path, {"a.png": picture(1)})
    images = opened(path)
    path.unlink()
    assert values(images) == [None] and images.unreadable == {"a.png": "no such file or directory"}


@pytest.mark.parametrize("make", MAKERS)
def test_files_that_are_too_large_are_not_read(tmp_path: Path, make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = picture(1) + bytes(10**6)
    images = opened(make(tmp_path, {"a.png": bomb, "b.png": picture(2)}))
    monkeypatch.setattr(source, "MAX_BYTES", 10**6)
    assert values(images) == [None, 2]
    assert images.unreadable == {"a.png": f"it has {len(bomb):,} bytes, more than the 1,000,000 that are read"}


@pytest.mark.parametrize("make", [stored, deflated])
def test_entries_of_a_zip_that_are_damaged(tmp_path: Path, make: Maker) -> None:
    path = make(tmp_path, {"a.png": bytes(range(256)) * 4, "b.png": picture(2)})
    whole = path.read_bytes()
    entry = whole.index(b"PK\1\2")
    damages = {
        "a byte of its data": (60, b"\xff"),
        "its local header": (0, b"XX"),
        "a size that is less than it has": (entry + 24, b"\x10\0\0\0"),
        "a size that is more than it has": (entry + 24, b"\0\0\1\0"),
        "a place beyond the end": (entry + 42, b"\0\0\0\x70"),
    }
    for what, (place, data) in damages.items():
        path.write_bytes(whole[:place] + data + whole[place + len(data) :])
        images = opened(path)
        assert values(images) == [None, 2], what
        assert images.unreadable == {"a.png": "it is damaged inside the zip"}, what


def test_a_zip_bomb_that_lies_about_its_size_is_not_unpacked(tmp_path: Path) -> None:
    path = deflated(tmp_path, {"a.png": bytes(5 * 10**7)})
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\1\2")
    data[entry + 24 : entry + 28] = (1000).to_bytes(4, "little")
    path.write_bytes(data)
    images = opened(path)
    tracemalloc.start()
    assert values(images) == [None] and images.unreadable == {"a.png": "it is damaged inside the zip"}
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10**6


# -- labels


@pytest.mark.parametrize("make", MAKERS)
def test_classes_become_one_hot_and_vectors_stay(tmp_path: Path, make: Maker) -> None:
    files = {f"{i}.png": picture(i) for i in range(3)}
    classes = opened(make(tmp_path, files | {"dataset.json": dataset([["2.png", 3], ["0.png", 1], ["1.png", 0]])}), c_dim=4)
    c = classes.labels([2, 0, 0])
    assert c is not None and c.dtype == torch.float32
    assert c.tolist() == [[0, 0, 0, 1], [0, 1, 0, 0], [0, 1, 0, 0]]
    vectors = [["0.png", [0.5, 1]], ["1.png", [2, -3.25]], ["2.png", [0, 0]]]
    c = opened(make(tmp_path, files | {"dataset.json": dataset(vectors)}), c_dim=2, split="last 2").labels(range(2))
    assert c is not None and c.dtype == torch.float32
    assert c.tolist() == [[2, -3.25], [0, 0]]


@pytest.mark.parametrize("content", [None, b"rubbish", dataset(None), dataset([["x.png", 0]])])
def test_without_conditions_labels_are_not_looked_at(tmp_path: Path, content: bytes | None) -> None:
    images = opened(folder(tmp_path, {"a.png": picture(1)} | ({"dataset.json": content} if content else {})))
    assert images.labels([0]) is None


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"dataset\.json is missing, but the generator is conditional .*c_dim 2"),
        (dataset(None), "holds no labels, but"),
        (dataset([]), "holds no labels, but"),
        (b"rubbish", "is not valid JSON"),
        (b"\xff\xfe\xfa", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"[]", "is not of the form"),
        (b"{}", "is not of the form"),
        (dataset([["a.png"]]), "is not of the form"),
        (dataset([[0, "a.png"]]), "is not of the form"),
        (dataset({"a.png": 0}), r"has no label for 'b\.png'"),
        (dataset([["a.png", 0]]), r"has no label for 'b\.png', but the generator"),
        (dataset([["z.png", 0]]), r"has no label for 'a\.png' and 1 other images, but"),
        (dataset([["a.png", 0], ["b.png", 2]]), r"gives 'b\.png' the class 2, but the generator's classes are 0 to 1"),
        (dataset([["a.png", -1], ["b.png", 0]]), r"gives 'a\.png' the label -1; expected a whole number from 0"),
        (dataset([["a.png", 10**4000], ["b.png", 0]]), r"gives 'a\.png' the label 10{39}; expected"),
        (dataset([["a.png", [1, 0, 0]], ["b.png", [0, 0, 1]]]), r"gives 'a\.png' 3 numbers, but the generator takes 2"),
        (dataset([["a.png", [1, 0]], ["b.png", [0]]]), r"gives 'b\.png' 1 numbers"),
        (dataset([["a.png", [1, 0]], ["b.png", 1]]), r"mixes class numbers and lists: 'a\.png' and 'b\.png'"),
        (dataset([["a.png", [1, float("nan")]], ["b.png", [0, 1]]]), "not all finite numbers"),
        (dataset([["a.png", [1, 10**400]], ["b.png", [0, 1]]]), "not all finite numbers"),
        (dataset([["a.png", "cat"], ["b.png", "dog"]]), "the label 'cat'; expected a whole number"),
        (dataset([["a.png", 1.5], ["b.png", 0.0]]), "the label 1.5; expected a whole number"),
    ],
)
def test_labels_that_do_not_match(tmp_path: Path, make: Maker, content: bytes | None, message: str) -> None:
    files = {"a.png": picture(1), "b.png": picture(2)} | ({"dataset.json": content} if content else {})
    with pytest.raises(LIAError, match=message) as caught:
        opened(make(tmp_path, files), c_dim=2)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_label_file_that_cannot_be_read(tmp_path: Path) -> None:
    path = stored(tmp_path, {"a.png": picture(1), "dataset.json": dataset([["a.png", 0]])})
    path.write_bytes(path.read_bytes().replace(b'"labels"', b'"lapels"', 1))
    with pytest.raises(LIAError, match=r"dataset\.json cannot be read: it is damaged inside the zip"):
        opened(path, c_dim=1)


# -- splits


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    return folder(tmp_path, {f"{i}.png": picture(i) for i in range(10)})


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("all", range(10)), ("first 3", range(3)), ("last 3", range(7, 10)), ("not first 3", range(3, 10)),
        ("not last 3", range(7)), ("first 10", range(10)), ("not last 0", range(10)), ("list {}", [2, 5]),
        ("not list {}", [0, 1, 3, 4, 6, 7, 8, 9]),
    ],
)  # fmt: skip
def test_splits(ten: Path, tmp_path: Path, split: str, expected: list[int]) -> None:
    names = tmp_path / "some names.txt"
    names.write_bytes(b"\xef\xbb\xbf5.png\r\n\r\n2.png\n5.png")
    images = opened(ten, split=split.format(names))
    assert values(images) == list(expected) and images.names == tuple(f"{i}.png" for i in expected)


def test_splits_that_are_none(ten: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("1.png\nx.png\n2.png\ny.png\nz.png\n")
    for split in ("", "some", "first", "first -1", "first 1.5", "last x", "not", "not all", "list", "not not first 1"):
        with pytest.raises(ConfigError, match="cannot read the split .* expected all, first N"):
            opened(ten, split=split)
    for split, message in (
        ("first 11", r"asks for more images than .* holds \(10\)"),
        ("not last 11", "asks for more"),
        ("first 0", "leaves none of the 10 images"),
        ("not first 10", "leaves none"),
        (f"list {names}", r"names 'x\.png' and 2 more, which .* does not hold; its first is '0\.png'"),
        (f"list {tmp_path / 'absent'}", "cannot read the list .*absent: no such file"),
        (f"list {ten / '0.png'}", "it is not text in UTF-8"),
    ):
        with pytest.raises(ConfigError, match=message):
            opened(ten, split=split)


# -- identity


def test_identity_is_of_what_is_there_and_not_of_where(ten: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in ten.iterdir()}
    labelled = [folder(tmp_path / str(k), files | {"dataset.json": dataset([[n, k] for n in files])}) for k in (0, 1)]
    larger = folder(tmp_path / "larger", files | {"3.png": files["3.png"] + b"0"})
    renamed = folder(tmp_path / "renamed", {name.replace("3", "3a"): data for name, data in files.items()})
    first = opened(ten).identity()
    assert opened(ten).identity() == opened(deflated(tmp_path, files)).identity() == first
    assert opened(ten, split="not first 3").identity() == opened(ten, split="last 7").identity()
    others = [
        opened(ten, split="first 9"), opened(ten, split="last 9"), opened(ten, resize_mode="stretch"),
        open_images(ten, (4, 5), 3), open_images(ten, (4, 4), 1), opened(larger), opened(renamed),
        *(opened(path, c_dim=2) for path in labelled),
    ]  # fmt: skip
    assert len({first, *(images.identity() for images in others)}) == 1 + len(others)


def test_real_faces(shared: Path) -> None:
    path = shared / "data" / "faces64.zip"
    images = open_images(path, (64, 64), 1, c_dim=2, split="last 1000")
    assert len(images) == 1000 and images.names[-1] == "00012/img00012164.jpg"
    with zipfile.ZipFile(path) as archive:
        labels = dict(json.loads(archive.read("dataset.json"))["labels"])
        for i in (0, 123, 999):
            item = images.load(i)
            with Image.open(io.BytesIO(archive.read(images.names[i]))) as image:
                assert item is not None
                np.testing.assert_allclose((item.x[0].numpy() + 1) * 127.5, np.asarray(image.convert("L")), atol=1e-4)
    c = images.labels(range(1000))
    assert c is not None and c.argmax(dim=1).tolist() == [labels[name] for name in images.names]
    assert len(open_images(path, (32, 32), 3, split="not last 1000")) == 11_165
