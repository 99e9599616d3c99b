"""Faces cut out upright by their landmarks: against closed forms, and back into the photograph."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lia_adapter.data import Placement, open_images, paste_back
from lia_adapter.data.align import read_alignment, square_of
from lia_adapter.data.fit import fit_pixels
from lia_adapter.data.square import Square, cut
from lia_adapter.errors import ConfigError, LIAError

SHAPE = (120, 160)
FACE = np.array([[-0.3, -0.25], [0.3, -0.25], [0.0, 0.05], [-0.2, 0.3], [0.2, 0.3]])  # eyes, nose, mouth


def turned(points: NDArray[np.float64], degrees: float, scale: float, middle: tuple[float, float]) -> NDArray[np.float64]:
    a = math.radians(degrees)
    rotation = np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])  # of rows
    moved: NDArray[np.float64] = scale * points @ rotation + middle
    return moved


def scene(x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """A smooth picture at any places, [..., 3] in 0..255."""
    waves = [np.sin(x / 9 + 1), np.cos(y / 11), np.sin((x + 2 * y) / 17)]
    return 128 + 90 * np.stack(waves, axis=-1)


def photograph() -> Image.Image:
    y, x = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]]
    return Image.fromarray(scene(x + 0.5, y + 0.5).round().astype(np.uint8))


def shown(square: Square, n: int) -> NDArray[np.float64]:
    """What the square shows of the scene [n, n, 3], by the similarity written out."""
    u, v = np.meshgrid((np.arange(n) + 0.5) / n * 2 - 1, (np.arange(n) + 0.5) / n * 2 - 1)
    return scene(square.x + u * square.right - v * square.down, square.y + u * square.down + v * square.right)


def landmarks68(five: NDArray[np.float64]) -> NDArray[np.float64]:
    """68 points with those five, where the others say nothing."""
    points = np.full((68, 2), 7.0)
    circle = np.array([[math.cos(k), math.sin(k)] for k in np.arange(6) * math.pi / 3])
    points[36:42], points[42:48] = five[0] + circle, five[1] + circle
    points[48], points[54] = five[3], five[4]
    return points


# -- which square


@pytest.mark.parametrize("form", [lambda five: five, landmarks68])
def test_the_square_is_ffhqs(form: Callable[[Any], Any]) -> None:
    upright = square_of(form(turned(FACE, 0, 100, (200, 300))).tolist())
    # Eyes 60 apart at y 275, mouth 55 below: half a side is max(120, 99), the middle a tenth of 55 below the eyes.
    assert upright == pytest.approx((200.5, 275 + 5.5 + 0.5, 120, 0))
    for degrees in (30, -77, 180):
        found = square_of(form(turned(FACE, degrees, 100, (0, 0))).tolist())
        a = math.radians(degrees)
        middle = turned(np.array([[0, -0.195]]), degrees, 100, (0.5, 0.5))[0]
        assert found == pytest.approx((*middle, 120 * math.cos(a), 120 * math.sin(a)))
    long = square_of([[-10, 0], [10, 0], [0, 0], [-10, 100], [10, 100]])
    assert long.side == pytest.approx(2 * 180)


def test_the_direction_is_between_that_of_the_eyes_and_that_across_to_the_mouth() -> None:
    square = square_of([[0, 0], [100, 0], [0, 0], [75, 80], [75, 80]])  # e = (100, 0), m = (25, 80): e - rot(m) = (180, -25)
    assert square.down / square.right == pytest.approx(-25 / 180)
    assert square.side == pytest.approx(2 * 200) and (square.x, square.y) == pytest.approx((53, 8.5))


# -- cut out and put back

SQUARES = [Square(80, 60, 32 * math.cos(a), 32 * math.sin(a)) for a in (0.0, 0.5, -2.0)]


@pytest.mark.parametrize("square", SQUARES)
@pytest.mark.parametrize("n", [32, 64, 100])
def test_a_square_is_cut_out_where_the_similarity_says(square: Square, n: int) -> None:
    found = np.asarray(cut(photograph(), square, n)).astype(float)
    assert np.abs(found - shown(square, n))[2:-2, 2:-2].max() < 1.6  # two roundings
    assert np.abs(found - shown(square, n)).mean() < 0.7


def test_an_upright_square_of_the_right_size_is_cut_out_exactly() -> None:
    picture = photograph()
    found = cut(picture, Square(60, 50, 16, 0), 32)
    assert np.array_equal(np.asarray(found), np.asarray(picture)[34:66, 44:76])
    turned = cut(picture, Square(60, 50, 0, 16), 32)  # its right side is down in the picture
    assert np.array_equal(np.asarray(turned), np.rot90(np.asarray(picture)[34:66, 44:76]))


@pytest.mark.parametrize("square", SQUARES)
def test_what_was_cut_out_goes_back_to_where_it_was(square: Square) -> None:
    picture = photograph()
    pixels, placement = fit_pixels(picture, (64, 64), 3, "crop", square)
    assert placement.box == square.box_in(SHAPE)
    for feather in (0.0, 0.1):
        back = np.asarray(paste_back(picture, pixels / 127.5 - 1, placement, feather=feather)).astype(int)
        assert np.abs(back - np.asarray(picture)).max() <= (4 if feather else 40)  # only a hard edge shows the kernel's end
        assert np.abs(back - np.asarray(picture)).mean() < 0.5
    assert Placement.from_json(json.loads(json.dumps(placement.to_json()))) == placement


def test_the_seam_follows_the_turned_square() -> None:
    gray, square = Image.new("L", (100, 100), 200), Square(50, 50, 21, 28)  # a side of 70, turned by 53 degrees
    _, placement = fit_pixels(gray, (16, 16), 1, "crop", square)
    black = np.asarray(paste_back(gray, -fit_pixels(gray, (16, 16), 1, "crop", square)[0].float().sign(), placement))
    y, x = np.mgrid[0:100, 0:100] + 0.5
    u, v = ((x - 50) * 0.6 + (y - 50) * 0.8), (-(x - 50) * 0.8 + (y - 50) * 0.6)
    weight = np.ones((100, 100))
    for far in (35 - u, 35 + u, 35 - v, 35 + v):
        t = (far / 7).clip(0, 1)
        weight *= t * t * (3 - 2 * t)
    assert np.abs(black - 200 * (1 - weight)).max() <= 1


def test_a_side_outside_of_the_photograph_is_no_seam_and_the_photograph_is_mirrored_there() -> None:
    picture = photograph()
    pixels, placement = fit_pixels(picture, (40, 40), 3, "crop", Square(20, 60, 20, 0))
    assert placement.box == (40, 0, 80, 40)
    back = np.asarray(paste_back(picture, 0 * pixels.float() - 1, placement))
    assert (back[44:76, :36] == 0).all() and (back[60, :36] == 0).all()
    mirrored = np.asarray(cut(picture, Square(10, 60, 20, 0), 40))
    assert np.array_equal(mirrored[:, :10], np.asarray(picture)[40:80, 1:11][:, ::-1])
    assert np.array_equal(mirrored[:, 10:], np.asarray(picture)[40:80, :30])
    huge = cut(picture, Square(80, 60, 5e6, 1e6), 16)  # without taking memory for all of it
    assert huge.size == (16, 16)


# -- data sets and files


def folder(tmp_path: Path) -> Path:
    made = tmp_path / "photos"
    made.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        photograph().save(made / name)
    return made


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "landmarks.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_faces_of_a_folder_are_aligned_and_those_without_landmarks_named(tmp_path: Path) -> None:
    five = turned(FACE, 20, 30, (70, 60))
    points = {"a.png": five.tolist(), "b.png": landmarks68(five).tolist(), "z.png": five.tolist()}
    images = open_images(folder(tmp_path), (32, 32), 3, align="ffhq", landmarks=written(tmp_path, points))
    first, second, third = (images.load(i) for i in range(3))
    assert first is not None and second is not None and third is None
    assert images.unreadable == {"c.png": "landmarks.json has no landmarks for it"}
    assert np.abs(first.pixels.permute(1, 2, 0).numpy() - shown(square_of(five.tolist()), 32))[4:-4, 4:-4].max() < 2
    assert (first.pixels.int() - second.pixels.int()).abs().max() <= 1
    plain = open_images(tmp_path / "photos", (32, 32), 3)
    points["a.png"][0][0] += 1
    other = open_images(tmp_path / "photos", (32, 32), 3, align="ffhq", landmarks=written(tmp_path, points))
    assert len({images.identity(), plain.identity(), other.identity()}) == 3


def test_landmarks_are_those_of_the_upright_photograph(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    made = tmp_path / "photos"
    made.mkdir()
    photograph().transpose(Image.Transpose.ROTATE_90).save(made / "a.png", exif=exif)  # to be turned back
    points = turned(FACE, 20, 30, (70, 60)).tolist()
    images = open_images(made, (32, 32), 3, align="ffhq", landmarks=written(tmp_path, {"a.png": points}))
    item = images.load(0)
    assert item is not None
    assert np.abs(item.pixels.permute(1, 2, 0).numpy() - shown(square_of(points), 32))[4:-4, 4:-4].max() < 2


def test_landmarks_of_another_picture(tmp_path: Path) -> None:
    points = turned(FACE, 0, 50, (900, 60)).tolist()
    images = open_images(folder(tmp_path), (8, 8), 3, align="ffhq", landmarks=written(tmp_path, {"a.png": points}))
    assert images.load(0) is None and "those of another picture" in images.unreadable["a.png"]


GOOD = FACE.tolist()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "is no JSON"), ("[" * 100_000, "is no JSON"), ([], "holds no landmarks"), ({}, "holds no landmarks"),
        ({"a.png": GOOD[:4]}, "of 'a.png' are of no use"), ({"a.png": [[1, 2, 3]] * 5}, "of no use"),
        ({"a.png": [["1", 2]] * 5}, "of no use"), ({"a.png": None}, "of no use"), ({"a.png": [[1, 1]] * 5}, "all at one place"),
        ('{"a.png": [[NaN, 0], [1, 0], [0, 0], [0, 1], [1, 1]]}', "of no use"), ({"a.png": [[1e300, True]] * 68}, "of no use"),
        ({"x.png": turned(FACE, 0, 50, (70, 60)).tolist()}, "landmarks for none of the 3 images"),
    ],
)  # fmt: skip
def test_files_that_are_of_no_use_are_told_in_one_line(tmp_path: Path, content: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        open_images(folder(tmp_path), (8, 8), 3, align="ffhq", landmarks=written(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_arguments_that_do_not_go_together(tmp_path: Path) -> None:
    photos, file = folder(tmp_path), written(tmp_path, {"a.png": turned(FACE, 0, 50, (70, 60)).tolist()})
    both: dict[str, Any] = {"align": "ffhq", "landmarks": file}
    wrong: list[tuple[Any, tuple[int, int], dict[str, Any], str]] = [
        (photos, (8, 8), {"align": "ffhq"}, "align needs landmarks"),
        (photos, (8, 8), {"landmarks": file}, "landmarks needs align"),
        (photos, (8, 8), both | {"align": "celeba"}, "no alignment 'celeba'"), (photos, (8, 12), both, "12 x 8"),
        (photos, (8, 8), both | {"resize_mode": "stretch"}, "resize_mode says nothing"),
        ("toyfaces:3", (8, 8), both, "toy faces"),
        (photos, (8, 8), both | {"landmarks": tmp_path / "none.json"}, "no such file"),
    ]  # fmt: skip
    for data, size, options, why in wrong:
        with pytest.raises(ConfigError, match=why):
            open_images(data, size, 3, **options)
    assert read_alignment(None, None) is None


@pytest.mark.parametrize(
    "change",
    [
        {"square": [1, 2, 3]}, {"square": [1, 2, 0, 0]}, {"square": ["1", 2, 3, 4]}, {"square": [1, 2, float("nan"), 4]},
        {"square": None}, {"square": "abcd"}, {"fit": "crop"}, {"converted": 1},
    ],
)  # fmt: skip
def test_a_placement_of_a_square_that_is_none(change: dict[str, Any]) -> None:
    values = Placement("aligned", (8, 8), (0, 0, 8, 8), (0, 0, 4, 4), Square(4, 4, 3, 0)).to_json()
    assert Placement.from_json(values).square == (4, 4, 3, 0)
    with pytest.raises(LIAError, match="cannot read the placement"):
        Placement.from_json(values | change)
