"""Mixtures, ways and films, against what is put together by hand and read back by other programs."""

import importlib
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from lia_adapter.codes import open_codes
from lia_adapter.data import open_images
from lia_adapter.editing import Direction, Directions, Edit, moved
from lia_adapter.editing.prior import between
from lia_adapter.editing.walks import closed_walk, smoothed, spline, spline_in_z
from lia_adapter.errors import ConfigError, LIAError
from lia_adapter.generators import Generator, fingerprint, seed_to_z
from lia_adapter.jobs.animation import check_animation, write_animation
from lia_adapter.jobs.directions_film import film_of_directions
from lia_adapter.jobs.encode import encode_images
from lia_adapter.jobs.footage import Footage
from lia_adapter.jobs.interpolate import interpolate_sources, step_codes
from lia_adapter.jobs.mix import layer_groups, mix_styles
from lia_adapter.jobs.sources import join_sources, open_sources, truncated, why_no_z
from lia_adapter.jobs.video import film_of_footage, film_of_keys, film_of_walk, key_codes, write_film
from lia_adapter.lia import LIA
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.pictures import image_grid
from tests import toys

RANDOM = torch.Generator().manual_seed(5)


class Plain(Generator):
    """Three layers, each of which draws its own channel: what a mixture is shows in the pixels."""

    away: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.z_dim = self.y_dim = 4
        self.c_dim, self.num_ws, self.resolution, self.channels = 0, 3, (2, 2), 3
        self.register_buffer("away", torch.tensor([0.1, -0.2, 0.0, 0.1]))

    def mapping(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        return 0.4 * z + self.away

    def synthesis(self, ys: Tensor, *, noise_mode: str = "const") -> Tensor:
        return ys.reshape(-1, 3, 2, 2)


@pytest.fixture(scope="module")
def plain() -> LIA:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mapping = InvertibleMapping("affine", 4)
        for parameter in mapping.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        return LIA(Plain(), mapping).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def toy() -> LIA:
    return toys.with_encoder(toys.stylegan())


def seeds_y(lia: LIA, seeds: list[int]) -> Tensor:
    return lia.generator.mapping(seed_to_z(seeds, lia.generator.z_dim))


def pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image)


# -- curves


@pytest.mark.parametrize("closed", [False, True])
def test_a_spline_passes_its_keys_without_a_corner(closed: bool) -> None:
    keys = torch.randn(5, 3, 2, generator=RANDOM, dtype=torch.float64)
    knots = torch.arange(5.0, dtype=torch.float64)
    assert torch.allclose(spline(keys, knots, closed=closed), keys)
    inner, step = knots if closed else knots[1:-1], 1e-5
    before = spline(keys, (inner - step) % 5, closed=closed)
    after = spline(keys, inner + step, closed=closed)
    at = spline(keys, inner, closed=closed)
    assert torch.allclose((at - before) / step, (after - at) / step, atol=1e-3)
    if closed:
        assert torch.allclose(spline(keys, knots[:1] + 5, closed=True), keys[:1])


def test_a_spline_of_keys_in_line_is_the_line() -> None:
    line = torch.arange(4.0)[:, None] * torch.tensor([1.0, -2.0])
    t = torch.linspace(0, 3, 31)
    assert torch.allclose(spline(line, t), t[:, None] * torch.tensor([1.0, -2.0]), atol=1e-5)


def test_between_keys_of_z_sizes_are_between_theirs() -> None:
    keys = torch.randn(2, 512, generator=RANDOM, dtype=torch.float64) * torch.tensor([[1.0], [1.5]])
    way = spline_in_z(keys, torch.linspace(0, 1, 21).double())
    assert torch.allclose(way[[0, -1]], keys)
    low, high = keys.norm(dim=1).tolist()
    assert ((way.norm(dim=1) > low * 0.999) & (way.norm(dim=1) < high * 1.001)).all()
    assert spline(keys, torch.tensor([0.5]).double()).norm() < 0.75 * (low + high) / 2  # which is why


