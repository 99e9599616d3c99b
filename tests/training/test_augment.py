"""Augmentation: single transformations against closed forms, gradients of any order, and how its strength follows."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lia_adapter.training.augment import SYM6, Augment, adjust, recolour, transform, turn


def blob(n: int = 1, size: tuple[int, int] = (48, 40), centre: tuple[float, float] = (0.0, 0.0), width: float = 3.0) -> Tensor:
    """A Gaussian [n, 1, H, W] about a point (x, y), in pixels from the image's centre."""
    h, w = size
    y, x = torch.meshgrid(torch.arange(h) - (h - 1) / 2, torch.arange(w) - (w - 1) / 2, indexing="ij")
    image = torch.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * width**2)).double()
    return image.expand(n, 1, h, w)


def matrix(rows: list[list[float]]) -> Tensor:
    return torch.tensor([rows], dtype=torch.float64)


def rotation(angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return matrix([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def always(p: float = 1.0) -> Augment:
    augment = Augment()
    augment.p.fill_(p)
    return augment


def test_the_filter_is_an_orthogonal_wavelet_with_six_vanishing_moments() -> None:
    h, k = np.array(SYM6), np.arange(12)
    assert h.sum() == pytest.approx(math.sqrt(2), abs=1e-12)
    for shift in range(6):
        assert (h[: 12 - 2 * shift] * h[2 * shift :]).sum() == pytest.approx(float(shift == 0), abs=1e-11)
    for moment in range(6):
        assert ((-1.0) ** k * (k - 5.5) ** moment * h).sum() == pytest.approx(0, abs=1e-6)


def test_p_zero_is_the_image_itself() -> None:
    x = torch.rand(2, 3, 8, 8)
    augment = Augment()
    assert augment(x, augment.draw(2, torch.Generator())) is x


def mirrored(x: Tensor, margin: int) -> Tensor:
    """x with a margin of its mirror images, narrower than x is."""
    return torch.from_numpy(np.pad(x.numpy(), [(0, 0), (0, 0), (margin, margin), (margin, margin)], mode="symmetric"))


def test_images_flip_and_turn_exactly() -> None:
    x = torch.randn(8, 3, 6, 6)
    flip, turns = torch.arange(8) >= 4, torch.arange(8) % 4
    expected = [(image.flip(2) if k >= 4 else image).rot90(k % 4, (1, 2)) for k, image in enumerate(x)]
    assert torch.equal(turn(x, flip, turns), torch.stack(expected))


def test_an_oblong_image_makes_half_turns_alone() -> None:
    x = torch.randn(4, 1, 5, 8)
    turned = turn(x, torch.zeros(4, dtype=torch.bool), torch.arange(4))
    assert torch.equal(turned, torch.cat([x[:2], x[2:].flip(2, 3)]))


def test_whole_pixels_move_without_loss_and_edges_mirror() -> None:
    x = torch.randn(2, 3, 16, 20, dtype=torch.float64)
    still = transform(x, matrix([[1, 0, 0], [0, 1, 0], [0, 0, 1]]).expand(2, 3, 3))
    torch.testing.assert_close(still, x, atol=1e-5, rtol=0)
    moved = transform(x, matrix([[1, 0, 3], [0, 1, -2], [0, 0, 1]]).expand(2, 3, 3))
    torch.testing.assert_close(moved, mirrored(x, 3)[:, :, 5:21, :20], atol=1e-5, rtol=0)


def test_images_far_away_are_mirrored_again_and_again() -> None:
    x = blob(size=(32, 24), centre=(2.0, 1.0), width=2.5)
    torch.testing.assert_close(transform(x, matrix([[1, 0, 48], [0, 1, -64], [0, 0, 1]])), x, atol=0.02, rtol=0)
    turned = transform(x, matrix([[1, 0, 72], [0, 1, 96], [0, 0, 1]]))
    torch.testing.assert_close(turned, x.flip(2, 3), atol=0.02, rtol=0)


@pytest.mark.parametrize("angle", [0.3, 2.0])
def test_a_batch_pads_as_much_as_it_needs(angle: float) -> None:
    """More surroundings than that change nothing."""
    x, change = (
        torch.randn(1, 1, 24, 28, dtype=torch.float64),
        rotation(angle) @ matrix([[1, 0, 3.3], [0, 1, 2.6], [0, 0, 1]]),
    )
    torch.testing.assert_close(transform(x, change), transform(mirrored(x, 24), change)[:, :, 24:-24, 24:-24])


@pytest.mark.parametrize(
    ("change", "place", "width"),
    [
        (matrix([[1, 0, 2.5], [0, 1, -1.25], [0, 0, 1]]), (6.5, 2.75), 3.0),  # a fraction of a pixel
        (matrix([[-1, 0, 0], [0, 1, 0], [0, 0, 1]]), (-4.0, 4.0), 3.0),  # a flip
        (rotation(math.pi / 2), (-4.0, 4.0), 3.0),
        (rotation(0.3), (4 * math.cos(0.3) - 4 * math.sin(0.3), 4 * math.sin(0.3) + 4 * math.cos(0.3)), 3.0),
        (matrix([[1.4, 0, 0], [0, 1.4, 0], [0, 0, 1]]), (5.6, 5.6), 4.2),
    ],
)
def test_a_blob_goes_where_the_matrix_says(change: Tensor, place: tuple[float, float], width: float) -> None:
    moved = transform(blob(centre=(4.0, 4.0)), change)
    torch.testing.assert_close(moved, blob(centre=place, width=width), atol=0.02, rtol=0)


def test_colours() -> None:
    x = torch.rand(1, 3, 4, 5, dtype=torch.float64)
    change = matrix([[2, 0, 0, 0.5], [0, 1, 0, 0], [0, 1, 0, -1], [0, 0, 0, 1]])
    found = recolour(x, change)
    expected = torch.stack([2 * x[:, 0] + 0.5, x[:, 1], x[:, 1] - 1], dim=1)
    torch.testing.assert_close(found, expected)
    gray = recolour(x[:, :1], change)
    torch.testing.assert_close(gray, recolour(x[:, :1].expand(-1, 3, -1, -1), change).mean(dim=1, keepdim=True))
    assert recolour(x[:, :2], change) is not None and torch.equal(recolour(x[:, :2], change), x[:, :2])


def maps(augment: Augment, n: int = 4000) -> tuple[Tensor, Tensor]:
    """The movements [n, 3, 3] and colour maps [n, 4, 4] that a pipeline draws for images of 32 x 64 pixels."""
    gates, uniform, normal = augment.draw(n, torch.Generator().manual_seed(0)).double().split([13, 8, 7], dim=1)
    p = float(augment.p)
    return augment._movement(gates, uniform, normal, p, (32, 64)), augment._colours(gates, uniform, normal, p)


def test_movements_have_the_papers_distributions() -> None:
    moves, _ = maps(always())
    linear = moves[:, :2, :2]
    area = torch.linalg.det(linear)
    # Isotropic scaling: a deviation of 0.2 octaves along each axis. Anisotropic: as much, apart, at the same area.
    assert float(area.log2().std()) == pytest.approx(2 * 0.2, rel=0.05)
    spread = torch.linalg.svdvals(linear).log2().diff(dim=1).abs()
    assert float(spread.mean()) == pytest.approx(2 * 0.2 * math.sqrt(2 / math.pi), rel=0.05)
    # The last, fractional translation is normal; whole pixels, uniform up to 1/8 of each side, come before scale and turns.
    # Both together, in expectation over isotropic scales, anisotropic ones and turns of any angle:
    growth = math.exp(2 * (0.2 * math.log(2)) ** 2) ** 2
    whole = 0.125**2 / 3 * (32**2 + 64**2) / 2 * growth
    for axis, side in ((0, 64), (1, 32)):
        assert float(moves[:, axis, 2].var()) == pytest.approx((0.125 * side) ** 2 + whole, rel=0.1)


def test_colours_have_the_papers_distributions() -> None:
    _, colours = maps(always())
    linear, offset = colours[:, :3, :3], colours[:, :3, 3]
    luma = torch.ones(3, dtype=torch.float64) / 3**0.5
    along = torch.einsum("i,nij,j->n", luma, linear, luma)
    assert float((along < 0).double().mean()) == pytest.approx(0.5, abs=0.03)  # luma flips
    assert float(along.abs().log2().std()) == pytest.approx(0.5, rel=0.05)  # contrast
    across = torch.linalg.det(linear).abs() / along.abs()
    assert float((across.log2() / 2).std()) == pytest.approx(math.hypot(0.5, 1), rel=0.05)  # contrast and saturation
    # Brightness comes first: what follows scales it with the luma.
    assert float((offset.mean(dim=1) / along).std()) == pytest.approx(0.2, rel=0.05)
    # The hue turns what is not gray by any angle.
    red = torch.tensor([2.0, -1, -1], dtype=torch.float64) / 6**0.5
    cosine = (linear @ red @ red) / (linear @ red).norm(dim=1)
    assert float(cosine.mean()) == pytest.approx(0, abs=0.04)
    assert float(cosine.square().mean()) == pytest.approx(0.5, abs=0.03)
    torch.testing.assert_close(linear @ luma, along[:, None] * luma)  # gray stays gray


def test_each_transformation_comes_with_probability_p() -> None:
    moves, colours = maps(always(0.3))
    # Straight is what neither of the two rotations turned; together they come with p.
    assert float((moves[:, 0, 1].abs() < 1e-9).double().mean()) == pytest.approx(0.7, abs=0.03)
    # Whole pixels or fractions; of whole ones, a draw in 16 rounds to none (32 x 1/8 = 4, less than a half of it is 0).
    moved = 1 - 0.7 * (1 - 0.3 * (1 - (0.5 / 4) * (0.5 / 8)))
    assert float((moves[:, :2, 2].abs().sum(dim=1) > 1e-9).double().mean()) == pytest.approx(moved, abs=0.03)
    assert float((colours[:, :3, 3].abs().sum(dim=1) > 0).double().mean()) == pytest.approx(0.3, abs=0.03)


def test_most_images_are_left_alone_when_p_is_small() -> None:
    x, augment = torch.rand(2000, 3, 8, 8), always(0.01)
    changed = augment(x, augment.draw(2000, torch.Generator().manual_seed(0)))
    same = ((changed - x).abs() < 1e-4).flatten(1).all(dim=1).double().mean()
    # Eleven ways to change: flips come at half of p, and of four turns one is none.
    assert float(same) == pytest.approx(1 - 0.01 * 11, abs=0.02)


def test_an_image_is_changed_by_its_own_row_alone() -> None:
    augment, x = always(0.7), torch.rand(6, 3, 16, 12, dtype=torch.float64)
    draws = augment.draw(6, torch.Generator().manual_seed(3))
    whole = augment(x, draws)
    assert whole.shape == x.shape
    torch.testing.assert_close(augment(x[[4, 1]], draws[[4, 1]]), whole[[4, 1]], atol=1e-10, rtol=0)


def test_gradients_of_any_order() -> None:
    augment = always()
    draws = augment.draw(2, torch.Generator().manual_seed(1))
    x = torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)

    def square(x: Tensor) -> Tensor:
        changed: Tensor = augment(x, draws)
        return changed.square()

    assert torch.autograd.gradcheck(square, x)
    assert torch.autograd.gradgradcheck(square, x)


def test_p_follows_how_sure_the_discriminator_is() -> None:
    assert adjust(0.5, 0.9, 1000, target=0.6) == pytest.approx(0.502)
    assert adjust(0.5, 0.3, 1000, target=0.6) == pytest.approx(0.498)
    assert adjust(0.0, 0.3, 1000, target=0.6) == 0 and adjust(1.0, 0.9, 1000, target=0.6) == 1
