"""Pasting back: the seam, colours by profiles, and what the camera noted."""

import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin
from torch import Tensor

from lia_adapter.data import Placement, fit_image, paste_back
from lia_adapter.data.colour import to_srgb
from lia_adapter.data.decode import decode, upright
from lia_adapter.data.exif import kept_exif
from lia_adapter.errors import ConfigError

# Adobe's RGB (1998) and the gray of gamma 2.2, as their ICC profiles would say: primaries adapted to D50.
ADOBE = [(0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)]
WHITE = (0.9642, 1.0, 0.8249)


def profile(primaries: list[tuple[float, float, float]] | None, gamma: float = 2.2) -> bytes:
    """A least ICC profile (version 2): a matrix and a gamma, or a gray curve; written from the format's tables."""

    def number(value: float) -> bytes:
        return round(value * 65536).to_bytes(4, "big", signed=True)

    def xyz(values: tuple[float, float, float]) -> bytes:
        return b"XYZ " + bytes(4) + b"".join(map(number, values))

    curve = b"curv" + bytes(4) + (1).to_bytes(4, "big") + round(gamma * 256).to_bytes(2, "big") + bytes(2)
    text = b"desc" + bytes(4) + (5).to_bytes(4, "big") + b"test\0" + bytes(78 + 1)
    tags = {b"desc": text, b"wtpt": xyz(WHITE), b"cprt": b"text" + bytes(4) + b"none\0\0\0\0"}
    if primaries is None:
        tags[b"kTRC"] = curve
    else:
        tags |= {name: xyz(values) for name, values in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)}
        tags |= {name: curve for name in (b"rTRC", b"gTRC", b"bTRC")}
    place, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        table += name + (place + len(body)).to_bytes(4, "big") + len(data).to_bytes(4, "big")
        body += data + bytes(-len(data) % 4)
    space = b"GRAY" if primaries is None else b"RGB "
    header = bytes(4) + bytes(4) + b"\x02\x10\0\0" + b"mntr" + space + b"XYZ " + bytes(12) + b"acsp" + bytes(28)
    header += b"".join(map(number, WHITE)) + bytes(48)
    whole = header + len(tags).to_bytes(4, "big") + table + body
    return len(whole).to_bytes(4, "big") + whole[4:]


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def flat(value: int, n: int = 8, channels: int = 3) -> Tensor:
    return torch.full((channels, n, n), value / 127.5 - 1)


def colours(low: int = 40, high: int = 216) -> NDArray[np.uint8]:
    """[30, 40, 3], smooth and within the gamut of all profiles."""
    y, x = np.mgrid[0:30, 0:40]
    waves = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)], axis=-1)
    return (low + (waves + 1) / 2 * (high - low)).round().astype(np.uint8)


# -- the seam


def test_a_constant_on_a_constant_makes_the_ramp() -> None:
    picture = Image.new("RGB", (160, 100), (200, 200, 200))
    placement = Placement("crop", (100, 160), (20, 30, 70, 110), (0, 0, 8, 8))  # 50 x 80, and a band of 5
    found = np.asarray(paste_back(picture, flat(0), placement)).astype(float)
    t = (np.arange(5) + 0.5) / 5
    ramp = t * t * (3 - 2 * t)
    rows, columns = (np.r_[ramp, np.ones(n - 10), ramp[::-1]] for n in (50, 80))
    expected = np.full((100, 160), 200.0)
    expected[20:70, 30:110] *= 1 - rows[:, None] * columns
    assert np.abs(found - expected[:, :, None]).max() <= 1  # weights and values are both in 8 bits
    assert found[45, 60, 0] == 0 and found[19, 60, 0] == 200 and 0 < found[20, 60, 0] < 200


def test_the_pictures_own_edges_are_no_seam() -> None:
    picture = Image.new("L", (100, 50), 200)
    left = Placement("crop", (50, 100), (0, 0, 50, 50), (0, 0, 8, 8))
    found = np.asarray(paste_back(picture, flat(0, channels=1), left))
    assert (found[:, :45] == 0).all() and (found[:, 50:] == 200).all()
    assert (np.diff(found[0, 44:51].astype(int)) > 0).all() and (found == found[:1]).all()
    whole = Placement("stretch", (50, 100), (0, 0, 50, 100), (0, 0, 8, 8))
    assert (np.asarray(paste_back(picture, flat(0, channels=1), whole)) == 0).all()


