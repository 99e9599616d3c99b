"""`reconstruct`: which files it writes, that their pixels are the generator's, and that nothing lands outside the folder."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image
from torch import Tensor

from lia_adapter.codes import Codes, read_codes
from lia_adapter.data.colour import to_srgb
from lia_adapter.data.decode import upright
from lia_adapter.errors import ConfigError, LIAError
from lia_adapter.jobs.encode import encode_images
from lia_adapter.jobs.invert import invert_images
from lia_adapter.jobs.reconstruct import picture_stems, reconstruct_images
from lia_adapter.lia import LIA
from lia_adapter.reports.images import write_reconstruct_report
from tests import toys
from tests.data.test_paste import ADOBE, profile


@pytest.fixture(scope="module")
def lia() -> LIA:
    return toys.with_encoder(toys.stylegan())


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float64)


def tensors(folder: Path) -> Tensor:
    """Pictures of a folder that need no fitting [N, 3, 8, 8]."""
    stacked = np.stack([pixels(path) for path in sorted(folder.glob("*.png"))])
    return torch.from_numpy(stacked / 127.5 - 1).permute(0, 3, 1, 2)


def as_pixels(x: Tensor) -> np.ndarray:
    return x.clamp(-1, 1).permute(0, 2, 3, 1).double().numpy() * 127.5 + 127.5


def test_pictures_are_what_the_generator_draws_of_the_codes(lia: LIA, tmp_path: Path) -> None:
    folder = toys.pictures(tmp_path / "in", 5)
    figures = reconstruct_images(lia, folder, tmp_path / "out", batch=2)
    x = tensors(folder)
    drawn = lia.synthesize(lia.encode(x.float())).double()
    for i, expected in enumerate(as_pixels(drawn)):
        assert np.abs(pixels(tmp_path / "out" / f"{i:03d}.png") - expected).max() <= 1
    assert figures["mse"] == pytest.approx(float((drawn - x).square().mean()), rel=1e-5)
    assert figures["mse_of"]["003.png"] == pytest.approx(float((drawn - x)[3].square().mean()), rel=1e-5)
    assert json.loads((tmp_path / "out" / "grid.json").read_text()) == figures
    write_reconstruct_report(figures, tmp_path / "out")
    names = {"grid.png", "grid.html", "grid.json", *(f"{i:03d}.png" for i in range(5))}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


def test_the_grid_has_originals_above_their_reconstructions(lia: LIA, tmp_path: Path) -> None:
    folder = toys.pictures(tmp_path / "in", 10)
    reconstruct_images(lia, folder, tmp_path / "out")
    grid = pixels(tmp_path / "out" / "grid.png")
    assert grid.shape == (4 * 8, 8 * 8, 3)
    for i, (row, column) in {0: (0, 0), 7: (0, 56), 9: (16, 8)}.items():
        assert np.abs(grid[row : row + 8, column : column + 8] - pixels(folder / f"{i:03d}.png")).max() <= 1
        below = grid[row + 8 : row + 16, column : column + 8]
        assert np.array_equal(below, pixels(tmp_path / "out" / f"{i:03d}.png"))
    assert (grid[16:, 16:] == 255).all()


def test_no_more_than_64_images_are_in_the_grid(lia: LIA, tmp_path: Path) -> None:
    reconstruct_images(lia, toys.pictures(tmp_path / "in", 70), tmp_path / "out")
    assert pixels(tmp_path / "out" / "grid.png").shape == (2 * 8 * 8, 8 * 8, 3)


def test_a_part_of_a_picture_is_pasted_back(lia: LIA, tmp_path: Path) -> None:
    folder = toys.pictures(tmp_path / "in", 1, (8, 20))
    reconstruct_images(lia, folder, tmp_path / "out")
    pasted, original = pixels(tmp_path / "out" / "000.pasted.png"), pixels(folder / "000.png")
    assert pasted.shape == (8, 20, 3)
    assert np.array_equal(pasted[:, :6], original[:, :6]) and np.array_equal(pasted[:, 14:], original[:, 14:])
    drawn, weight = pixels(tmp_path / "out" / "000.png"), np.ones(8)
    weight[[0, 7]] = 0.625**2 * (3 - 2 * 0.625)  # the first pixel's middle is 0.5 of 0.8 from the edge
    expected = original[:, 6:14] + weight[:, None] * (drawn - original[:, 6:14])
    assert np.abs(pasted[:, 6:14] - expected).max() <= 2  # the two round at other points
    reconstruct_images(lia, folder, tmp_path / "plain", paste=False)
    assert not (tmp_path / "plain" / "000.pasted.png").exists()


def test_truncation_to_the_mean_draws_one_picture(lia: LIA, tmp_path: Path) -> None:
    reconstruct_images(lia, toys.pictures(tmp_path / "in", 2), tmp_path / "out", psi=0.0)
    mean = as_pixels(lia.synthesize(lia.y_mean[None]))[0]
    for i in range(2):
        assert np.abs(pixels(tmp_path / "out" / f"{i:03d}.png") - mean).max() <= 1


def test_subfolders_are_kept_and_what_the_same_run_made_is_replaced(lia: LIA, tmp_path: Path) -> None:
    toys.pictures(tmp_path / "in" / "b", 1)
    reconstruct_images(lia, tmp_path / "in", tmp_path / "out")
    (tmp_path / "out" / "b" / "000.png").write_text("old")
    figures = reconstruct_images(lia, tmp_path / "in", tmp_path / "out")
    assert figures["files"] == {"b/000.png": ["b/000.png"]}
    assert pixels(tmp_path / "out" / "b" / "000.png").shape == (8, 8, 3)


def test_codes_give_the_same_as_their_images(lia: LIA, tmp_path: Path) -> None:
    folder = toys.pictures(tmp_path / "in", 3, (8, 12))
    encode_images(lia, folder, tmp_path / "c.safetensors", split="last 2")
    direct = reconstruct_images(lia, folder, tmp_path / "a", split="last 2")
    by_codes = reconstruct_images(lia, tmp_path / "c.safetensors", tmp_path / "b")
    assert by_codes["files"] == direct["files"] and set(direct["files"]) == {"001.png", "002.png"}
    assert by_codes["mse"] == pytest.approx(direct["mse"])
    for name in ("001.png", "002.pasted.png", "grid.png"):
        assert np.abs(pixels(tmp_path / "a" / name) - pixels(tmp_path / "b" / name)).max() <= 1


def test_codes_are_drawn_without_their_images(lia: LIA, tmp_path: Path) -> None:
    folder = toys.pictures(tmp_path / "in", 2, (8, 12))
    encode_images(lia, folder, tmp_path / "c.safetensors")
    Image.new("RGB", (30, 30)).save(folder / "001.png")
    changed = reconstruct_images(lia, tmp_path / "c.safetensors", tmp_path / "changed")
    assert "have changed" in changed["originals"] and changed["mse"] is None
    folder.rename(tmp_path / "away")
    gone = reconstruct_images(lia, tmp_path / "c.safetensors", tmp_path / "gone")
    assert "there is no" in gone["originals"] and gone["files"] == {"000.png": ["000.png"], "001.png": ["001.png"]}
    assert pixels(tmp_path / "gone" / "grid.png").shape == (8, 16, 3)


def test_a_conditional_lia_needs_no_labels_to_redraw_but_its_data_set_has_them(tmp_path: Path) -> None:
    lia = toys.with_encoder(toys.stylegan(c_dim=3))
    folder = toys.pictures(tmp_path / "in", 2)
    with pytest.raises(LIAError, match="label"):
        reconstruct_images(lia, folder, tmp_path / "out")
    (folder / "dataset.json").write_text('{"labels": [["000.png", 2], ["001.png", 0]]}')
    assert reconstruct_images(lia, folder, tmp_path / "out")["count"] == 2


def test_unreadable_images_are_told_and_the_others_drawn(lia: LIA, tmp_path: Path) -> None:
    folder = toys.pictures(tmp_path / "in", 2)
    (folder / "001a.png").write_bytes(b"no picture")
    (folder / "zzz.png").write_bytes(b"")
    told: list[tuple[str, int, int]] = []
    figures = reconstruct_images(lia, folder, tmp_path / "out", batch=1, progress=lambda *what: told.append(what))
    assert list(figures["files"]) == ["000.png", "001.png"]
    assert list(figures["unreadable"]) == ["001a.png", "zzz.png"]
    assert told[-1] == ("reconstruct", 4, 4)
    assert "001a.png" in write_reconstruct_report(figures, tmp_path / "out").read_text()


def test_wrong_inputs_are_told(lia: LIA, tmp_path: Path) -> None:
    folder = toys.pictures(tmp_path / "in", 1)
    encode_images(lia, folder, tmp_path / "c.safetensors")
    with pytest.raises(ConfigError, match="Leave resize_mode"):
        reconstruct_images(lia, tmp_path / "c.safetensors", tmp_path / "out", resize_mode="crop")
    with pytest.raises(LIAError, match="another generator"):
        reconstruct_images(toys.with_encoder(toys.stylegan(1)), tmp_path / "c.safetensors", tmp_path / "out")
    with pytest.raises(LIAError, match="no codes file"):
        reconstruct_images(lia, tmp_path / "none.safetensors", tmp_path / "out")
    with pytest.raises(LIAError, match="train-encoder"):
        reconstruct_images(toys.stylegan(), folder, tmp_path / "out")
    with pytest.raises(LIAError, match="cannot make the folder"):
        reconstruct_images(lia, folder, tmp_path / "c.safetensors")
    (folder / "000.png").write_bytes(b"")
    with pytest.raises(LIAError, match="none of the 1 images"):
        reconstruct_images(lia, folder, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["../x.png", "/x.png", "a/../../x.png", "", "x\0.png", "."])
def test_a_name_that_leads_out_of_the_folder_is_refused(lia: LIA, tmp_path: Path, name: str) -> None:
    encode_images(lia, toys.pictures(tmp_path / "in", 1), tmp_path / "c.safetensors")
    codes = read_codes(tmp_path / "c.safetensors")
    object.__setattr__(codes, "names", (name,))
    codes.save(tmp_path / "c.safetensors")
    with pytest.raises(LIAError):
        reconstruct_images(lia, tmp_path / "c.safetensors", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} <= {"in", "out", "c.safetensors"}


@pytest.mark.parametrize("shape", [(1, 15), (1, 3, 16), (0, 16)])
def test_codes_of_another_shape_are_refused(lia: LIA, tmp_path: Path, shape: tuple[int, ...]) -> None:
    encode_images(lia, toys.pictures(tmp_path / "in", 1), tmp_path / "c.safetensors")
    codes = read_codes(tmp_path / "c.safetensors")
    n = shape[0]
    tensors = {**{name: t[:n] for name, t in codes.tensors.items()}, "y": torch.zeros(shape)}
    Codes(codes.names[:n], tensors, codes.placements[:n], codes.generator, codes.about).save(tmp_path / "c.safetensors")
    with pytest.raises(LIAError, match="damaged"):
        reconstruct_images(lia, tmp_path / "c.safetensors", tmp_path / "out")


def test_names_of_pictures() -> None:
    names = ["a.jpg", "A.png", "a.jpg.png", "grid.gif", "b/a.jpg", "c.tar.gif", "a.pasted.jpg"]
    expected = ["a", "A.png", "a.jpg", "grid.gif", "b/a", "c.tar", "a.pasted.jpg"]
    assert picture_stems(names) == expected


@given(st.lists(st.from_regex(r"([aAb]/)?([aA]|\.|b)[aA.]{0,3}(\.png|\.PNG|\.jpg|\.pasted)", fullmatch=True), max_size=12))
def test_no_two_pictures_share_a_file(names: list[str]) -> None:
    files = [f"{stem}{ending}".lower() for stem in picture_stems(names) for ending in (".png", ".pasted.png")]
    assert len(set(files)) == len(files) and "grid.png" not in files
    assert all(".." not in Path(file).parts for file in files)


# -- photographs: what stays of them, and that they stay


def test_colour_profile_and_notes_of_the_camera_are_in_what_is_pasted(lia: LIA, tmp_path: Path) -> None:
    folder, exif, icc = tmp_path / "in", Image.Exif(), profile(ADOBE)
    folder.mkdir()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make] = 6, "Cam"
    picture = Image.fromarray(np.full((12, 20, 3), 120, np.uint8))
    picture.save(folder / "a.jpg", exif=exif, icc_profile=icc, quality=100)
    reconstruct_images(lia, folder, tmp_path / "out")
    with Image.open(tmp_path / "out" / "a.pasted.png") as pasted, Image.open(tmp_path / "out" / "a.png") as drawn:
        assert pasted.size == (12, 20) and pasted.info["icc_profile"] == icc
        assert dict(pasted.getexif()) == {ExifTags.Base.Make: "Cam"}
        assert "icc_profile" not in drawn.info and not drawn.getexif()
        shown = to_srgb(upright(pasted)).resize((12, 12), box=(0, 4, 12, 16))
        away = np.abs(np.asarray(shown, float) - np.asarray(drawn.convert("RGB").resize((12, 12)), float))[3:-3, 3:-3]
        assert np.median(away) < 8  # as it was drawn, where the profile can say it


def test_faces_are_aligned_and_pasted_back_by_their_landmarks(lia: LIA, tmp_path: Path) -> None:
    folder, file, points = toys.pictures(tmp_path / "in", 2, (40, 60)), tmp_path / "l.json", [[26, 15], [34, 18], [29, 20]]
    file.write_text(json.dumps({"000.png": [*points, [25, 24], [31, 26]]}))
    direct = reconstruct_images(lia, folder, tmp_path / "a", align="ffhq", landmarks=file)
    assert direct["files"] == {"000.png": ["000.png", "000.pasted.png"]} and "no landmarks" in direct["unreadable"]["001.png"]
    pasted, original = pixels(tmp_path / "a" / "000.pasted.png"), pixels(folder / "000.png")
    changed = np.abs(pasted - original).max(axis=2) > 8
    y, x = np.nonzero(changed)
    assert changed.sum() > 50 and np.hypot(x - 30, y - 19).max() < 17 * 2**0.5  # around the face: half a side is 1.8 x 9 long
    encode_images(lia, folder, tmp_path / "c.safetensors", align="ffhq", landmarks=file)
    by_codes = reconstruct_images(lia, tmp_path / "c.safetensors", tmp_path / "b")
    assert by_codes["files"] == direct["files"] and by_codes["mse"] == pytest.approx(direct["mse"])
    assert np.abs(pixels(tmp_path / "b" / "000.pasted.png") - pasted).max() <= 1
    with pytest.raises(ConfigError, match="Leave align and landmarks out"):
        reconstruct_images(lia, tmp_path / "c.safetensors", tmp_path / "b", align="ffhq", landmarks=file)


@pytest.mark.parametrize("link", ["symlink", "hard link", "folder"])
def test_a_photograph_is_never_written_over(lia: LIA, tmp_path: Path, link: str) -> None:
    folder, out = toys.pictures(tmp_path / "in", 2, (8, 12)), tmp_path / "out"
    before = (folder / "000.png").read_bytes()
    encode_images(lia, folder, tmp_path / "c.safetensors")
    sources = (folder, tmp_path / "c.safetensors", folder / "000.png")
    for source in sources:
        reconstruct_images(lia, source, out)  # so that the next run finds what it may replace
        if link == "folder":
            figures = (out / "grid.json").read_bytes()
            shutil.rmtree(out)
            (folder / "grid.json").write_bytes(figures)
            out.symlink_to(folder)
        else:
            (out / "000.png").unlink()
            (out / "000.png").symlink_to(folder / "000.png") if link == "symlink" else (out / "000.png").hardlink_to(
                folder / "000.png"
            )
        with pytest.raises(ConfigError, match="would write over the picture") as caught:
            reconstruct_images(lia, source, out)
        assert "\n" not in str(caught.value) and (folder / "000.png").read_bytes() == before
        out.unlink() if link == "folder" else shutil.rmtree(out)
        (folder / "grid.json").unlink(missing_ok=True)


def test_the_report_of_invert_writes_over_no_photograph(tmp_path: Path) -> None:
    lia, folder = toys.with_encoder(toys.stylegan()), toys.pictures(tmp_path / "in", 1)
    before = (folder / "000.png").read_bytes()
    with pytest.raises(ConfigError, match="would write over the picture"):
        invert_images(lia, folder, folder / "000.safetensors", steps=1)
    assert (folder / "000.png").read_bytes() == before
