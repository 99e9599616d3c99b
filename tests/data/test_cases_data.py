"""Pictures, labels and codes as people have them, each kind by a file that went wrong once and by others of its kind."""

import io
import json
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, features

from lia_adapter.data import fit_image, open_images, paste_back
from lia_adapter.data.kinds import ENDINGS, kind_of, listed
from lia_adapter.errors import LIAError
from lia_adapter.jobs.evaluate import evaluate
from lia_adapter.lia import LIA
from lia_adapter.loading import load
from lia_adapter.metrics.distances import frechet_distance
from lia_adapter.metrics.intervals import jackknife
from tests import toys
from tests.cli.test_convert_sample_inspect import refused, run


@pytest.fixture(scope="module")
def cases(shared: Path) -> Path:
    return shared / "cases"


def brightness(path: Path) -> list[float]:
    """Mean of each image of a data-set zip, in 0..255."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        return [float(np.asarray(Image.open(io.BytesIO(archive.read(name)))).mean()) for name in names]


def labels_of(path: Path) -> object:
    with zipfile.ZipFile(path) as archive:
        found = json.loads(archive.read("dataset.json"))["labels"]
    return None if found is None else [label for _, label in found]


# -- bits


def png16(values: NDArray[np.integer]) -> bytes:
    """A PNG of 16 bits with any channels, [H, W, C], by the format's definition."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def ramp(top: int, channels: int = 1) -> NDArray[np.int64]:
    values = np.linspace(0, top, 256).round().astype(np.int64).reshape(16, 16, 1)
    return np.repeat(values, channels, axis=2)


def gray(folder: Path, **options: int) -> list[NDArray[np.uint8]]:
    images = open_images(folder, (16, 16), 1, **options)  # type: ignore[arg-type]
    items = [images.load(i) for i in range(len(images))]
    return [item.pixels[0].numpy() for item in items if item is not None]