@pytest.mark.parametrize("feather", [-0.1, 0.6, float("nan")])
def test_the_feather_has_a_range_and_none_is_a_hard_edge(feather: float) -> None:
    picture = Image.new("RGBA", (20, 8), (10, 20, 30, 40))
    x, placement = fit_image(picture, (8, 8), 4, "crop")
    hard = np.asarray(paste_back(picture, flat(255, channels=4), placement, feather=0))
    assert (hard[:, 6:14] == 255).all() and (hard[:, [5, 14]] == (10, 20, 30, 40)).all()
    with pytest.raises(ConfigError, match=r"feather is .*0\.5"):
        paste_back(picture, x, placement, feather=feather)


# -- profiles


def test_a_profile_is_read_as_its_definition_says() -> None:
    picture = Image.fromarray(colours())
    picture.info["icc_profile"] = profile(ADOBE)
    x, placement = fit_image(picture, (30, 40), 3, "crop")
    linear = (colours() / 255.0) ** (round(2.2 * 256) / 256)
    # D50 XYZ to linear sRGB: the inverse of sRGB's primaries adapted to D50 (IEC 61966-2-1, by Bradford).
    srgb = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
    light = linear @ np.array(ADOBE) @ np.linalg.inv(srgb).T
    expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.clip(light, 0.0031308, None) ** (1 / 2.4) - 0.055) * 255
    found = ((x + 1) * 127.5).permute(1, 2, 0).numpy()
    assert np.abs(found - expected.clip(0, 255)).max() < 2
    assert np.abs(found - colours()).max() > 20 and placement.converted


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("gamma", [1.8, 2.2])
def test_what_is_read_through_a_profile_is_pasted_through_it(kind: str, gamma: float) -> None:
    icc = profile(ADOBE, gamma)
    how: dict[str, dict[str, Any]] = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    options = how.get(kind, {})
    picture = decode(encoded(Image.fromarray(colours(90, 166)), kind, icc_profile=icc, **options))
    before = np.asarray(picture).astype(int)
    x, placement = fit_image(picture, (30, 30), 3, "crop")
    back = paste_back(picture, x, placement, feather=0)
    assert np.abs(np.asarray(back).astype(int) - before).max() <= 2
    assert back.info["icc_profile"] == icc
    assert Placement.from_json(json.loads(json.dumps(placement.to_json()))) == placement


def test_a_gray_profile() -> None:
    icc, gray = profile(None, 1.8), Image.fromarray(colours()[:, :, 0])
    gray.info["icc_profile"] = icc
    x, placement = fit_image(gray, (30, 40), 1, "crop")
    assert placement.converted and np.abs(((x[0] + 1) * 127.5).numpy() - np.asarray(gray)).max() > 10
    back = paste_back(gray, x, placement)
    assert back.mode == "L" and back.info["icc_profile"] == icc
    assert np.abs(np.asarray(back).astype(int) - np.asarray(gray).astype(int)).max() <= 2
    x, placement = fit_image(gray, (30, 30), 3, "crop")  # colours come into a gray picture, which its profile can't say
    coloured = paste_back(gray, x, placement)
    assert coloured.mode == "RGB" and "icc_profile" not in coloured.info
    assert np.abs(np.asarray(coloured).astype(int) - np.asarray(to_srgb(gray).convert("RGB")).astype(int)).max() <= 1


def test_srgb_by_its_profile_changes_no_pixel_and_transparency_stays() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8))
    picture.info["icc_profile"] = SRGB
    x, placement = fit_image(picture, (30, 30), 3, "crop")
    assert not placement.converted and "converted" not in placement.to_json()
    assert np.array_equal(np.asarray(paste_back(picture, x, placement)), np.asarray(picture))
    clear = Image.fromarray(np.dstack([colours(), np.arange(1200, dtype=np.uint8).reshape(30, 40)]))
    clear.info["icc_profile"] = profile(ADOBE)
    x, placement = fit_image(clear, (30, 40), 4, "crop")
    back = paste_back(clear, x, placement)
    assert placement.converted and np.array_equal(np.asarray(back)[:, :, 3], np.asarray(clear)[:, :, 3])


