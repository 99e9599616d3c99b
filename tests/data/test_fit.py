"""Pictures of any kind to a generator's size, and back into the picture."""

import io
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lia_adapter.data import Placement, fit_image, paste_back
from lia_adapter.data.decode import decode, upright
from lia_adapter.errors import ConfigError, LIAError
from lia_adapter.keys import RESIZE_MODES

Pixels = NDArray[np.uint8]


def noise(h: int, w: int, channels: int = 3) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (h, w, channels), dtype=np.uint8)


def as_pixels(x: Tensor) -> NDArray[np.float32]:
    """[C, H, W] in [-1, 1] -> [H, W, C] in 0..255."""
    found: NDArray[np.float32] = ((x + 1) * 127.5).permute(1, 2, 0).numpy()
    return found


def fitted(image: Image.Image, channels: int = 3) -> NDArray[np.float32]:
    """A picture at its own size, in 0..255."""
    return as_pixels(fit_image(image, (image.height, image.width), channels, "crop")[0])


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# -- geometry


@pytest.mark.parametrize("fit", RESIZE_MODES)
def test_pixels_arrive_unchanged_where_the_size_fits_and_go_back_unchanged(fit: str) -> None:
    pixels = noise(6, 10)
    pixels[0, :4, 0] = 0, 1, 254, 255
    x, placement = fit_image(Image.fromarray(pixels), (6, 10), 3, fit)
    assert x.dtype == torch.float32 and x.shape == (3, 6, 10) and x.is_contiguous()
    np.testing.assert_array_equal(x.permute(1, 2, 0), pixels.astype(np.float32) / np.float32(127.5) - 1)
    assert x[0, 0, 0] == -1 and x[0, 0, 3] == 1
    np.testing.assert_array_equal(np.asarray(paste_back(Image.fromarray(pixels), x, placement)), pixels)


@pytest.mark.parametrize(
    ("size", "target", "middle"),
    [
        ((6, 10), (6, 6), (slice(0, 6), slice(2, 8))),
        ((10, 6), (6, 6), (slice(2, 8), slice(0, 6))),
        ((9, 16), (9, 4), (slice(0, 9), slice(6, 10))),
        ((12, 8), (4, 8), (slice(4, 8), slice(0, 8))),
        ((7, 4), (4, 4), (slice(1, 5), slice(0, 4))),
    ],
)
def test_crop_cuts_the_middle_out(size: tuple[int, int], target: tuple[int, int], middle: tuple[slice, slice]) -> None:
    pixels = noise(*size)
    x, placement = fit_image(Image.fromarray(pixels), target, 3, "crop")
    np.testing.assert_allclose(as_pixels(x), pixels[middle], atol=1e-4)
    original = Image.fromarray(pixels)
    back = np.asarray(paste_back(original, -x, placement, feather=0)).copy()
    np.testing.assert_array_equal(np.asarray(original), pixels)  # it does not change
    np.testing.assert_array_equal(back[middle], 255 - pixels[middle])
    back[middle] = pixels[middle]
    np.testing.assert_array_equal(back, pixels)


def test_letterbox_shows_all_between_black_bars() -> None:
    pixels = noise(4, 8)
    x, placement = fit_image(Image.fromarray(pixels), (8, 8), 3, "letterbox")
    assert placement == Placement("letterbox", (4, 8), (0, 0, 4, 8), (2, 0, 6, 8))
    np.testing.assert_allclose(as_pixels(x)[2:6], pixels, atol=1e-4)
    assert (x[:, :2] == -1).all() and (x[:, 6:] == -1).all()
    x[:, :2] = 1  # what a generator draws on the bars is not looked at
    np.testing.assert_array_equal(np.asarray(paste_back(Image.fromarray(pixels), x, placement)), pixels)


