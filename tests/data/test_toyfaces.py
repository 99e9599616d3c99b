"""Toy faces: the same for a seed everywhere, with factors that change what they say and nothing else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lia_adapter.data import Stream, open_images
from lia_adapter.data.toyfaces import FACTORS, Factor, draw, sample_factors
from lia_adapter.errors import ConfigError, LIAError

NAMES = [factor.name for factor in FACTORS]
PLAIN = {"smile": 0.2, "eye_opening": 0.6, "hair_colour": 0.25, "hair_length": 0.2, "skin": 0.1, "background": 0.7}


def face(side: int = 64, **changes: float) -> NDArray[np.float64]:
    """One face [H, W, 3] in 0 .. 255."""
    values = dict.fromkeys(NAMES, 0.0) | PLAIN | changes
    drawn: NDArray[np.float64] = draw(np.array([[values[name] for name in NAMES]], np.float32), (side, side))[0].astype(float)
    return drawn


def changed(name: str, low: float, high: float) -> NDArray[np.float64]:
    """How much each pixel [64, 64] changes with one factor."""
    difference: NDArray[np.float64] = np.abs(face(64, **{name: high}) - face(64, **{name: low})).max(axis=2)
    return difference


def test_a_seed_is_a_face_whatever_is_drawn_with_it() -> None:
    many = draw(sample_factors(range(40)), (32, 32))
    np.testing.assert_array_equal(draw(sample_factors([7, 31]), (32, 32)), many[[7, 31]])
    assert len(np.unique(many.reshape(40, -1), axis=0)) == 40


def test_factors_are_uniform_independent_and_in_range() -> None:
    values = sample_factors(range(20_000))
    for i, factor in enumerate(FACTORS):
        assert values[:, i].min() >= factor.low and values[:, i].max() <= factor.high
        scaled = (values[:, i] - factor.low) / (factor.high - factor.low)
        if factor.binary:
            assert set(scaled) == {0.0, 1.0} and scaled.mean() == pytest.approx(0.5, abs=0.02)
        else:
            np.testing.assert_allclose(np.quantile(scaled, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.015)
    correlations = np.corrcoef(values.T) - np.eye(len(FACTORS))
    assert np.abs(correlations).max() < 0.03


@pytest.mark.parametrize("factor", FACTORS, ids=NAMES)
def test_each_factor_can_be_seen_at_the_smallest_size(factor: Factor) -> None:
    name, low, high = factor.name, factor.low, factor.high
    high = 0.5 if name == "background" else high  # it is a circle
    assert np.abs(face(32, **{name: high}) - face(32, **{name: low})).max() > 40
    if name != "glasses":  # ... and little by little
        steps = [face(32, **{name: value}) for value in np.linspace(low, high, 41)]
        assert max(np.abs(a - b).mean() for a, b in zip(steps, steps[1:], strict=False)) < 6


def test_factors_change_their_own_part_of_the_face() -> None:
    rows = np.arange(64)[:, None] + np.zeros([64, 64])
    for name, low, high, top, bottom in (
        ("smile", -1, 1, 40, 58), ("mouth_opening", 0, 1, 40, 60), ("eye_opening", 0, 1, 20, 38), ("glasses", 0, 1, 24, 40),
    ):  # fmt: skip
        where = rows[changed(name, low, high) > 8]
        assert top <= where.min() and where.max() <= bottom, (name, where.min(), where.max())
    corner = np.s_[:6, :6]
    for name in NAMES:
        if name != "background":
            factor = FACTORS[NAMES.index(name)]
            assert changed(name, factor.low, factor.high)[corner].max() < 1, name
    assert changed("background", 0, 0.5)[corner].min() > 20


def test_directions_of_factors() -> None:
    def dark(image: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where the eyes' pupils and the lashes are: columns, weighted by darkness, in the rows of the eyes."""
        weight: NDArray[np.float64] = (255 - image[26:38].mean(axis=2)).clip(100) - 100
        return weight

    columns = np.arange(64)
    places = [np.average(columns, weights=dark(face(turn=turn, hair_colour=1.0)).sum(axis=0)) for turn in (-1.0, 0.0, 1.0)]
    assert places[0] < places[1] - 3 < places[1] + 3 < places[2]
    left, right = face(light=-1)[:, :32].mean(), face(light=1)[:, :32].mean()
    assert left > right + 2
    assert face(skin=0)[38:42, 28:36].mean() > face(skin=1)[38:42, 28:36].mean() + 80
    lean = face(tilt=1) - face(tilt=-1)
    assert np.abs(lean - -lean[:, ::-1]).mean() < np.abs(lean).mean()  # left and right in turn
    below = np.s_[46:54]
    assert changed("hair_length", 0.2, 1)[below].mean() > 10 * changed("smile", 0.2, 0.21)[below].mean()


def test_sizes_show_the_same_face() -> None:
    large = draw(sample_factors(range(8)), (256, 256)).astype(float)
    small = draw(sample_factors(range(8)), (32, 32)).astype(float)
    averaged = large.reshape(8, 32, 8, 32, 8, 3).mean(axis=(2, 4))
    assert np.abs(averaged - small).mean() < 4


def test_an_oblong_image_has_the_face_in_its_middle() -> None:
    factors = sample_factors(range(4))
    square, wide = draw(factors, (32, 32)), draw(factors, (32, 48))
    np.testing.assert_array_equal(wide[:, :, 8:40], square)
    assert draw(factors, (48, 32)).shape == (4, 48, 32, 3)


def test_as_a_data_set() -> None:
    images = open_images("toyfaces:100", (32, 48), 3, split="last 10", c_dim=2)
    assert len(images) == 10 and images.names[0] == "00000090.png" and images.unreadable == {}
    item = images.load(3)
    assert item is not None and item.x.shape == (3, 32, 48)
    expected = draw(sample_factors([93]), (32, 48))[0]
    torch.testing.assert_close((item.x * 127.5 + 127.5).permute(1, 2, 0), torch.from_numpy(expected).float(), atol=0.01, rtol=0)
    labels = images.labels(range(10))
    assert labels is not None
    np.testing.assert_array_equal(labels[:, 1].numpy(), sample_factors(range(90, 100))[:, NAMES.index("glasses")])
    x, c = Stream(images, seed=0).batch(range(8))
    assert x.shape == (8, 3, 32, 48) and c is not None and c.shape == (8, 2)
    gray = open_images("toyfaces", (16, 16), 1)
    first = gray.load(0)
    assert len(gray) == 100_000 and first is not None and first.x.shape == (1, 16, 16)
    assert gray.identity() != images.identity() == open_images("toyfaces:100", (32, 48), 3, split="last 10", c_dim=2).identity()


def test_what_is_no_toy_face(tmp_path: Path) -> None:
    with pytest.raises(LIAError, match="expected c_dim 0 or 2"):
        open_images("toyfaces", (32, 32), 3, c_dim=5)
    with pytest.raises(ConfigError, match="more images than toyfaces:10 holds"):
        open_images("toyfaces:10", (32, 32), 3, split="first 11")
    (tmp_path / "toyfaces").mkdir()
    with pytest.raises(LIAError, match="holds no images"):
        open_images(tmp_path / "toyfaces", (32, 32), 3)