def test_smoothing_is_the_mean_under_a_gaussian() -> None:
    codes = torch.randn(9, 2, 3, generator=RANDOM, dtype=torch.float64)
    far = torch.arange(9.0)[:, None] - torch.arange(9.0)
    weights = torch.exp(-0.5 * (far / 1.3) ** 2) * (far.abs() <= math.ceil(3 * 1.3))
    expected = torch.einsum("ts,sab->tab", (weights / weights.sum(dim=1, keepdim=True)).double(), codes)
    assert torch.allclose(smoothed(codes, 1.3), expected, atol=1e-6)
    assert smoothed(codes, 0) is codes
    same = codes[:1].expand(9, -1, -1)
    assert torch.allclose(smoothed(same, 100.0), same)


def test_a_walk_is_closed_and_as_usual_as_any_z_everywhere() -> None:
    t = torch.linspace(0, 1, 41, dtype=torch.float64)
    walk = closed_walk(20_000, t, 3, torch.Generator().manual_seed(0))
    assert torch.allclose(walk[0], walk[-1])
    assert (walk.var(dim=1) - 1).abs().max() < 0.05 and walk.mean(dim=1).abs().max() < 0.05
    steps = walk.diff(dim=0).norm(dim=1)
    assert steps.max() < 1.1 * steps.min()


# -- sources


def test_codes_of_a_folder_are_those_of_its_file(toy: LIA, tmp_path: Path) -> None:
    folder = toys.pictures(tmp_path / "in", 3, (10, 12))
    encode_images(toy, folder, tmp_path / "codes.safetensors")
    found, kept = open_sources(toy, folder), open_sources(toy, tmp_path / "codes.safetensors")
    assert found.names == kept.names == ("000.png", "001.png", "002.png")
    assert torch.allclose(found.ys, kept.ys, atol=1e-6) and found.placements == kept.placements
    codes = open_codes(tmp_path / "codes.safetensors", toy)
    assert torch.allclose(kept.z(toy), codes.tensors["z"], atol=1e-4)
    assert found.images is not None and found.images.original(found.numbers[2]).size == (12, 10)


def test_seeds_are_those_that_sample_draws(toy: LIA) -> None:
    found = open_sources(toy, "seeds:3,0-1", psi=0.6)
    assert found.names == ("seed0003", "seed0000", "seed0001")
    assert torch.allclose(toy.synthesize(found.ys), toy.sample([3, 0, 1], psi=0.6), atol=1e-5)


def test_conditional_generators_need_a_label_and_z_of_the_same() -> None:
    lia = toys.with_encoder(toys.stylegan(c_dim=3))
    with pytest.raises(ConfigError, match="this generator is conditional"):
        open_sources(lia, "seeds:0")
    one, other = open_sources(lia, "seeds:0", label=1), open_sources(lia, "seeds:0", label=2)
    c = torch.tensor([[0.0, 1.0, 0.0]])
    assert torch.allclose(lia.synthesize(one.ys), lia.sample([0], c=c), atol=1e-5)
    assert torch.allclose(lia.to_y(one.z(lia), c), one.y, atol=1e-4)
    both = join_sources([one, other])
    assert both.c is not None and both.c.tolist() == [[0, 1, 0], [0, 0, 1]]
    assert "different labels" in why_no_z(lia, both) and not why_no_z(lia, join_sources([one, one]))
    assert "do not say their labels" in why_no_z(lia, replace(both, c=None))