def lanczos(size: int, target: int) -> NDArray[np.float64]:
    """[target, size] weights of the kernel of 3 lobes, widened for shrinking; made from its definition."""
    scale = size / target
    wide = max(scale, 1.0)
    t = (np.arange(size)[None] + 0.5 - (np.arange(target)[:, None] + 0.5) * scale) / wide
    weights = np.where(abs(t) < 3, np.sinc(t) * np.sinc(t / 3), 0.0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


@pytest.mark.parametrize(("size", "target"), [((24, 36), (7, 9)), ((7, 9), (24, 36)), ((30, 10), (10, 30))])
def test_resampling_is_lanczos_both_ways(size: tuple[int, int], target: tuple[int, int]) -> None:
    pixels = noise(*size)[:, :, :1]
    x, placement = fit_image(Image.fromarray(pixels[:, :, 0]), target, 1, "stretch")
    rows, columns = lanczos(size[0], target[0]), lanczos(size[1], target[1])
    expected = (rows @ pixels[:, :, 0] @ columns.T).clip(0, 255)
    assert np.abs(as_pixels(x)[:, :, 0] - expected).mean() < 1.5  # two passes, each rounded and clipped to 8 bits
    assert x.min() >= -1 and x.max() <= 1  # though the kernel overshoots
    back = np.asarray(paste_back(Image.fromarray(pixels[:, :, 0]), x, placement), dtype=float)
    rows, columns = lanczos(target[0], size[0]), lanczos(target[1], size[1])
    assert np.abs(back - (rows @ as_pixels(x)[:, :, 0] @ columns.T).clip(0, 255)).mean() < 1.5


sides = st.integers(1, 40)


@settings(max_examples=150, deadline=None)
@given(sides, sides, sides, sides, st.sampled_from(RESIZE_MODES), st.sampled_from([1, 3]))
def test_any_size_to_any_size_and_back(h: int, w: int, height: int, width: int, fit: str, channels: int) -> None:
    picture = Image.fromarray(noise(h, w))
    x, placement = fit_image(picture, (height, width), channels, fit)
    assert x.shape == (channels, height, width) and torch.isfinite(x).all()
    top, left, bottom, right = placement.box
    above, before, below, after = placement.inner
    assert 0 <= top < bottom <= h and 0 <= left < right <= w
    assert 0 <= above < below <= height and 0 <= before < after <= width
    assert abs(top - (h - bottom)) <= 1 and abs(left - (w - right)) <= 1  # in the middle
    if fit != "crop":
        assert placement.box == (0, 0, h, w)
    if fit != "letterbox":
        assert placement.inner == (0, 0, height, width)
    if fit != "stretch":  # as little is cut, or barred, as keeps the proportions to the pixel
        tall, wide = bottom - top, right - left
        assert (tall == h or wide == w) and (below - above == height or after - before == width)
        by_height, by_width = tall / (below - above), wide / (after - before)
        assert abs(by_height - by_width) <= max(
            by_height / (after - before), by_width / (below - above), 1 / min(height, width)
        )
    assert Placement.from_json(json.loads(json.dumps(placement.to_json()))) == placement
    flat = torch.full_like(x, 40 / 127.5 - 1)
    expected = np.asarray(picture).copy()
    expected[top:bottom, left:right] = 40
    np.testing.assert_array_equal(np.asarray(paste_back(picture, flat, placement, feather=0)), expected)


def test_one_pixel_fills_everything() -> None:
    for fit in RESIZE_MODES:
        x, _ = fit_image(Image.new("RGB", (1, 1), (255, 0, 51)), (5, 5), 3, fit)
        assert x.unique(dim=1).unique(dim=2).flatten().tolist() == pytest.approx([1, -1, -0.6])


def test_a_thin_line_keeps_a_pixel() -> None:
    x, placement = fit_image(Image.new("L", (5000, 1), 255), (8, 8), 1, "letterbox")
    assert placement.inner == (3, 0, 4, 8) and x[0, 3].min() == 1


def test_gray_and_colour_meet_in_rgb() -> None:
    gray, colour = Image.fromarray(noise(4, 4)[:, :, 0]), Image.fromarray(noise(4, 4))
    for picture, channels, mode in ((gray, 1, "L"), (gray, 3, "RGB"), (colour, 1, "RGB"), (colour, 3, "RGB")):
        x, placement = fit_image(picture, (4, 4), channels, "crop")
        back = paste_back(picture, x, placement)
        assert back.mode == mode
        np.testing.assert_allclose(np.asarray(back.convert("RGB"), float), np.broadcast_to(as_pixels(x), (4, 4, 3)), atol=1e-4)


def test_what_does_not_fit_together_is_told() -> None:
    picture = Image.new("RGB", (4, 6))
    x, placement = fit_image(picture, (8, 8), 3, "crop")
    with pytest.raises(LIAError, match="has 6 x 4 pixels, but the one that was fitted had 4 x 6"):
        paste_back(Image.new("RGB", (6, 4)), x, placement)
    with pytest.raises(LIAError, match=r"shape \[3, 7, 8\]"):
        paste_back(picture, x[:, 1:], placement)
    with pytest.raises(ConfigError, match="draws 2 channels"):
        fit_image(picture, (8, 8), 2, "crop")
    with pytest.raises(ConfigError, match="expected crop, letterbox, stretch"):
        fit_image(picture, (8, 8), 3, "squeeze")


@pytest.mark.parametrize(
    "change",
    [
        {"fit": "x"}, {"size": [4]}, {"size": "ab"}, {"box": [0, 0, 9, 4]}, {"box": [0, 0, 4]}, {"box": [2, 0, 2, 4]},
        {"box": None}, {"inner": [-1, 0, 4, 4]}, {"inner": [0, 0, 4, 4.5]}, {"inner": [0, 0, True, 4]}, {"size": [[4], 4]},
    ],
)  # fmt: skip
def test_a_placement_that_is_none(change: dict[str, object]) -> None:
    values = Placement("crop", (8, 4), (0, 0, 8, 4), (0, 0, 8, 8)).to_json()
    assert Placement.from_json(values)
    wrongs: list[Any] = [values | change, None, [], {}]
    for wrong in wrongs:
        with pytest.raises(LIAError, match="cannot read the placement"):
            Placement.from_json(wrong)


# -- modes


def test_colour_becomes_luma_and_gray_three_times_the_same() -> None:
    pixels = noise(5, 5)
    luma = pixels @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    np.testing.assert_allclose(fitted(Image.fromarray(pixels), 1)[:, :, 0], luma, atol=0.6)
    gray = pixels[:, :, :1]
    np.testing.assert_allclose(fitted(Image.fromarray(gray[:, :, 0]), 1), gray, atol=1e-4)
    np.testing.assert_allclose(fitted(Image.fromarray(gray[:, :, 0]), 3), gray.repeat(3, axis=2), atol=1e-4)


def test_palettes() -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 3]], dtype=np.uint8), "P")
    colours = [[9, 8, 7], [255, 0, 0], [0, 255, 0], [0, 0, 255]]
    image.putpalette(sum(colours, []))
    np.testing.assert_allclose(fitted(image).reshape(4, 3), colours, atol=1e-4)
    for transparency in (1, bytes([255, 0, 255, 255])):  # GIF's way, and PNG's
        data = encoded(image, "PNG", transparency=transparency)
        found = fitted(decode(data)).reshape(4, 3)
        np.testing.assert_allclose(found, [colours[0], [255, 255, 255], colours[2], colours[3]], atol=1e-4)


