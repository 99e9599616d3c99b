"""Pictures of images: what a pixel becomes and where it goes."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lia_adapter import pictures
from lia_adapter.errors import LIAError
from lia_adapter.generators import seed_to_z
from lia_adapter.lia import LIA
from lia_adapter.pictures import (
    Sheet,
    comparison_grid,
    drawn,
    image_grid,
    one_hot,
    paired_grid,
    png_bytes,
    save_png,
    to_uint8,
)
from lia_adapter.resize import resize
from tests import toys


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


@pytest.mark.parametrize(
    ("channels", "shown"), [(1, [0, 0, 0]), (2, [0, 1, 0]), (3, [0, 1, 2]), (4, [0, 1, 2, 3]), (5, [0, 1, 2])]
)
def test_any_number_of_channels_becomes_three_and_transparency_stays(channels: int, shown: list[int]) -> None:
    x = torch.linspace(-1, 1, 2 * channels * 6).reshape(2, channels, 2, 3)
    found = to_uint8(x)
    assert found.shape == (2, 2, 3, len(shown))
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
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
    for back in (Image.open(io.BytesIO(png_bytes(image))), Image.open(tmp_path / "x.png")):
        assert back.format == "PNG"
        np.testing.assert_array_equal(np.asarray(back), np.asarray(image))


def test_a_png_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(LIAError, match="absent"):
        save_png(tmp_path / "absent" / "x.png", image_grid(numbered(1)))


def shown(sheet: Image.Image, h: int = 2, w: int = 3) -> list[list[int]]:
    """The numbers of the tiles of a sheet of `numbered` images."""
    return np.asarray(sheet)[::h, ::w, 0].tolist()  # type: ignore[no-any-return]


def test_a_sheet_of_several_sets_takes_them_batch_by_batch_in_any_order() -> None:
    a, b = numbered(5), numbered(15)[10:]
    expected = [[0, 1, 2], [10, 11, 12], [3, 4, 255], [13, 14, 255]]
    for sizes in ([5], [1, 1, 1, 1, 1], [2, 3]):
        sheet = Sheet(5, 3, sets=2)
        for of, x in ((1, b), (0, a)):
            for part in x.split(sizes):
                sheet.add(part, of)
        assert shown(sheet.image) == expected
    assert shown(paired_grid(a, b)) == [[0, 1, 2, 3, 4], [10, 11, 12, 13, 14]]
    assert len(shown(paired_grid(numbered(9), numbered(9), numbered(9)))) == 6
    with pytest.raises(ValueError, match="before its first image"):
        _ = Sheet(1).image


@pytest.mark.parametrize(
    ("count", "sets", "side", "size"),
    [
        (64, 1, 32, (256, 256)),
        (1, 1, 1024, (256, 256)),
        (64, 1, 1024, (2048, 2048)),
        (64, 2, 1024, (1024, 2048)),
        (16, 3, 512, (2048, 1536)),
        (64, 2, 128, (1024, 2048)),
    ],
)
def test_sheets_of_reports_stay_small(count: int, sets: int, side: int, size: tuple[int, int]) -> None:
    sheet = Sheet(count, 8, sets=sets)
    sheet.add(torch.zeros(1, 1, side, side))
    assert sheet.image.size == size


def test_full_sheets_keep_the_size_of_images_and_reports_shrink_them_smoothly(tmp_path: Path) -> None:
    x = torch.rand(2, 3, 300, 512, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert image_grid(x).size == (1024, 300)
    sheet = Sheet(len(x))
    sheet.add(x)
    save_png(tmp_path / "x.png", sheet.image)
    small = np.concatenate(list(to_uint8(resize(x)).numpy()), axis=1)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "x.png")), small)  # [150, 2 * 256, 3]


@pytest.mark.parametrize(("tile", "count", "at_once"), [(256, 32, 8), (4, 16, 1)])
def test_before_and_after_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch, tile: int, count: int, at_once: int) -> None:
    """The 8x8 of the toy are small or, where tiles have 4 pixels, large: then fewer are drawn, and one at a time."""
    monkeypatch.setattr(pictures, "_TILE", tile)
    monkeypatch.setattr(LIA, "at_once", lambda self, work: at_once)
    lia = toys.with_encoder(toys.stylegan(c_dim=3))
    c = one_hot([seed % 3 for seed in range(count)], 3)
    z = seed_to_z(range(count), lia.generator.z_dim)
    pairs = [lia.synthesize(lia.generator.mapping(z, c)).split(8), lia.sample(range(count), c=c, mapping="invertible").split(8)]
    expected = torch.cat([row for pair in zip(*pairs, strict=True) for row in pair])
    told: list[tuple[str, int, int]] = []
    found = comparison_grid(lia, lambda *done: told.append(done))
    difference = np.asarray(found).astype(int) - np.asarray(image_grid(resize(expected, most=tile), 8))
    assert np.abs(difference).max() <= 1  # the size of a batch changes the last bit
    assert told == [("pictures", done, 2 * count) for done in range(0, 2 * count + 1, at_once)]


def test_images_of_seeds_are_those_that_sample_draws() -> None:
    lia = toys.stylegan(c_dim=3)
    seeds = [5, 1, 1, *range(100, 110)]
    for label in (None, 2):
        c = one_hot([seed % 3 if label is None else label for seed in seeds], 3)
        found = torch.cat(list(drawn(lia, seeds, label=label)))
        torch.testing.assert_close(found, lia.sample(seeds, c=c))
        assert not found.requires_grad


def test_labels_are_one_hot() -> None:
    found = one_hot([2, 0, 2], 4)
    assert found is not None and found.dtype == torch.float32
    assert found.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 1, 0]]
    assert one_hot([0, 0], 0) is None