def test_what_a_method_found_beside_codes_is_left_out_with_a_note(
    toy: LIA, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encode_images(toy, toys.pictures(tmp_path / "in", 1), tmp_path / "codes.safetensors")
    codes = open_codes(tmp_path / "codes.safetensors", toy)
    codes.tensors["noise.0"] = torch.zeros(1, 1, 4, 4)
    codes.save(tmp_path / "more.safetensors")
    open_sources(toy, tmp_path / "more.safetensors")
    assert "more.safetensors: what its method found beside codes" in caplog.text


# -- mix


def test_a_mixture_has_the_layers_of_both(plain: LIA, tmp_path: Path) -> None:
    figures, grids = mix_styles(plain, "seeds:0-1", "seeds:5,6,7", tmp_path, groups=["fine"])
    first, second = seeds_y(plain, [0, 1]).reshape(-1, 1, 2, 2), seeds_y(plain, [5, 6, 7]).reshape(-1, 1, 2, 2)
    assert figures["layers"] == {"fine": [2]}
    for i in range(2):
        for j in range(3):
            x = torch.cat([first[i], first[i], second[j]])[None]
            assert figures["files"]["fine"][3 * i + j] == f"seed000{i}+seed000{5 + j}.fine.png"
            assert np.array_equal(pixels(tmp_path / f"seed000{i}+seed000{5 + j}.fine.png"), np.asarray(image_grid(x)))
    grid = pixels(tmp_path / "mix.png")
    assert grid.shape == (3 * 2, 4 * 2, 3) and (grid[:2, :2] == 255).all() and list(grids) == ["fine"]
    assert np.array_equal(grid[2:4, :2], np.asarray(image_grid(first[0].expand(1, 3, 2, 2))))
    assert np.array_equal(grid[:2, 2:4], np.asarray(image_grid(second[0].expand(1, 3, 2, 2))))
    assert json.loads((tmp_path / "mix.json").read_text()) == json.loads(json.dumps(figures))


def test_layers_are_stylegans_ranges_or_thirds(plain: LIA, toy: LIA) -> None:
    assert layer_groups(toys.stylegan(resolution=128, channel_base=512).generator) == {
        "coarse": [0, 1, 2, 3], "middle": [4, 5, 6, 7], "fine": [8, 9, 10, 11],
    }  # fmt: skip
    assert layer_groups(toy.generator) == {"coarse": [0], "middle": [1, 2], "fine": [3]}
    assert layer_groups(plain.generator) == {"coarse": [0], "middle": [1], "fine": [2]}


def test_a_mixture_again_replaces_its_own_pictures_alone(plain: LIA, tmp_path: Path) -> None:
    for _ in range(2):
        mix_styles(plain, "seeds:0", "seeds:1", tmp_path, layers=[1, 2])
    (tmp_path / "seed0000+seed0002.layers.png").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"seed0000\+seed0002.layers.png, which something else made"):
        mix_styles(plain, "seeds:0", "seeds:2", tmp_path, layers=[1, 2])


# -- interpolate


def test_fewer_grids_leave_the_others_ours(plain: LIA, tmp_path: Path) -> None:
    mix_styles(plain, "seeds:0-1", "seeds:2-3", tmp_path)
    figures, _ = mix_styles(plain, "seeds:0-1", "seeds:2-3", tmp_path, groups=["fine"])
    assert len(figures["earlier"]) == 8
    figures, _ = mix_styles(plain, "seeds:0-1", "seeds:2-3", tmp_path)
    assert figures["earlier"] == []


def test_ways_end_at_the_sources_and_are_as_long_as_by_hand(plain: LIA, tmp_path: Path) -> None:
    figures = interpolate_sources(plain, ["seeds:0", "seeds:4"], tmp_path, steps=5)
    a, b = seeds_y(plain, [0, 4])
    z = plain.to_z(torch.stack([a, b]))
    circle = plain.to_y(between(z[0], z[1], 5))
    lengths = figures["pairs"][0]["length"]
    assert math.isclose(lengths["y"], float((a - b).square().mean().sqrt()), rel_tol=1e-4)  # in line, parts add up
    assert math.isclose(lengths["z"], float(circle.diff(dim=0).square().mean(dim=1).sqrt().sum()), rel_tol=1e-4)
    assert lengths["z"] > lengths["y"] * 1.001
    found = open_sources(plain, "seeds:0,4")
    for way in (None, z):
        codes = step_codes(plain, found, 0, 5, way)
        assert torch.allclose(codes[[0, -1]], found.ys, atol=1e-5)
    assert pixels(tmp_path / "path.png").shape == (2 * 2, 5 * 2, 3)
    drawn = [pixels(tmp_path / name) for name in figures["files"]["z"]]
    assert [path.name for path in sorted(tmp_path.glob("y-*.png"))] == figures["files"]["y"]
    np.testing.assert_array_equal(np.concatenate(drawn, axis=1), pixels(tmp_path / "path.png")[2:])