def test_transparency_is_laid_over_white() -> None:
    alpha = np.array([[0, 51, 128, 255]], dtype=np.uint8)
    black = np.zeros((1, 4, 3), dtype=np.uint8)
    for image in (
        Image.fromarray(np.dstack([black, alpha])),
        Image.merge("LA", (Image.new("L", (4, 1)), Image.fromarray(alpha))),
    ):
        for channels in (1, 3):
            expected = np.broadcast_to(255.0 - alpha[..., None], (1, 4, channels))
            np.testing.assert_allclose(fitted(image, channels), expected, atol=1e-4)
        assert upright(image).mode == ("L" if image.mode == "LA" else "RGB")
    keyed = decode(encoded(Image.fromarray(noise(2, 2)), "PNG", transparency=tuple(noise(2, 2)[0, 1].tolist())))
    expected = noise(2, 2)
    expected[0, 1] = 255
    np.testing.assert_allclose(fitted(keyed), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_divided_and_not_clipped(kind: str) -> None:
    pixels = np.array([[0, 1, 128, 129], [257, 32768, 65406, 65535]], dtype=np.uint16)
    image = decode(encoded(Image.fromarray(pixels), kind))
    for channels in (1, 3):
        np.testing.assert_allclose(fitted(image, channels)[:, :, 0], np.rint(pixels / 257), atol=1e-4)
    assert np.rint(pixels / 257).tolist() == [[0, 0, 0, 1], [1, 128, 254, 255]]
    swapped = Image.frombytes("I;16B", (4, 2), pixels.astype(">u2").tobytes())
    np.testing.assert_allclose(fitted(swapped, 1)[:, :, 0], np.rint(pixels / 257), atol=1e-4)


def test_numbers_that_are_no_bytes() -> None:
    floats = Image.fromarray(np.array([[0, 0.2, 1]], dtype=np.float32))
    np.testing.assert_allclose(fitted(decode(encoded(floats, "TIFF")), 1).flatten(), [0, 51, 255], atol=1e-4)
    whole = Image.fromarray(np.array([[0, 257, 65535]], dtype=np.int32))
    np.testing.assert_allclose(fitted(whole, 1).flatten(), [0, 1, 255], atol=1e-4)
    for bad in (np.nan, np.inf, 1.5, -0.1):
        with pytest.raises(LIAError, match=r"floating-point numbers outside 0\.\.1"):
            upright(Image.fromarray(np.array([[bad, 0]], dtype=np.float32)))
    more = Image.fromarray(np.array([[0, 65536, 2**31 - 1]], dtype=np.int32))
    np.testing.assert_allclose(fitted(more, 1).flatten(), [0, 0, 255], atol=1e-4)
    with pytest.raises(LIAError, match="whole numbers below 0"):
        upright(Image.fromarray(np.array([[-1]], dtype=np.int32)))


def test_one_bit_and_printers_colours() -> None:
    bits = Image.fromarray(np.array([[True, False]]))
    assert fitted(decode(encoded(bits, "PNG")), 1).flatten().tolist() == [255, 0]
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 255, 0, 0], [0, 0, 255, 0], [0, 0, 0, 255]]], dtype=np.uint8)
    image = Image.frombytes("CMYK", (5, 1), inks.tobytes())
    expected = [[255, 255, 255], [0, 255, 255], [255, 0, 255], [255, 255, 0], [0, 0, 0]]
    np.testing.assert_allclose(fitted(decode(encoded(image, "TIFF")))[0], expected, atol=1e-4)
    flat = decode(encoded(image.crop((1, 0, 2, 1)).resize((8, 8)), "JPEG"))
    np.testing.assert_allclose(fitted(flat), np.broadcast_to([0.0, 255, 255], (8, 8, 3)), atol=3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_the_orientation_that_a_camera_noted_is_used_once(kind: str) -> None:
    pixels = np.kron(noise(2, 3), np.ones((8, 8, 1), np.uint8))  # blocks, which JPEG keeps
    turned = {
        1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1],
        5: pixels.transpose(1, 0, 2), 6: np.rot90(pixels, -1), 7: np.rot90(pixels, 2).transpose(1, 0, 2), 8: np.rot90(pixels),
    }  # fmt: skip
    gentle: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    for orientation, expected in turned.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture = decode(encoded(Image.fromarray(pixels), kind, exif=exif, **gentle.get(kind, {})))
        close = 4 if kind == "JPEG" else 1e-4
        np.testing.assert_allclose(fitted(picture), expected, atol=close, err_msg=str(orientation))
        np.testing.assert_array_equal(np.asarray(upright(picture)), np.asarray(picture))  # it is not turned again
        assert fit_image(picture, (8, 8), 3, "crop")[1].size == expected.shape[:2]


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_of_several_pictures_the_first_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    picture = decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    np.testing.assert_allclose(fitted(picture), np.broadcast_to([255.0, 0, 0], (4, 4, 3)), atol=1e-4)


