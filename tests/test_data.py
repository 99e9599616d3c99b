"""Folders of images that are as untidy as people's folders are."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lia_adapter.data import ImageFolder
from lia_adapter.errors import LIAError

Pixels = NDArray[np.uint8]


def save(folder: Path, name: str, pixels: Pixels, **options: object) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]
    return path


def flat(value: int, h: int = 8, w: int = 8) -> Pixels:
    return np.full((h, w, 3), value, dtype=np.uint8)


def noise(h: int, w: int, channels: int = 3) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (h, w, channels), dtype=np.uint8)


def as_pixels(x: Tensor) -> NDArray[np.float32]:
    """[C, H, W] in [-1, 1] -> [H, W, C] in 0..255."""
    found: NDArray[np.float32] = ((x + 1) * 127.5).permute(1, 2, 0).numpy()
    return found


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_all_images_below_the_folder_in_order_of_their_names(tmp_path: Path) -> None:
    names = ["b.png", "a.JPG", "deep/er/c.webp", "deep/a.bmp", "z.tif", "é.jpeg"]
    for name in names:
        save(tmp_path, name, flat(9))
    for other in ("notes.txt", "image.png.part", "deep/x.npy"):
        (tmp_path / other).write_text("no image")
    (tmp_path / "folder.png").mkdir()
    folder = ImageFolder(tmp_path, (8, 8), 3)
    assert folder.files == sorted(tmp_path / name for name in names)
    assert folder.batch(12, seeded(0)).shape == (12, 3, 8, 8) and folder.unreadable == []


def test_pixels_arrive_unchanged_where_the_size_fits(tmp_path: Path) -> None:
    pixels = noise(6, 10)
    path = save(tmp_path, "x.png", pixels)
    x = ImageFolder(tmp_path, (6, 10), 3).load(path)
    assert x.shape == (3, 6, 10) and x.dtype == torch.float32
    np.testing.assert_allclose(as_pixels(x), pixels, atol=1e-4)


def test_black_is_minus_one_and_white_is_one(tmp_path: Path) -> None:
    save(tmp_path, "a.png", flat(0))
    save(tmp_path, "b.png", flat(255))
    folder = ImageFolder(tmp_path, (4, 4), 3)
    assert [set(folder.load(file).flatten().tolist()) for file in folder.files] == [{-1.0}, {1.0}]
    save(tmp_path, "c.png", noise(40, 40))  # resampling overshoots; the range is kept
    x = ImageFolder(tmp_path, (33, 31), 3).load(tmp_path / "c.png")
    assert x.min() >= -1 and x.max() <= 1


@pytest.mark.parametrize(
    ("source", "target", "middle"),
    [
        ((6, 10), (6, 6), (slice(0, 6), slice(2, 8))),
        ((10, 6), (6, 6), (slice(2, 8), slice(0, 6))),
        ((6, 10), (3, 10), None),
        ((9, 16), (9, 4), (slice(0, 9), slice(6, 10))),
        ((12, 8), (4, 8), (slice(4, 8), slice(0, 8))),
    ],
)
def test_the_middle_is_cut_out(
    tmp_path: Path, source: tuple[int, int], target: tuple[int, int], middle: tuple[slice, slice] | None
) -> None:
    pixels = noise(*source)
    x = ImageFolder(save(tmp_path, "x.png", pixels).parent, target, 3).batch(1, seeded(0))[0]
    assert x.shape == (3, *target)
    if middle is not None:
        np.testing.assert_allclose(as_pixels(x), pixels[middle], atol=1e-4)


def test_resizing_keeps_the_place_of_things(tmp_path: Path) -> None:
    pixels = flat(0, 64, 32)
    pixels[:32, :16, 0] = pixels[32:, 16:, 1] = 255  # red above on the left, green below on the right
    x = ImageFolder(save(tmp_path, "x.png", pixels).parent, (16, 8), 3).batch(1, seeded(0))[0]
    assert x[0, 2, 1] > 0.98 and x[1, 13, 6] > 0.98 and x[0, 13, 6] < -0.98 and x[2].max() < -0.98


def test_gray_and_colour(tmp_path: Path) -> None:
    colour = noise(5, 5)
    save(tmp_path, "colour.png", colour)
    save(tmp_path, "gray.png", colour[:, :, 0])
    gray_of_colour, gray = (ImageFolder(tmp_path, (5, 5), 1).load(tmp_path / f"{n}.png") for n in ("colour", "gray"))
    np.testing.assert_allclose(as_pixels(gray)[:, :, 0], colour[:, :, 0], atol=1e-4)
    luma = colour @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    np.testing.assert_allclose(as_pixels(gray_of_colour)[:, :, 0], luma, atol=1)
    x = ImageFolder(tmp_path, (5, 5), 3).load(tmp_path / "gray.png")
    assert torch.equal(x, gray.repeat(3, 1, 1))


def test_sixteen_bits_are_reduced_and_not_clipped(tmp_path: Path) -> None:
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(pixels).save(tmp_path / "x.png")
    for channels in (1, 3):
        x = ImageFolder(tmp_path, (8, 8), channels).batch(1, seeded(0))[0]
        np.testing.assert_allclose(as_pixels(x)[:, :, 0], pixels / 65535 * 255, atol=1)


def test_the_orientation_that_a_camera_noted_is_used(tmp_path: Path) -> None:
    pixels = noise(4, 7)
    upright = {1: pixels, 3: pixels[::-1, ::-1], 6: np.rot90(pixels, -1), 8: np.rot90(pixels), 2: pixels[:, ::-1]}
    for orientation, expected in upright.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = save(tmp_path, f"{orientation}.png", pixels, exif=exif)
        x = ImageFolder(tmp_path, expected.shape[:2], 3).load(path)
        np.testing.assert_allclose(as_pixels(x), expected, atol=1e-4, err_msg=str(orientation))


# -- what can't be read


def broken(kind: str) -> bytes:
    """A file that ends in .webp and is none, each in a way that Pillow reports by another exception."""
    if kind in ("empty", "text"):
        return {"empty": b"", "text": b"<html>not found</html>"}[kind]
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(noise(20, 20)).save(buffer, "WEBP", lossless=True, exif=exif)
    whole = buffer.getvalue()
    if kind == "truncated":
        return whole[: len(whole) // 2]
    assert kind == "bad exif"
    place = whole.index(b"EXIF") + 8
    return whole[:place] + b"junkjunk" + whole[place + 8 :]


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "bad exif"])
def test_what_cannot_be_read_is_listed_and_passed_over(tmp_path: Path, kind: str) -> None:
    for name, value in (("a.png", 0), ("c.png", 255)):
        save(tmp_path, name, flat(value))
    (tmp_path / "b.webp").write_bytes(broken(kind))
    folder = ImageFolder(tmp_path, (8, 8), 3)
    x = folder.batch(50, seeded(0))
    assert folder.unreadable == [tmp_path / "b.webp"]
    assert set(x.mean(dim=(1, 2, 3)).tolist()) == {-1.0, 1.0} and len(x) == 50


def test_an_image_that_is_too_large_to_be_true_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, "a.png", flat(0))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for side in (12, 40):  # Pillow warns of the first and refuses the second
        save(tmp_path, f"{side}.png", flat(255, side, side))
    folder = ImageFolder(tmp_path, (8, 8), 3)
    assert folder.batch(30, seeded(0)).max() == -1
    assert {path.name for path in folder.unreadable} == {"12.png", "40.png"}


def test_nothing_but_broken_images(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"no image")
    folder = ImageFolder(tmp_path, (8, 8), 3)
    for _ in range(2):
        with pytest.raises(LIAError, match="none of the 3 images"):
            folder.batch(2, seeded(0))


def test_folders_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(LIAError, match=r"holds no images \(.*\.jpg.*\.png"):
        ImageFolder(tmp_path, (8, 8), 3)
    for path in (tmp_path / "absent", tmp_path / "notes.txt"):
        with pytest.raises(LIAError, match="is not a folder"):
            ImageFolder(path, (8, 8), 3)
    with pytest.raises(LIAError, match="draws 4 channels"):
        ImageFolder(tmp_path, (8, 8), 4)


# -- batches


@pytest.fixture
def twenty(tmp_path: Path) -> Path:
    for i in range(20):
        save(tmp_path, f"{i:02}.png", flat(i))
    return tmp_path


def order(x: Tensor) -> list[int]:
    return [round(float(value + 1) * 127.5) for value in x[:, 0, 0, 0]]


def test_a_batch_is_drawn_by_its_generator_alone(twenty: Path) -> None:
    folder = ImageFolder(twenty, (8, 8), 3)
    before = torch.get_rng_state()
    first = order(folder.batch(200, seeded(0)))
    assert torch.equal(torch.get_rng_state(), before)
    assert set(first) == set(range(20))
    assert order(folder.batch(200, seeded(0))) == first == order(ImageFolder(twenty, (8, 8), 3).batch(200, seeded(0)))
    assert order(folder.batch(200, seeded(1))) != first
    random = seeded(0)
    assert order(folder.batch(120, random)) + order(folder.batch(80, random)) == first


def test_broken_images_found_earlier_do_not_change_a_batch(twenty: Path) -> None:
    # A run that is resumed meets them for the second time, one that was not stopped knows them.
    for name in ("03.png", "11.png", "19.png"):
        (twenty / name).write_bytes(b"no image")
    folder = ImageFolder(twenty, (8, 8), 3)
    folder.batch(200, seeded(0))
    assert len(folder.unreadable) == 3
    assert order(folder.batch(30, seeded(1))) == order(ImageFolder(twenty, (8, 8), 3).batch(30, seeded(1)))