def test_ways_again_replace_their_own_pictures_alone(plain: LIA, tmp_path: Path) -> None:
    interpolate_sources(plain, ["seeds:0", "seeds:4"], tmp_path, steps=3)
    figures = interpolate_sources(plain, ["seeds:1", "seeds:4"], tmp_path, steps=2)
    assert figures["earlier"] == ["y-01-003.png", "z-01-003.png"]  # those of the longer way, which stay ours
    figures = interpolate_sources(plain, ["seeds:0", "seeds:4"], tmp_path, steps=3)
    assert figures["earlier"] == []
    (tmp_path / "y-02-001.png").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"y-02-001.png, which something else made"):
        interpolate_sources(plain, ["seeds:1,4,5"], tmp_path, steps=2)
    assert (tmp_path / "y-02-001.png").read_bytes() == b"mine"


def test_what_layers_differ_by_goes_along(plain: LIA) -> None:
    found = open_sources(plain, "seeds:0,4")
    apart = torch.randn(2, 3, 4, generator=RANDOM)
    layered = replace(found, ys=apart, y=apart.mean(dim=1))
    for ys in (
        step_codes(plain, layered, 0, 3, layered.z(plain)),
        key_codes(plain, layered, layered.z(plain), torch.arange(2.0), False),
    ):
        assert torch.allclose(ys[[0, -1]], apart, atol=1e-5)


def test_before_conversion_there_is_no_way_through_z(tmp_path: Path) -> None:
    figures = interpolate_sources(toys.stylegan(), ["seeds:0-2"], tmp_path, steps=3)
    assert "run lia-adapt convert" in figures["left_out"]["z"]
    assert [list(pair["length"]) for pair in figures["pairs"]] == [["y"], ["y"]]


def test_with_a_network_lengths_are_of_what_it_sees(toy: LIA, tmp_path: Path) -> None:
    figures = interpolate_sources(toy, ["seeds:0,0-1"], tmp_path, steps=3, features=toys.squeezenet(tmp_path))
    assert figures["measure"].startswith("perceptual distance, by SqueezeNet")
    assert figures["pairs"][0]["length"]["y"] == 0 and figures["pairs"][1]["length"]["y"] > 0


# -- films


def colours(count: int, size: tuple[int, int] = (22, 18)) -> list[Image.Image]:
    """Frames of smooth colours, all different."""
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    return [
        Image.fromarray(np.stack([60 + 4 * columns, 50 + 6 * rows, np.full_like(rows, 40 + 10 * i)], axis=2).astype(np.uint8))
        for i in range(count)
    ]


@pytest.mark.parametrize("ending", ["webp", "apng", "gif"])
def test_what_is_written_is_read_back(tmp_path: Path, ending: str) -> None:
    frames, path = colours(7), tmp_path / f"a.{ending}"
    write_animation(path, iter(frames), Fraction(30))
    with Image.open(path) as image:
        assert (getattr(image, "n_frames", 1), image.size, image.info.get("loop")) == (7, (22, 18), 0)
        found = [(frame.convert("RGB"), frame.info["duration"]) for frame in ImageSequence.Iterator(image)]
    assert sum(duration for _, duration in found) == pytest.approx(7 * 1000 / 30, abs=6)
    loss = {"webp": 6, "apng": 0, "gif": 12}[ending]
    for frame, (back, _) in zip(frames, found, strict=True):
        assert np.abs(np.asarray(frame).astype(int) - np.asarray(back)).mean() <= loss


@pytest.mark.parametrize("ending", ["webp", "apng", "gif"])
def test_frames_that_are_the_same_stay_frames(tmp_path: Path, ending: str) -> None:
    write_animation(tmp_path / f"a.{ending}", iter(colours(1, (1, 1)) * 3), Fraction(25))
    with Image.open(tmp_path / f"a.{ending}") as image:
        assert getattr(image, "n_frames", 1) == 3


@pytest.mark.parametrize("ending", ["apng", "gif"])
def test_another_program_reads_the_same_frames(tmp_path: Path, ending: str) -> None:
    av = pytest.importorskip("av", reason="videos need the extra `video`")
    frames, path = colours(5), tmp_path / f"a.{ending}"
    write_animation(path, iter(frames), Fraction(25))
    with av.open(str(path)) as container:
        found = [frame.to_image().convert("RGB") for frame in container.decode(video=0)]
    assert len(found) == 5
    with Image.open(path) as image:
        for seen, back in zip(found, ImageSequence.Iterator(image), strict=True):
            assert np.array_equal(np.asarray(seen), np.asarray(back.convert("RGB")))