# -- files that are damaged or hostile


def png_of(width: int, height: int) -> bytes:
    """A PNG that says that it is so large, and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [20_000, 10_000])  # Pillow refuses the first and warns of the second
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_refused(side: int) -> None:
    with pytest.raises(LIAError, match="more than 89,478,485 pixels"):
        decode(png_of(side, side))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"<html>not found</html>", "it is not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n", "it is not an image"),  # Pillow would start Ghostscript
        (png_of(4, 4)[:40], "it is not an image, or damaged"),
        (png_of(40, 40), "it is damaged"),
        (encoded(Image.fromarray(noise(40, 40)), "JPEG")[:700], "it is damaged"),
        (encoded(Image.fromarray(noise(40, 40)), "WEBP")[:700], "it is"),
        (encoded(Image.fromarray(noise(40, 40)), "GIF")[:1500], "it is damaged"),
        (encoded(Image.fromarray(noise(40, 40)), "PNG", exif=b"Exif\0\0junkjunk"), "it is damaged"),  # which way is up?
    ],
)
def test_reasons_in_plain_words(data: bytes, reason: str) -> None:
    with pytest.raises(LIAError, match=f"^{reason}") as caught:
        decode(data)
    assert "\n" not in str(caught.value)


KINDS = [encoded(Image.fromarray(noise(9, 7)), kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "PPM", "WEBP")]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(KINDS), st.data())
def test_rubbish_never_raises_anything_else(data: bytes, draw: st.DataObject) -> None:
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        damaged[draw.draw(st.integers(0, len(damaged) - 1))] = draw.draw(st.integers(0, 255))
    try:
        assert decode(bytes(damaged)).mode in ("L", "RGB")
    except LIAError as error:
        assert str(error).startswith("it ")
