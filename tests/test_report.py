"""Pictures of images: what a pixel becomes and where it goes."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lia_adapter.errors import LIAError
from lia_adapter.report import image_grid, one_hot, png_bytes, save_png, to_uint8


def test_pixels_are_rounded_as_stylegan_rounds() -> None:
    # NVlabs' programs write floor(127.5 x + 128): zero is 128, and only the upper end clips inside [-1, 1].
    values = torch.tensor([-9.0, -1.0, -0.5, -1 / 255, 0.0, 0.5, 1 - 1 / 127.5, 1.0, 9.0])
    expected = [0, 0, 64, 127, 128, 191, 254, 255, 255]
    found = to_uint8(values.reshape(1, 1, 1, -1))
    assert found.dtype == torch.uint8 and found[0, 0, :, 0].tolist() == expected


def test_every_byte_survives_the_way_to_an_image_and_back() -> None:
    values = torch.arange(256)
    x = (values / 127.5 - 1).reshape(1, 1, 16, 16)
    assert torch.equal(to_uint8(x)[0, :, :, 0].flatten().long(), values)


@pytest.mark.parametrize(("channels", "shown"), [(1, [0, 0, 0]), (2, [0, 1, 0]), (3, [0, 1, 2]), (4, [0, 1, 2])])
def test_any_number_of_channels_becomes_three(channels: int, shown: list[int]) -> None:
    x = torch.linspace(-1, 1, 2 * channels * 6).reshape(2, channels, 2, 3)
    found = to_uint8(x)
    assert found.shape == (2, 2, 3, 3)
    for i, channel in enumerate(shown):
        assert torch.equal(found[..., i], (x[:, channel] * 127.5 + 128).clamp(0, 255).to(torch.uint8))


def numbered(n: int, h: int = 2, w: int = 3) -> Tensor:
    """Images whose value is their number: 0, 1, 2 ..."""
    return (torch.arange(n) / 127.5 - 1).reshape(n, 1, 1, 1).expand(n, 1, h, w)


@pytest.mark.parametrize(
    ("n", "columns", "layout"),
    [
        (6, 3, [[0, 1, 2], [3, 4, 5]]),
        (5, 3, [[0, 1, 2], [3, 4, 255]]),
        (3, 8, [[0, 1, 2]]),
        (3, 1, [[0], [1], [2]]),
        (9, None, [[0, 1, 2], [3, 4, 5], [6, 7, 8]]),
        (7, None, [[0, 1, 2], [3, 4, 5], [6, 255, 255]]),
        (2, None, [[0, 1]]),
        (1, None, [[0]]),
    ],
)
def test_a_grid_is_filled_row_by_row_and_the_rest_is_white(n: int, columns: int | None, layout: list[list[int]]) -> None:
    image = image_grid(numbered(n), columns)
    assert image.mode == "RGB" and image.size == (3 * len(layout[0]), 2 * len(layout))
    expected = np.kron(np.array(layout), np.ones((2, 3)))
    for channel in range(3):
        np.testing.assert_array_equal(np.asarray(image)[:, :, channel], expected)


def test_images_in_a_grid_stay_upright() -> None:
    x = torch.full((2, 3, 2, 2), -1.0)
    x[1, 0, 0, 1] = 1  # red, above on the right
    pixels = np.asarray(image_grid(x))
    assert pixels[0, 3].tolist() == [255, 0, 0] and pixels.sum() == 255


def test_a_png_keeps_every_pixel(tmp_path: Path) -> None:
    x = torch.rand(4, 3, 8, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    image = image_grid(x)
    save_png(tmp_path / "x.png", image)
    content = (tmp_path / "x.png").read_bytes()
    assert content == png_bytes(image) and [path.name for path in tmp_path.iterdir()] == ["x.png"]
    for back in (Image.open(io.BytesIO(content)), Image.open(tmp_path / "x.png")):
        assert back.format == "PNG"
        np.testing.assert_array_equal(np.asarray(back), np.asarray(image))


def test_a_png_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(LIAError, match="absent"):
        save_png(tmp_path / "absent" / "x.png", image_grid(numbered(1)))


def test_labels_are_one_hot() -> None:
    found = one_hot([2, 0, 2], 4)
    assert found is not None and found.dtype == torch.float32
    assert found.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 1, 0]]
    assert one_hot([0, 0], 0) is None