@pytest.mark.parametrize("ending", ["mp4", "webm"])
def test_videos_are_read_back_in_their_colours(tmp_path: Path, ending: str) -> None:
    pytest.importorskip("av", reason="videos need the extra `video`")
    frames, path = colours(9, (33, 27)), tmp_path / f"a.{ending}"
    write_animation(path, iter(frames), Fraction(24000, 1001))
    video = Footage(path)
    found = list(video)
    assert len(found) == len(list(video)) == 9 and found[0].size == (34, 28)
    assert float(video.fps) == pytest.approx(23.976, abs=0.01)
    for frame, back in zip(frames, found, strict=True):
        assert np.abs(np.asarray(frame).astype(int) - np.asarray(back.crop((0, 0, 33, 27)))).mean() < 5


def test_a_video_that_lies_on_its_side_is_turned(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="videos need the extra `video`")
    write_animation(tmp_path / "a.mp4", iter(colours(3, (32, 16))), Fraction(10))
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # ISO 14496-12, 8.3.2: the matrix {a b u, c d v, x y w}
    one, minus, none = (value.to_bytes(4, "big", signed=True) for value in (1 << 16, -1 << 16, 0))
    data[at : at + 16] = none + one + none + minus  # x goes down and y to the left: a quarter to the right
    data[at + 16 : at + 20] = none
    (tmp_path / "b.mp4").write_bytes(data)
    upright, turned = (next(iter(Footage(tmp_path / name))) for name in ("a.mp4", "b.mp4"))
    assert turned.size == (16, 32)
    assert np.array_equal(np.asarray(turned), np.rot90(np.asarray(upright), -1))