@pytest.mark.parametrize("icc", [b"rubbish", profile(None), profile(ADOBE)[:200], b"\0" * 300])
def test_a_profile_that_is_not_understood_is_told(icc: bytes, caplog: pytest.LogCaptureFixture) -> None:
    from lia_adapter.notes import say_once

    say_once.cache_clear()
    picture = Image.fromarray(colours())
    picture.info["icc_profile"] = icc
    x, placement = fit_image(picture, (30, 40), 3, "crop")
    back = paste_back(picture, x, placement)
    assert np.array_equal(np.asarray(back), colours()) and not placement.converted and "icc_profile" not in back.info
    assert len(caplog.records) == 1 and "colour profile" in caplog.text


def test_codes_of_before_are_pasted_without_the_profile_that_they_were_read_without() -> None:
    picture = Image.fromarray(colours())
    picture.info["icc_profile"] = profile(ADOBE)
    old = {"fit": "crop", "size": [30, 40], "box": [0, 0, 30, 40], "inner": [0, 0, 8, 8]}
    placement = Placement.from_json(old)
    assert placement.to_json() == old
    assert (np.asarray(paste_back(picture, flat(77), placement)) == 77).all()


# -- EXIF


def photograph(kind: str = "JPEG") -> bytes:
    """40 x 30 pixels that are to be turned by 90 degrees, with what a camera notes."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Artist] = "Zoë".encode()
    exif.get_ifd(ExifTags.IFD.Exif).update({
        ExifTags.Base.ExposureTime: TiffImagePlugin.IFDRational(1, 125), ExifTags.Base.MakerNote: b"with a preview",
        ExifTags.Base.ExifImageWidth: 40,
    })  # fmt: skip
    exif.get_ifd(ExifTags.IFD.GPSInfo).update({1: "N", 2: (48.0, 8.0, 30.0)})
    return encoded(Image.fromarray(colours()), kind, exif=exif.tobytes())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_what_the_camera_noted_stays_but_the_picture_is_upright(kind: str) -> None:
    picture = decode(photograph(kind))
    assert picture.size == (30, 40)
    x, placement = fit_image(picture, (30, 30), 3, "crop")
    back = paste_back(picture, x, placement)
    with Image.open(io.BytesIO(encoded(back, exif=back.info["exif"]))) as read:
        exif = read.getexif()
        assert read.size == (30, 40) and np.array_equal(np.asarray(upright(read)), np.asarray(back))
    assert ExifTags.Base.Orientation not in exif and not exif.get_ifd(ExifTags.IFD.IFD1)
    artist = exif[ExifTags.Base.Artist].encode("latin-1").decode()
    assert artist == ("Zo??" if kind == "TIFF" else "Zoë")  # of the TIFF, Pillow wrote it so when the test made it
    assert exif.get_ifd(ExifTags.IFD.GPSInfo) == {1: "N", 2: (48.0, 8.0, 30.0)}
    assert exif.get_ifd(ExifTags.IFD.Exif) == {ExifTags.Base.ExposureTime: 1 / 125}
    assert not {ExifTags.Base.StripOffsets, ExifTags.Base.ImageWidth} & exif.keys()


def test_a_thumbnail_falls_away() -> None:
    thumbnail = encoded(Image.new("RGB", (8, 8), "red"), "JPEG")
    first = b"MM\0*\0\0\0\x08" + b"\0\1" + b"\1\x0f\0\2\0\0\0\4Cam\0" + (26).to_bytes(4, "big")
    second = b"\0\2" + b"\2\1\0\4\0\0\0\1" + (56).to_bytes(4, "big") + b"\2\2\0\4\0\0\0\1" + len(thumbnail).to_bytes(4, "big")
    data = b"Exif\0\0" + first + second + bytes(4) + thumbnail
    with Image.open(io.BytesIO(encoded(Image.fromarray(colours()), "JPEG", exif=data))) as image:
        assert image.getexif().get_ifd(ExifTags.IFD.IFD1)
        kept = kept_exif(image)
    assert kept is not None and b"Cam" in kept and thumbnail not in kept and len(kept) < 60


def test_damaged_notes_are_left_out() -> None:
    picture = Image.fromarray(colours())
    picture.info["exif"] = b"Exif\0\0MM\0*\0\0\0\x08\0\x09junk"
    x, placement = fit_image(picture, (30, 30), 3, "crop")
    assert not paste_back(picture, x, placement).info.get("exif", b"").startswith(b"junk")
    assert kept_exif(Image.new("L", (2, 2))) is None