def test_bits_of_the_case(cases: Path, tmp_path: Path) -> None:
    source = cases / "bits-guessed-from-type" / "images"
    result = run("dataset", source, "-o", "a.zip", "--size", "32x32", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    first, *others = brightness(tmp_path / "a.zip")
    assert first > 100 and all(abs(other - first) < 2 for other in others)
    assert "1 PNG of 16 bits, taken as 12 bits, 0 to 4,095" in result.stderr
    assert "1 TIFF of 32 bits, taken as 8 bits" in result.stderr and "--bits" in result.stderr
    result = run("dataset", source, "-o", "b.zip", "--size", "32x32", "--bits", 16, cwd=tmp_path)
    assert brightness(tmp_path / "b.zip")[0] == pytest.approx(first / 16, abs=1) and "taken as" not in result.stderr


@pytest.mark.parametrize(("top", "bits"), [(255, 8), (1023, 10), (3000, 12), (4095, 12), (16383, 14), (40000, 16), (65535, 16)])
@pytest.mark.parametrize("kind", ["gray", "rgb", "rgba", "tiff32", "tiff16", "jp2"])
def test_as_many_bits_count_as_the_largest_value_of_the_set_takes(tmp_path: Path, kind: str, top: int, bits: int) -> None:
    for name, part in (("bright", top), ("dark", top // 3)):
        channels = {"gray": 1, "rgb": 3, "rgba": 4}.get(kind)
        if channels:
            values = ramp(part, channels)
            if channels == 4:
                values[..., -1] = 65535  # opaque
            (tmp_path / f"{name}.png").write_bytes(png16(values))
        elif kind == "tiff32":
            Image.fromarray(ramp(part)[..., 0].astype(np.int32)).save(tmp_path / f"{name}.tif")
        elif kind == "tiff16":
            Image.fromarray(ramp(part)[..., 0].astype(np.uint16)).save(tmp_path / f"{name}.tif")
        else:
            Image.fromarray(ramp(part)[..., 0].astype(np.uint16)).save(tmp_path / f"{name}.jp2", irreversible=False)
    bright, dark = gray(tmp_path)
    for found, part in ((bright, top), (dark, top // 3)):
        assert np.abs(found - ramp(part)[..., 0] * 255 / (2**bits - 1)).max() <= 1
    images = open_images(tmp_path, (16, 16), 1, split="last 1")  # the set's largest value, not the split's
    item = images.load(0)
    assert item is not None and np.array_equal(item.pixels[0].numpy(), dark)


def test_bits_that_the_user_says(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png16(ramp(1000)))
    Image.fromarray(ramp(200)[..., 0].astype(np.uint8)).save(tmp_path / "b.png")
    deep, plain = gray(tmp_path, bits=14)
    assert deep.max() == round(1000 * 255 / 16383) and plain.max() == 200  # 8 bits are 8 bits
    images = open_images(tmp_path, (16, 16), 1, bits=9)
    assert images.load(0) is None and images.unreadable == {"a.png": "its largest value is 1,000, and 9 bits go to 511"}
    assert images.identity() != open_images(tmp_path, (16, 16), 1).identity()
    with pytest.raises(LIAError, match="expected 1 to 32"):
        open_images(tmp_path, (16, 16), 1, bits=33)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("top", [65535, 4095, 255])
def test_colour_tiffs_keep_all_their_bits(tmp_path: Path, order: str, top: int) -> None:
    def tiff() -> bytes:
        pixels = ramp(top, 3).astype(f"{order}u2").tobytes()
        tags = [(256, 3, 1, 16), (257, 3, 1, 16), (258, 3, 3, 122), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 128)]
        tags += [(277, 3, 1, 3), (278, 3, 1, 16), (279, 4, 1, len(pixels))]
        entries = b"".join(tag_bytes(*tag) for tag in tags)
        start = struct.pack(order + "2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(tags))
        return start + entries + struct.pack(order + "I3H", 0, 16, 16, 16) + pixels

    def tag_bytes(number: int, kind: int, count: int, value: int) -> bytes:
        short = kind == 3 and count == 1
        return struct.pack(order + "HHI" + ("HH" if short else "I"), number, kind, count, *([value, 0] if short else [value]))

    (tmp_path / "a.tif").write_bytes(tiff())
    bits = max(8, top.bit_length())
    assert np.abs(gray(tmp_path)[0] - ramp(top)[..., 0] * 255 / (2**bits - 1)).max() <= 1


def test_gray_with_transparency_in_16_bits_is_read_only_where_the_upper_bits_are_all(tmp_path: Path) -> None:
    values = ramp(65535, 2)
    values[..., -1] = 65535  # opaque
    (tmp_path / "a.png").write_bytes(png16(values))
    assert np.abs(gray(tmp_path)[0] - ramp(65535)[..., 0] / 257).max() <= 1
    values[..., 0] = ramp(4095)[..., 0]
    (tmp_path / "a.png").write_bytes(png16(values))
    images = open_images(tmp_path, (16, 16), 1)
    assert images.load(0) is None and "save it as RGB or gray" in images.unreadable["a.png"]


# -- files that are left out, and images of all kinds


def test_files_of_the_case(cases: Path, tmp_path: Path) -> None:
    result = run("dataset", cases / "files-not-mentioned" / "images", "-o", "a.zip", "--size", "16x16", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    if ".heic" in ENDINGS:  # by the extra: then they are tried, and hold no picture
        assert "unreadable 3, left out" in result.stdout
    else:
        assert "left out: 3 .HEIC" in result.stderr and "lia-adapter[heic]" in result.stderr
    assert result.stdout.startswith("images     4,") == (features.check("avif") is True)


@pytest.mark.parametrize("name", ["a.avif", "noending"])
def test_images_of_the_case(cases: Path, tmp_path: Path, name: str) -> None:
    result = run("dataset", cases / "image-called-no-image" / name, "-o", "a.zip", "--size", "16x16", cwd=tmp_path)
    if name == "a.avif" and not features.check("avif"):
        assert "AVIF" in refused(result)
    else:
        assert result.returncode == 0 and result.stdout.startswith("images     1,"), result.stderr


KINDS = {"AVIF": "avif", "BMP": "bmp", "DDS": "dds", "GIF": "gif", "JPEG": "jpe", "JPEG2000": "jp2", "PCX": "pcx",
         "PNG": "apng", "PPM": "pnm", "QOI": "qoi", "SGI": "sgi", "TGA": "tga", "TIFF": "tiff", "WEBP": "webp"}  # fmt: skip
NEEDS = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}


def written(kind: str) -> bytes:
    if kind in NEEDS and not features.check(NEEDS[kind]):
        pytest.skip(f"this Pillow has no {kind}")
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 100, 50)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_what_pillow_reads_is_read(tmp_path: Path, kind: str) -> None:
    data = written(kind)
    for name in (f"a.{KINDS[kind]}", f"B.{KINDS[kind].upper()}"):
        (tmp_path / name).write_bytes(data)
        item = open_images(tmp_path / name, (16, 16), 3).load(0)
        assert item is not None and np.allclose(item.pixels.float().mean(dim=(1, 2)), [200, 100, 50], atol=4)
    assert len(open_images(tmp_path, (16, 16), 3)) == 2


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"TGA", "PCX"}))  # which have no signature
def test_a_file_without_an_ending_is_what_its_bytes_say(tmp_path: Path, kind: str) -> None:
    data = written(kind)
    assert kind_of(data[:64]) == kind
    for name in ("picture", "folder/0001"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "README").write_text("of pictures")
    for path in (tmp_path, zipped(tmp_path)):
        images = open_images(path, (16, 16), 3, split="all")
        assert images.names == ("folder/0001", "picture") and images.load(0) is not None


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return path


def test_every_kind_that_is_left_out_is_counted(tmp_path: Path) -> None:
    source = toys.pictures(tmp_path / "in", 2)
    for name in ("a.mov", "b.MOV", "c.mov", "notes.txt", "Makefile", "d.dng", "deep/e.jxl"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(b"II*\0 something")
    (source / ".hidden").write_bytes(b"")
    result = run("dataset", "in", "-o", "a.zip", "--size", "8x8", cwd=tmp_path)
    assert result.returncode == 0 and result.stdout.startswith("images     2,")
    said = result.stderr
    assert "in: left out: 3 .mov, " in said and all(part in said for part in ("1 .txt", "1 .dng", "1 .jxl"))
    # A camera's raw file begins as TIFF and holds a small picture; without an ending it is what its bytes say.
    assert "'Makefile': it is not an image, or damaged" in result.stdout


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.jxl", b"\xff\x0a" + bytes(90), "JPEG XL, which is not read: save it as PNG"),
        ("a.svg", b"<svg/>", "SVG, which is not read"),
        ("a.exr", b"\x76\x2f\x31\x01" + bytes(90), "OpenEXR, which is not read"),
        ("a.nef", b"MM\0*" + bytes(90), "camera raw, which is not read"),
        ("photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(90), "HEIC"),
        ("photo", b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf" + bytes(90), "HEIC"),
        ("a.psb", b"something", "nor an image of a kind that is read"),
    ],
)
def test_one_image_that_is_not_read_is_called_what_it_is(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(LIAError) as caught:
        item = open_images(tmp_path / name, (8, 8), 3)
        assert item.load(0) is None  # where pillow-heif is installed, HEIC is damaged
        raise LIAError("HEIC")
    assert said in str(caught.value) and "again" not in str(caught.value)


def test_heic_with_the_extra(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="needs pillow-heif, the extra heic")
    heif.from_pillow(Image.new("RGB", (16, 16), (200, 100, 50))).save(tmp_path / "a.heic")
    (tmp_path / "b").write_bytes((tmp_path / "a.heic").read_bytes())
    images = open_images(tmp_path, (16, 16), 3)
    assert len(images) == 2
    for i in range(2):
        item = images.load(i)
        assert item is not None and np.allclose(item.pixels.float().mean(dim=(1, 2)), [200, 100, 50], atol=4)


# -- labels


def test_labels_of_the_cases(cases: Path, tmp_path: Path) -> None:
    for name, said in (("cat", "the label 'cat'"), ("minus", "the label -1"), ("nan", "the label [nan, 1.0]")):
        result = run("dataset", cases / "labels-nonsense-copied" / f"{name}.zip", "-o", "a.zip", "--size", "8x8", cwd=tmp_path)
        line = refused(result)
        assert "gives '00000/img00000000.png' " + said in line and not (tmp_path / "a.zip").exists()
    for path in sorted((cases / "labels-stricter-than-peer").glob("*.zip")):
        result = run("dataset", path, "-o", "b.zip", "--size", "8x8", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        images = open_images(path, (8, 8), 3, c_dim=2)
        c = images.labels(range(len(images)))
        assert c is not None and c.argmax(dim=1).tolist() == labels_of(tmp_path / "b.zip") == as_nvlabs(path)
        assert ("left out: 1 label of images that are not there" in result.stderr) == (path.stem == "extra")


def as_nvlabs(path: Path) -> object:
    """Labels as NVlabs' loader has them: a dict, a numpy array, and that as int64 or float32 by its dimensions."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        labels = dict(json.loads(archive.read("dataset.json"))["labels"])
    array = np.array([labels[name] for name in names])
    return array.astype({1: np.int64, 2: np.float32}[array.ndim]).tolist()


def labelled(path: Path, labels: object, folder: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(2):
            buffer = io.BytesIO()
            Image.new("RGB", (8, 8), (i, i, i)).save(buffer, "PNG")
            archive.writestr(f"{folder}{i}.png", buffer.getvalue())
        archive.writestr(f"{folder}dataset.json", json.dumps({"labels": labels}))
    return path


@pytest.mark.parametrize(
    "labels",
    [
        [["0.png", 1], ["1.png", 0]], [["0.png", 1.0], ["1.png", 0.0]], [["0.png", True], ["1.png", False]],
        [["0.png", "1"], ["1.png", "0"]], [["0.png", 1], ["1.png", 0], ["2.png", "cat"]],
        [["0.png", [0, 1]], ["1.png", [1, 0]]],
        [["0.png", [False, True]], ["1.png", [True, False]]], [["0.png", ["0", "1"]], ["1.png", ["1.0", "0"]]],
        [["0.png", 0], ["1.png", 0], ["0.png", 1]], {"0.png": 1, "1.png": 0},
    ],
)  # fmt: skip
def test_what_nvlabs_loader_reads_is_read_alike_by_all(tmp_path: Path, labels: object) -> None:
    path = labelled(tmp_path / "in.zip", labels)
    expected = as_nvlabs(path)
    images = open_images(path, (8, 8), 3, c_dim=2)
    c = images.labels([0, 1])
    assert c is not None and c.tolist() == [[0, 1], [1, 0]]
    assert run("dataset", "in.zip", "-o", "a.zip", "--size", "8x8", cwd=tmp_path).returncode == 0
    assert labels_of(tmp_path / "a.zip") == expected == as_nvlabs(tmp_path / "a.zip")


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (float("nan"), "nan"), (float("inf"), "inf"), (1.5, "1.5"), (-1, "-1"), ("cat", "'cat'"), ("", "''"), (None, "None"),
        ("nan", "'nan'"), (2**40, str(2**40)), (10**400, "1000"), ([], "[]"), ([0, "x"], "[0, 'x']"), ([0, None], "[0, None]"),
        ([0, [1]], "[0, [1]]"), ({"a": 1}, "{'a': 1}"), ([0, 1e300], "1e+300"), ("١", "'١'"),
    ],
)  # fmt: skip
def test_the_first_label_that_nobody_can_read_is_named_by_all(tmp_path: Path, label: object, said: str) -> None:
    good: object = [0, 1] if isinstance(label, list) else 0
    path = labelled(tmp_path / "in.zip", [["1.png", label], ["0.png", good]])
    line = refused(run("dataset", "in.zip", "-o", "a.zip", "--size", "8x8", cwd=tmp_path))
    assert "dataset.json gives '1.png' the label " in line and said in line and not (tmp_path / "a.zip").exists()
    with pytest.raises(LIAError) as caught:
        open_images(path, (8, 8), 3, c_dim=2)
    assert str(caught.value).removeprefix(f"{path}: ") in line


def test_labels_in_sub_folders(tmp_path: Path) -> None:
    path = labelled(tmp_path / "in.zip", [["0.png", 1], ["1.png", 0]], "faces/")
    c = open_images(path, (8, 8), 3, c_dim=2).labels([0, 1])
    assert c is not None and c.tolist() == [[0, 1], [1, 0]]
    path = labelled(tmp_path / "in.zip", [["faces/0.png", 1], ["./1.png", 0]], "faces/")
    c = open_images(path, (8, 8), 3, c_dim=2).labels([0, 1])
    assert c is not None and c.tolist() == [[0, 1], [1, 0]]
    for name, label in (("a", 0), ("b", 1)):
        folder = toys.pictures(tmp_path / "two" / name, 1)
        (folder / "dataset.json").write_text(json.dumps({"labels": [["000.png", label]]}))
    c = open_images(tmp_path / "two", (8, 8), 3, c_dim=2).labels([0, 1])
    assert c is not None and c.tolist() == [[1, 0], [0, 1]]


# -- rosinality's LMDB


def test_lmdb_of_the_case(cases: Path, tmp_path: Path) -> None:
    pytest.importorskip("lmdb", reason="needs the lmdb package, to write databases with")
    script = cases / "lmdb-of-rosinality" / "make.py"
    subprocess.run([sys.executable, script, tmp_path / "set"], check=True, timeout=120)
    result = run("dataset", "set", "-o", "a.zip", "--size", "64x64", cwd=tmp_path)
    assert result.returncode == 0 and result.stdout.startswith("images     5, 64 x 64"), result.stderr
    assert "unreadable" not in result.stdout and "(32, 64); of size 64" in result.stderr


@pytest.mark.parametrize(("side", "taken"), [(16, 32), (32, 32), (33, 64), (64, 64), (100, 128), (500, 128)])
def test_of_several_sizes_the_least_that_has_enough_pixels_is_taken(tmp_path: Path, side: int, taken: int) -> None:
    theirs = pytest.importorskip("lmdb", reason="needs the lmdb package, to write databases with")
    for count in (b"3", None):  # the last thing that is written
        path = tmp_path / str(count)
        with theirs.open(str(path), map_size=2**24) as environment, environment.begin(write=True) as transaction:
            for i in range(3):
                for size in (32, 64, 128):
                    buffer = io.BytesIO()
                    Image.new("RGB", (size, size), (0, 50 * i, 0)).save(buffer, "JPEG")
                    transaction.put(f"{size}-{i:05d}".encode(), buffer.getvalue())
            if count:
                transaction.put(b"length", count)
        images = open_images(path, (side, side // 2), 3)
        assert images.names == tuple(f"{taken}-{i:05d}.jpg" for i in range(3))
        item = images.load(2)
        assert item is not None and abs(float(item.pixels[1].float().mean()) - 100) < 3


def test_keys_that_only_look_like_sizes_stay(tmp_path: Path) -> None:
    theirs = pytest.importorskip("lmdb", reason="needs the lmdb package, to write databases with")
    keys = [b"2019-00001", b"2019-00002", b"2020-00001"]
    with theirs.open(str(tmp_path / "a"), map_size=2**24) as environment, environment.begin(write=True) as transaction:
        for key in keys:
            transaction.put(key, b"picture")
    assert open_images(tmp_path / "a", (8, 8), 3).names == tuple(f"{key.decode()}.webp" for key in keys)


# -- labels of numbers


@pytest.fixture(scope="module")
def conditional(shared: Path) -> Path:
    return shared / "checkpoints" / "sg2ada_cond.pkl"


def test_continuous_labels_of_the_case(conditional: Path, tmp_path: Path) -> None:
    result = run("sample", conditional, "-o", "a/", "--seeds", "3", "--label", "1.0,100.0,-2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    x = load(conditional).sample([3], c=torch.tensor([[1.0, 100.0, -2.0]]))
    expected = (x[0] * 127.5 + 128).clamp(0, 255).byte().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a" / "seed0003.png")), expected)
    for options, name in ((("--class", "1"), "b"), (("--label", "0,1,0"), "c")):
        assert run("sample", conditional, "-o", f"{name}.png", "--seeds", "0", *options, cwd=tmp_path).returncode == 0
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "this generator is conditional: give --class 0 to 2 or, where labels are continuous, --label A,B,... of 3"),
        (("--label", "1"), "the label of the images has 1 number; expected 3 numbers"),
        (("--label", "1.0,100.0"), "the label of the images has 2 numbers; expected 3 numbers"),
        (("--label", "1,nan"), "no label"),
        (("--label", "a,b"), "no label"),
        (("--label", "1,"), "no label"),
        (("--label", "1,2", "--class", "0"), "both"),
        (("--class", "3"), "the class of the images is 3; expected 0 to 2"),
    ],
)
def test_labels_that_do_not_fit(conditional: Path, tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    assert said in refused(run("sample", conditional, "-o", "a.png", *options, cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_25_numbers_are_said_to_be_a_camera(tmp_path: Path) -> None:
    path = tmp_path / "camera.pkl"
    toys.checkpoint(path, c_dim=25)
    assert "16 of its place (4x4)" in refused(run("sample", path, "-o", "a.png", cwd=tmp_path))
    assert "16 of its place (4x4)" in run("inspect", path, cwd=tmp_path).stdout
    numbers = ",".join(str(i / 8) for i in range(25))
    assert run("sample", path, "-o", "a.png", "--seeds", "0", "--label", numbers, cwd=tmp_path).returncode == 0


def test_every_command_on_images_takes_a_label_of_numbers(tmp_path: Path) -> None:
    lia = toys.with_encoder(toys.stylegan(c_dim=2))
    lia.save(tmp_path / "l.safetensors")
    toys.pictures(tmp_path / "in", 10)
    c = torch.tensor([[0.5, -2.0]]).expand(10, 2)
    for command, options in (("encode", ()), ("invert", ("--steps", 1, "--start", "mean"))):
        out = f"{command}.safetensors"
        assert run(command, "l.safetensors", "in", "-o", out, "--label", "0.5,-2", *options, cwd=tmp_path).returncode == 0
        from lia_adapter.codes import read_codes

        codes = read_codes(tmp_path / out)
        assert torch.equal(codes.tensors["c"], c) and codes.about["label"] == [0.5, -2.0]
        assert torch.allclose(lia.to_y(codes.tensors["z"], c).float(), codes.tensors["y"], atol=1e-4)
    for command, out in (("reconstruct", "r"), ("evaluate", "e.json")):
        inputs = ("l.safetensors", "in") if command == "reconstruct" else ("l.safetensors", "--data", "in")
        result = run(command, *inputs, "-o", out, "--label", "0.5,-2", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert "expected 2 numbers" in refused_after_work(run(command, *inputs, "-o", out, "--label", "1", cwd=tmp_path))
    assert run("reconstruct", "l.safetensors", "encode.safetensors", "-o", "again", cwd=tmp_path).returncode == 0
    assert (tmp_path / "again" / "000.png").exists()
    assert json.loads((tmp_path / "again" / "grid.json").read_text())["originals"] is None
    one = load(toys.checkpoint(tmp_path / "c.pkl", c_dim=2), label=(0.5, -2.0))
    both = load(tmp_path / "c.pkl")
    assert one.generator.c_dim == 0 and torch.allclose(one.sample([4]), both.sample([4], c=c[:1]), atol=1e-6)


def refused_after_work(result: object) -> str:
    from tests.cli.test_convert_sample_inspect import Result

    assert isinstance(result, Result) and result.returncode == 2, result
    return result.stderr.strip().splitlines()[-1]


# -- transparency


def test_transparency_of_the_case(cases: Path, tmp_path: Path) -> None:
    path = cases / "alpha-dropped" / "rgba.pt"
    assert run("sample", path, "-o", "a/", "--seeds", "0-1", cwd=tmp_path).returncode == 0
    assert run("sample", path, "-o", "b.png", "--seeds", "0-3", cwd=tmp_path).returncode == 0
    with Image.open(tmp_path / "a" / "seed0001.png") as image, Image.open(tmp_path / "b.png") as sheet:
        assert image.mode == sheet.mode == "RGBA"
        x = load(path).sample([1])[0]
        np.testing.assert_array_equal(np.asarray(image), (x * 127.5 + 128).clamp(0, 255).byte().permute(1, 2, 0).numpy())


def test_images_with_transparency_go_in_and_out_with_four_channels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels[..., :3]).save(tmp_path / "b.png")
    images = open_images(tmp_path, (8, 12), 4)
    clear, opaque = images.load(0), images.load(1)
    assert clear is not None and opaque is not None
    np.testing.assert_array_equal(clear.pixels.permute(1, 2, 0), pixels)
    assert (opaque.pixels[3] == 255).all()
    original = images.original(0)
    x, placement = fit_image(original, (8, 8), 4, "crop")
    back = paste_back(original, x, placement)
    assert back.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(back), pixels)


def test_commands_use_four_channels(tmp_path: Path) -> None:
    lia = toys.with_encoder(toys.stylegan(channels=4))
    lia.save(tmp_path / "l.safetensors")
    source = tmp_path / "in"
    source.mkdir()
    random = np.random.default_rng(0)
    for i in range(10):
        Image.fromarray(random.integers(0, 256, (8, 9, 4), dtype=np.uint8)).save(source / f"{i}.png")
    assert run("encode", "l.safetensors", "in", cwd=tmp_path).returncode == 0
    assert run("reconstruct", "l.safetensors", "in", "-o", "r", cwd=tmp_path).returncode == 0
    assert {Image.open(tmp_path / "r" / name).mode for name in ("0.png", "0.pasted.png", "grid.png")} == {"RGBA"}
    result = run("invert", "l.safetensors", "in", "-o", "i.safetensors", "--steps", 2, "--split", "first 2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert run("evaluate", "l.safetensors", "--data", "in", "-o", "e.json", cwd=tmp_path).returncode == 0
    given = [f"{key}={value}" for key, value in toys.QUICK_ENCODER.items()]
    result = run("train-encoder", "l.safetensors", "--data", "in", "-o", "t.safetensors", *given, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


# -- codes of other programs


def codes_case(cases: Path) -> tuple[Path, NDArray[np.float32]]:
    path = cases / "codes-of-peers" / "projected_w.npz"
    return path, np.load(path)["w"]


def plain(num_ws: int, y_dim: int, path: Path) -> LIA:
    lia = toys.stylegan(resolution=2 ** (num_ws // 2 + 1), y_dim=y_dim, z_dim=y_dim)
    assert lia.generator.num_ws == num_ws
    lia.save(path)
    return lia


def drawn(lia: LIA, codes: torch.Tensor) -> list[NDArray[np.uint8]]:
    x = (lia.synthesize(codes) * 127.5 + 128).clamp(0, 255).byte()
    return list(x.permute(0, 2, 3, 1).numpy())


def test_codes_of_the_case(cases: Path, tmp_path: Path) -> None:
    path, w = codes_case(cases)
    lia = plain(w.shape[1], w.shape[2], tmp_path / "l.safetensors")
    said = refused(run("reconstruct", "l.safetensors", path, "-o", "r", cwd=tmp_path))
    assert "another program" in said and "--trust-codes" in said and not (tmp_path / "r").exists()
    result = run("reconstruct", "l.safetensors", path, "-o", "r", "--trust-codes", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = np.asarray(Image.open(tmp_path / "r" / "projected_w.png"))
    np.testing.assert_array_equal(found, drawn(lia, torch.from_numpy(w))[0])
    assert run("reconstruct", "l.safetensors", path, "-o", "r", "--trust-codes", "-n", cwd=tmp_path).returncode == 0


def save_npy(path: Path, value: object) -> Path:
    np.save(path, value, allow_pickle=True)  # type: ignore[arg-type]
    return path


def save_npz(path: Path, **arrays: NDArray[np.generic]) -> Path:
    (np.savez_compressed if len(arrays) > 1 else np.savez)(path, **arrays)  # type: ignore[arg-type]
    return path


def save_torch(path: Path, value: object, **options: bool) -> Path:
    torch.save(value, path, **options)
    return path


def some(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


Y, YS, MANY = some(3, 16), some(1, 4, 16), some(3, 4, 16)
ROSINALITY = {f"{name}.jpg": {"img": some(3, 8, 8), "latent": code, "noise": [some(1, 1, 4, 4)]} for name, code in
              (("a", Y[0]), ("b", Y[1]), ("c", Y[2]))}  # fmt: skip
RESTYLE = {f"{i}.jpg": [some(4, 16).numpy(), MANY[i].numpy()] for i in range(3)}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: save_npy(path / "c.npy", YS[0].numpy()), YS),
        (lambda path: save_npy(path / "c.npy", YS.numpy()), YS),
        (lambda path: save_npy(path / "c.npy", MANY.double().numpy()), MANY),
        (lambda path: save_npy(path / "c.npy", MANY[:, None].numpy()), MANY),
        (lambda path: save_npy(path / "c.npy", Y.numpy()), Y),
        (lambda path: save_npy(path / "c.npy", Y[:, None].numpy()), Y),
        (lambda path: save_npy(path / "c.npy", Y[0].numpy()), Y[:1]),
        (lambda path: save_npy(path / "c.npy", np.asfortranarray(MANY.numpy().astype(">f4"))), MANY),
        (lambda path: save_npy(path / "latents.npy", RESTYLE), MANY),
        (lambda path: save_npz(path / "c.npz", w=YS.numpy()), YS),
        (lambda path: save_npz(path / "c.npz", dlatents=MANY.numpy(), loss=np.zeros(3)), MANY),
        (lambda path: save_npz(path / "c.npz", arr_0=MANY.numpy()), MANY),
        (lambda path: save_torch(path / "a.pt", ROSINALITY), Y),
        (lambda path: save_torch(path / "a.pt", ROSINALITY, _use_new_zipfile_serialization=False), Y),
        (lambda path: save_torch(path / "a.pt", {f"{i}.jpg": {"img": Y, "latent": MANY[i]} for i in range(3)}), MANY),
        (lambda path: save_torch(path / "latents.pt", MANY), MANY),
        (lambda path: save_torch(path / "0.pt", torch.nn.Parameter(YS.half())), YS.half().float()),
        (lambda path: save_torch(path / "l.pth", [MANY[i : i + 1] for i in range(3)]), MANY),
        (lambda path: save_torch(path / "l.pt", {"latents": MANY, "names": ["a", "b", "c"]}), MANY),
    ],
)  # fmt: skip
def test_codes_of_other_programs(tmp_path: Path, make: Callable[[Path], Path], expected: torch.Tensor) -> None:
    from lia_adapter.codes import open_codes

    lia = toys.stylegan()
    assert lia.generator.num_ws == 4
    codes = open_codes(make(tmp_path), lia, trust=True)
    assert torch.equal(codes.ys, expected) and len(set(codes.names)) == len(expected)


def executes(path: Path) -> Path:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            import os

            return os.system, (f"touch {path.parent / 'ran'}",)

    if path.suffix == ".npy":
        return save_npy(path, {"a.jpg": Evil()})
    if path.suffix == ".npz":
        np.savez(path, w=np.array({"a": Evil()}, dtype=object))
        return path
    return save_torch(path, {"a.jpg": {"latent": Evil()}})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: save_npy(path / "c.npy", some(1, 5, 16).numpy()), "holds codes [1, 5, 16], but this generator takes"),
        (lambda path: save_npy(path / "c.npy", some(4, 8).numpy()), "holds codes [4, 8]"),
        (lambda path: save_npy(path / "c.npy", some(0, 16).numpy()), "holds codes [0, 16]"),
        (lambda path: save_npy(path / "c.npy", np.zeros((4, 16), int)), "is of type int64"),
        (lambda path: save_npy(path / "c.npy", Y.numpy() * np.inf), "not finite"),
        (lambda path: save_npy(path / "c.npy", {"a": "text"}), "no array of codes"),
        (lambda path: save_npy(path / "c.npy", {}), "no array of codes"),
        (lambda path: save_torch(path / "c.pt", {"latent": torch.zeros(4, 16, dtype=torch.long)}), "floats were expected"),
        (lambda path: save_torch(path / "c.pt", {}), "no array of codes"),
        (lambda path: cut(save_npy(path / "c.npy", Y.numpy())), "damaged"),
        (lambda path: cut(save_torch(path / "c.pt", Y)), "cut off"),
        (lambda path: written_to(path / "c.npy", b""), "no array of numpy, or damaged"),
        (lambda path: written_to(path / "c.npz", b"PK\3\4"), "no .npz file, or damaged"),
        (lambda path: written_to(path / "c.npy", huge()), "too few for"),
        (lambda path: path / "absent.npz", "there is no"),
        (lambda path: path / "absent.npy", "does not exist"),
        (lambda path: path / "absent.pt", "does not exist"),
        (lambda path: executes(path / "c.npy"), "system"),
        (lambda path: executes(path / "c.npz"), "is a pickle"),
        (lambda path: executes(path / "c.pt"), "system"),
    ],
)  # fmt: skip
def test_codes_that_are_none(tmp_path: Path, make: Callable[[Path], Path], said: str) -> None:
    toys.stylegan().save(tmp_path / "l.safetensors")
    path = make(tmp_path)
    assert said in refused(run("reconstruct", "l.safetensors", path, "-o", "r", "--trust-codes", cwd=tmp_path))
    assert not (tmp_path / "ran").exists() and not (tmp_path / "r").exists()


def written_to(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def cut(path: Path) -> Path:
    return written_to(path, path.read_bytes()[:-40])


def huge() -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 16)})
    return buffer.getvalue() + bytes(64)


# -- few images


def test_few_images_come_with_an_interval_and_fewer_than_ten_are_refused(tmp_path: Path) -> None:
    lia = toys.with_encoder(toys.stylegan())
    lia.save(tmp_path / "l.safetensors")
    toys.pictures(tmp_path / "in", 12)
    result = run("evaluate", "l.safetensors", "--data", "in", "-o", "e.json", cwd=tmp_path)
    assert result.returncode == 0 and "(95 %): so few images that it is rough, and larger than of many" in result.stdout
    found = json.loads((tmp_path / "e.json").read_text())["frechet"]
    for name in ("reconstructions", "samples"):
        low, high = found["interval"][name]
        assert 0 <= low < found[name] < high
    assert "95 %" in (tmp_path / "e.html").read_text()
    line = refused(run("evaluate", "l.safetensors", "--data", "in", "-o", "f.json", "--split", "first 9", cwd=tmp_path))
    assert "at least 10; found 9 in" in line and not (tmp_path / "f.json").exists()


def test_many_images_come_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lia_adapter.jobs import evaluate as module

    class Means(torch.nn.Module):
        name = "means"

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(dim=(2, 3))

    monkeypatch.setattr(module, "PixelFeatures", Means)
    monkeypatch.setattr(module, "_FEW", 12)
    lia = toys.with_encoder(toys.stylegan())
    assert "interval" not in evaluate(lia, toys.pictures(tmp_path / "a", 12))["frechet"]
    assert "interval" in evaluate(lia, toys.pictures(tmp_path / "b", 11))["frechet"]


def test_the_interval_covers_the_distance_of_as_many_others() -> None:
    # A bootstrap's does not: sets that hold a vector twice are farther apart.
    random = torch.Generator().manual_seed(0)

    def sets(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(n, 32, generator=random, dtype=torch.float64)
        return x, torch.randn(n, 32, generator=random, dtype=torch.float64) * 0.9 + 0.1

    def told(a: torch.Tensor, b: torch.Tensor) -> tuple[float, float]:
        found = jackknife(lambda part: frechet_distance(a[part], b[part]), len(a))
        assert found is not None
        return found

    for n in (20, 60):
        mean = np.mean([frechet_distance(*sets(n)) for _ in range(100)])
        covered = [low <= mean <= high for low, high in (told(*sets(n)) for _ in range(60))]
        assert np.mean(covered) > 0.87
        a, b = sets(n)
        twins = [frechet_distance(a[torch.randint(n, (n,), generator=random)], b[torch.randint(n, (n,), generator=random)])
                 for _ in range(60)]  # fmt: skip
        assert np.quantile(twins, 0.025) > mean


def test_the_distance_of_few_vectors_is_the_same_the_short_way() -> None:
    random = torch.Generator().manual_seed(0)
    a, b = torch.randn(9, 20, generator=random), torch.randn(12, 20, generator=random) * 2 + 1
    from lia_adapter.metrics.distances import Moments

    moments = [Moments(), Moments()]
    for found, x in zip(moments, (a, b), strict=True):
        found.add(x)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(*moments), rel=1e-6)


def test_names_of_files_are_told_by_short_words_alone() -> None:
    assert listed(["a.PNG", "b.png", "c.PNGPK\1\2\x14", "d." + "x" * 300, "e", "f.txt"]) == (
        "3 without an ending, 2 .PNG, 1 .txt"
    )