def test_films_pass_their_key_frames(toy: LIA) -> None:
    keys = seeds_y(toy, [2, 4, 8])
    for lia, space in ((toy, "z"), (toy, "y"), (toys.stylegan(), "y")):
        film = film_of_keys(lia, ["seeds:2", "seeds:4,8"], frames=4, space=space)
        found = list(film.frames())
        assert film.count == len(found) == 9 and film.about["space"] == space
        for number, y in zip((0, 4, 8), keys, strict=True):
            expected = np.asarray(image_grid(lia.synthesize(y[None]))).astype(int)
            assert np.abs(np.asarray(found[number]).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("space", ["z", "y"])
def test_the_last_frame_of_a_loop_goes_on_to_the_first(toy: LIA, space: str) -> None:
    keys = open_sources(toy, "seeds:2,4,8")
    z, t = keys.z(toy) if space == "z" else None, torch.arange(3 * 50, dtype=torch.float64) / 50
    codes = key_codes(toy, keys, z, t, True)
    steps = (codes - codes.roll(-1, 0)).norm(dim=(1, 2))
    assert steps[-1] < 1.1 * max(steps[0], steps[-2])
    assert film_of_keys(toy, ["seeds:2,4,8"], frames=50, loop=True, space=space).count == 150


def test_a_walk_is_what_the_generator_draws_and_ends_where_it_begins(plain: LIA) -> None:
    film = film_of_walk(plain, seconds=4, fps=25, seed=3)
    found = [np.asarray(frame).astype(int) for frame in film.frames()]
    walk = closed_walk(4, torch.arange(100).double() / 100, 1, torch.Generator().manual_seed(3)).float()
    assert np.array_equal(
        found[7], np.asarray(image_grid(plain.generator.mapping(walk[7:8]).reshape(1, 1, 2, 2).expand(1, 3, 2, 2)))
    )
    steps = [int(np.abs(a - b).max()) for a, b in zip(found, found[1:] + found[:1], strict=True)]
    assert len(found) == 100 and steps[-1] <= max(steps[:-1])
    still = film_of_walk(plain, seconds=1, fps=3, psi=0.0)
    assert len({frame.tobytes() for frame in still.frames()}) == 1


@pytest.mark.parametrize("space", ["y", "z", "s"])
def test_a_film_of_directions_goes_there_and_back(toy: LIA, space: str) -> None:
    found = Directions.find("pca", toy, count=2, samples=500, space=space) if space != "z" else None
    if found is None:
        step = torch.randn(toy.generator.y_dim, generator=torch.Generator().manual_seed(1))
        found = Directions(fingerprint(toy.generator), tuple(Direction(f"pca-{i}", "z", step * i, "test") for i in (1, 2)))
    film = film_of_directions(toy, ["seeds:2,4"], found, {"pca-2": 3.0, "pca-1": -1.0}, seconds=0.8, fps=10)
    frames = [np.asarray(frame).astype(int) for frame in film.frames()]
    assert film.count == len(frames) == 2 * 2 * 8 and film.about["names"] == ("seed0002", "seed0004")
    ys = open_sources(toy, "seeds:2,4").ys
    wanted = {2: (0, "pca-2", 3.0), 8 + 6: (0, "pca-1", 1.0), 16 + 1: (1, "pca-2", 3 * 0.5**0.5)}
    for i, (which, name, amount) in wanted.items():
        codes, shift = moved(toy.generator, ys[which][None], [Edit(found[name], amount)], mapping=toy.mapping)
        expected = np.asarray(image_grid(toy.synthesize(codes, styles=shift))).astype(int)
        assert np.abs(frames[i] - expected).max() <= 1
    assert np.abs(frames[0] - np.asarray(image_grid(toy.synthesize(ys[:1])))).max() <= 1
    with pytest.raises(ConfigError, match="not one frame"):
        film_of_directions(toy, ["seeds:1"], found, {"pca-1": 1.0}, seconds=0.01)


def test_a_video_is_encoded_smoothed_and_pasted_back(toy: LIA, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="videos need the extra `video`")
    write_animation(tmp_path / "in.mp4", iter(colours(6, (24, 16))), Fraction(12))
    figures, _ = write_film(film_of_footage(toy, tmp_path / "in.mp4", smooth=1.5), tmp_path / "out.apng")
    assert (figures["count"], figures["width"], figures["height"], figures["fps"]) == (6, 24, 16, 12)
    frames = list(Footage(tmp_path / "in.mp4"))
    folder = tmp_path / "frames"
    folder.mkdir()
    for i, frame in enumerate(frames):
        frame.save(folder / f"{i}.png")
    images = open_images(folder, (8, 8), 3)
    y = toy.encode(torch.stack([item.x for i in range(6) if (item := images.load(i)) is not None]))
    x = toy.synthesize(toy.to_y(smoothed(toy.to_z(y), 1.5)))
    with Image.open(tmp_path / "out.apng") as film:
        for frame, drawn, back in zip(frames, x, ImageSequence.Iterator(film), strict=True):
            found = np.asarray(back.convert("RGB")).astype(int)
            assert np.array_equal(found[:, :4], np.asarray(frame)[:, :4])  # beside the square in the middle
            middle = np.asarray(image_grid(drawn[None]).resize((16, 16), Image.Resampling.LANCZOS)).astype(int)
            assert np.abs(found[4:12, 8:16] - middle[4:12, 4:12]).max() <= 2


def with_tone(path: Path, frames: int, fps: int, seconds: float, hertz: float) -> None:
    """A video with a tone beside its pictures, by PyAV alone."""
    av: Any = importlib.import_module("av")
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("mpeg4", rate=fps), container.add_stream("aac", rate=44_100, layout="mono")
        video.width, video.height, video.pix_fmt = 24, 16, "yuv420p"
        wave = np.sin(2 * np.pi * hertz * np.arange(round(44_100 * seconds)) / 44_100).astype(np.float32) / 2
        for i, picture in enumerate(colours(frames, (24, 16))):
            frame = av.VideoFrame.from_image(picture)
            frame.pts, frame.time_base = i, Fraction(1, fps)
            container.mux(video.encode(frame))
        heard = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        heard.rate, heard.pts, heard.time_base = 44_100, 0, Fraction(1, 44_100)
        for packets in (video.encode(), sound.encode(heard), sound.encode()):
            container.mux(packets)


def heard_in(path: Path) -> tuple[float, float]:
    """Seconds of sound, and the frequency that is loudest in it."""
    av: Any = importlib.import_module("av")
    with av.open(str(path)) as container:
        frames = list(container.decode(container.streams.audio[0]))
    wave = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    rate = frames[0].sample_rate
    return len(wave) / rate, float(np.abs(np.fft.rfft(wave)).argmax() * rate / len(wave))


@pytest.mark.parametrize("ending", ["mp4", "webm"])
@pytest.mark.parametrize("seconds", [1.0, 3.0])
def test_sound_goes_along_as_far_as_pictures(toy: LIA, tmp_path: Path, ending: str, seconds: float) -> None:
    pytest.importorskip("av", reason="videos need the extra `video`")
    with_tone(tmp_path / "in.mp4", 12, 12, seconds, 440.0)
    film = film_of_footage(toy, tmp_path / "in.mp4", smooth=0)
    figures, _ = write_film(film, tmp_path / f"out.{ending}")
    length, hertz = heard_in(tmp_path / f"out.{ending}")
    assert figures["sound"] and abs(length - 1) < 0.1 and abs(hertz - 440) < 3
    silent, _ = write_film(film, tmp_path / "out.webp")
    assert not silent["sound"]


def test_a_video_without_sound_says_nothing_of_it(toy: LIA, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="videos need the extra `video`")
    write_animation(tmp_path / "in.mp4", iter(colours(4, (24, 16))), Fraction(12))
    figures, _ = write_film(film_of_footage(toy, tmp_path / "in.mp4"), tmp_path / "out.mp4")
    assert "sound" not in figures and not Footage(tmp_path / "out.mp4").has_sound


def test_smoothing_a_still_video_changes_nothing(toy: LIA, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="videos need the extra `video`")
    write_animation(tmp_path / "in.mp4", iter(colours(1, (16, 16)) * 5), Fraction(12))
    sharp, smooth = (
        [np.asarray(frame).astype(int) for frame in film_of_footage(toy, tmp_path / "in.mp4", smooth=amount).frames()]
        for amount in (0.0, 2.0)
    )
    assert max(int(np.abs(a - b).max()) for a, b in zip(sharp, smooth, strict=True)) <= 3  # of 255, as H.264 is not exact


@pytest.mark.parametrize("ending", ["webp", "apng", "gif", "mp4"])
def test_an_interrupted_film_leaves_no_file_and_the_old_one(toy: LIA, tmp_path: Path, ending: str) -> None:
    if ending == "mp4":
        pytest.importorskip("av", reason="videos need the extra `video`")
    path = tmp_path / f"a.{ending}"
    film = film_of_keys(toy, ["seeds:0-1"], frames=10)

    def stop(name: str, done: int, total: int | None) -> None:
        if done == 5:
            raise KeyboardInterrupt

    for before in (b"", b"old"):
        if before:
            path.write_bytes(before)
        with pytest.raises(KeyboardInterrupt):
            write_film(film, path, stop)
        assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == ([(path.name, before)] if before else [])


def test_a_film_needs_pyav_where_it_is_none_of_pillows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Iterator[None]:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(LIAError, match=r"pip install 'lia-adapter\[video\]', or write .webp"):
        check_animation(tmp_path / "a.mp4", Fraction(30))
    check_animation(tmp_path / "a.gif", Fraction(30))
    with pytest.raises(LIAError, match=r"to read a.mp4, the package av is needed"):
        Footage(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"#EXTM3U\n#EXTINF:5\nother.ts\n", b"ffconcat version 1.0\nfile 'other.mp4'\n"]
)
def test_what_is_no_video_is_refused_and_opens_nothing_else(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("av", reason="videos need the extra `video`")
    write_animation(tmp_path / "other.mp4", iter(colours(2)), Fraction(12))
    (tmp_path / "other.ts").write_bytes((tmp_path / "other.mp4").read_bytes())
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(LIAError, match="a.mp4 is no video that can be read"):
        Footage(tmp_path / "a.mp4")


def test_truncation_moves_sources_towards_the_mean(toy: LIA) -> None:
    ys = open_sources(toy, "seeds:0").ys
    assert truncated(toy, ys, 1, None) is ys
    assert torch.allclose(open_sources(toy, "seeds:0", psi=0).ys, toy.y_mean.expand_as(ys))
