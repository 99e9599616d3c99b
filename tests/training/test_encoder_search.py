"""What a search gains on an encoder's codes, against optima that are known in closed form."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lia_adapter.data import ImageSet, open_images
from lia_adapter.generators import wrap
from lia_adapter.inversion import ReconstructionLoss
from lia_adapter.lia import LIA
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.pictures import image_grid, save_png
from lia_adapter.reports.encoder import encoder_verdict
from lia_adapter.training.encoder_search import search_figures, search_from_codes

DIM, SIZE = 8, (6, 8)
VALUES = 3 * SIZE[0] * SIZE[1]


class Affine(nn.Module):
    """x = y @ drawing + 0.1: what it can draw is a plane, and the best code of an image a projection."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.style = nn.Linear(DIM, DIM)
        self.drawing = nn.Parameter(0.12 * torch.randn(DIM, VALUES, generator=random))
        with torch.no_grad():
            self.style.weight.copy_(torch.eye(DIM) + 0.3 * torch.randn(DIM, DIM, generator=random))

    def draw(self, y: Tensor) -> Tensor:
        return (y @ self.drawing + 0.1).reshape(-1, 3, *SIZE)


class Finds(nn.Module):
    """An encoder that is exact (a projection), or says the same of all images."""

    def __init__(self, generator: Affine, exact: bool) -> None:
        super().__init__()
        self.inverse, self.exact = torch.linalg.pinv(generator.drawing.detach()), exact

    def forward(self, x: Tensor) -> Tensor:
        found = (x.flatten(1) - 0.1) @ self.inverse
        return found if self.exact else torch.zeros_like(found)


@pytest.fixture
def affine() -> Iterator[Affine]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield Affine().requires_grad_(False)


def lia_of(affine: Affine, *, exact: bool) -> LIA:
    encoder: Any = Finds(affine, exact)
    generator = wrap(affine, mapping="style", synthesis="draw")
    return LIA(generator, InvertibleMapping("affine", DIM), encoder=encoder).eval().requires_grad_(False)


def images_of(affine: Affine, folder: Path, noise: float, n: int = 50) -> ImageSet:
    """Pictures that it draws, with so much that it cannot."""
    folder.mkdir()
    random = torch.Generator().manual_seed(1)
    y = affine.style(torch.randn(n, DIM, generator=random))
    x = affine.draw(y) + noise * torch.randn(n, 3, *SIZE, generator=random)
    for i, one in enumerate(x.split(1)):
        save_png(folder / f"{i:03d}.png", image_grid(one))
    return open_images(folder, SIZE, 3)


def residual(affine: Affine, images: ImageSet) -> float:
    """The least mean squared error that any code has, by least squares."""
    x = torch.stack([item.x.double().flatten() for item in map(images.load, range(len(images))) if item is not None]) - 0.1
    a = affine.drawing.double().T
    return float((x.T - a @ torch.linalg.lstsq(a, x.T).solution).square().mean())


def verdict(search: dict[str, Any], kind: str = "held-out") -> str:
    return encoder_verdict({"search": search, "real_images": {"kind": kind, "held_out": 100}})


@pytest.mark.parametrize("noise", [0.0, 0.15])
def test_of_an_exact_encoder_the_search_gains_nothing(affine: Affine, tmp_path: Path, noise: float) -> None:
    """What is left is the generator's: the residual of least squares."""
    images = images_of(affine, tmp_path / "d", noise)
    found = search_from_codes(lia_of(affine, exact=True), images, 50, ReconstructionLoss())
    assert found is not None
    figures, picture = found
    assert figures["found"] == pytest.approx(residual(affine, images), rel=1e-3, abs=1e-9)
    assert figures["gain"] < 1e-6 and figures["share"] < 1e-3
    assert "gains nothing that 50 held-out" in verdict(figures) or "gains less on 50 held-out" in verdict(figures)
    assert picture.size == (8 * SIZE[1], 2 * 3 * SIZE[0])  # 16 images, in three rows each


@pytest.mark.parametrize("noise", [0.0, 0.15])
def test_of_a_blind_encoder_the_search_gains_all_that_can_be(affine: Affine, tmp_path: Path, noise: float) -> None:
    images = images_of(affine, tmp_path / "d", noise)
    found = search_from_codes(lia_of(affine, exact=False), images, 50, ReconstructionLoss())
    assert found is not None
    figures, left = found[0], residual(affine, images)
    x = torch.stack([item.x for item in map(images.load, range(50)) if item is not None])
    assert figures["encoder"] == pytest.approx(float((x - 0.1).square().mean()), rel=1e-4)
    assert left - 1e-7 <= figures["found"] < left + 0.01 * figures["encoder"]
    low, high = figures["share_interval"]
    assert low <= figures["share"] <= high
    assert figures["share"] == pytest.approx(1 - left / figures["encoder"], abs=0.011)
    assert figures["mse"] == pytest.approx({"encoder": figures["encoder"], "found": figures["found"]}, rel=1e-4)
    assert f"{figures['share']:.0%} (" in verdict(figures) and "is the encoder's, or more" in verdict(figures)


def test_rounding_is_what_rounding_costs(affine: Affine, tmp_path: Path) -> None:
    figures, _ = search_from_codes(  # type: ignore[misc]
        lia_of(affine, exact=True), images_of(affine, tmp_path / "d", 0.0), 50, ReconstructionLoss(), steps=2
    )
    assert figures["rounding"] == pytest.approx((2 / 255) ** 2 / 12, rel=0.05)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Gains of 0.01 in the mean, of 50 images whose errors differ far more: the pairing tells; 95 % to three deviations."""
    random = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(400):
        before = 0.05 + torch.rand(50, generator=random, dtype=torch.float64)
        gain = 0.01 + 0.005 * torch.randn(50, generator=random, dtype=torch.float64)
        low, high = search_figures(before, before - gain)["gain_interval"]
        held += low <= 0.01 <= high
        assert high - low < 0.01
    assert 0.95 - 3 * 0.011 < held / 400 < 0.95 + 3 * 0.011


def test_words_claim_what_the_figures_show() -> None:
    def words(gains: Tensor, **changes: Any) -> str:
        before = torch.full([len(gains)], 0.037)
        more = {"steps": 100, "space": "y", "measure": "mean squared error", "rounding": 5e-6}
        return verdict(search_figures(before, before - gains) | more | changes)

    spread = torch.linspace(-1, 1, 50)[torch.randperm(50, generator=torch.Generator().manual_seed(0))]
    clear = words(0.013 + 0.001 * spread)
    assert "of 50 held-out images 0.037 -> 0.024 (0.0128 to 0.0132 less, 95 %): 35% (" in clear
    assert "the rest, 0.024, no y that the search found draws better" in clear
    assert "gains nothing that 50 held-out images show" in words(0.01 * spread)
    assert "gains less on 50 held-out images than values rounded to 8 bits" in words(torch.full([50], 1e-6))
    assert "too few images to tell" in words(torch.full([2], 0.01))
    assert "changes the loss of" in words(0.013 + 0.001 * spread, measure="loss")
    assert "no real image could be read" in encoder_verdict({"search": None})


def test_images_that_cannot_be_read(affine: Affine, tmp_path: Path) -> None:
    images = images_of(affine, tmp_path / "d", 0.0, 4)
    for i in range(4):
        (tmp_path / "d" / f"{i:03d}.png").write_bytes(b"broken")
    assert search_from_codes(lia_of(affine, exact=True), images, 4, ReconstructionLoss()) is None
