"""ProGAN's sliced Wasserstein distance: the pyramid against plain loops, the distance against closed forms."""

import math

import pytest
import torch
from torch import Tensor

from lia_adapter.errors import LIAError
from lia_adapter.metrics import swd
from lia_adapter.metrics.swd import image_swd


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(
    ("size", "names"),
    [
        ((64, 64), ["64", "32", "16"]),
        ((96, 128), ["96", "48", "24"]),
        ((33, 31), ["31", "16"]),
        ((8, 40), ["8"]),
        ((30, 30), ["30"]),
    ],
)
def test_levels_go_down_to_16_pixels_and_equal_sets_are_at_distance_0(size: tuple[int, int], names: list[str]) -> None:
    found = image_swd(images(3, 3, *size), images(3, 3, *size))
    assert list(found) == [*names, "mean"]
    assert set(found.values()) == {0.0}


def slow_blur(x: list[list[float]], gain: float = 1.0) -> list[list[float]]:
    weights, height, width = [1, 4, 6, 4, 1], len(x), len(x[0])

    def mirror(i: int, size: int) -> int:
        i = abs(i)
        return 2 * (size - 1) - i if i >= size else i

    return [
        [
            gain
            * sum(
                weights[k] * weights[m] * x[mirror(i + k - 2, height)][mirror(j + m - 2, width)]
                for k in range(5)
                for m in range(5)
            )
            / 256
            for j in range(width)
        ]
        for i in range(height)
    ]


@pytest.mark.parametrize("size", [(32, 34), (33, 31)])
def test_the_pyramid_is_that_of_plain_loops(size: tuple[int, int]) -> None:
    x = images(1, 1, *size).double()
    fine, coarse = swd._laplacian_pyramid(x)
    rows = x[0, 0].tolist()
    smooth = slow_blur(rows)
    small = [row[::2] for row in smooth[::2]]
    torch.testing.assert_close(coarse[0, 0], torch.tensor(small, dtype=torch.float64))
    spread = [[small[i // 2][j // 2] if i % 2 == j % 2 == 0 else 0.0 for j in range(size[1])] for i in range(size[0])]
    up = slow_blur(spread, gain=4)
    torch.testing.assert_close(fine[0, 0], x[0, 0] - torch.tensor(up, dtype=torch.float64))


def test_patches_are_squares_of_the_image_and_lie_everywhere() -> None:
    height, width = 12, 20
    x = torch.arange(height * width, dtype=torch.float32).reshape(1, 1, height, width).repeat(40, 2, 1, 1)
    x[:, 1] += 1000
    patches = swd._cut(x, torch.Generator().manual_seed(0)).reshape(-1, 2, 7, 7)
    assert len(patches) == 40 * 128
    corners = patches[:, 0, 0, 0].long()
    for patch, corner in zip(patches[:200], corners.tolist(), strict=False):
        row, column = divmod(corner, width)
        assert torch.equal(patch, x[0, :, row : row + 7, column : column + 7])
    count = torch.bincount(corners, minlength=height * width).reshape(height, width)[:6, :14]
    assert count.sum() == len(patches)  # none beyond the last place, and every place about as often
    assert count.min() > 0.4 * count.double().mean() and count.max() < 1.9 * count.double().mean()


def test_the_distance_of_sets_on_one_line() -> None:
    # Images of 7x7 are their own only patch. All are multiples of one pattern, so that a projection onto a direction d is
    # s (v·d), and the mean of |v·d| over the sphere is |v| Γ(D/2) / (√π Γ((D+1)/2)).
    n = 60
    v = images(1, 1, 7, 7).double()
    v = v - v.mean()
    s_a, s_b = (
        torch.randn(n, 1, 1, 1, generator=torch.Generator().manual_seed(1)),
        torch.linspace(-1, 1, n).reshape(-1, 1, 1, 1),
    )
    size = v.square().mean().sqrt()
    unit_a, unit_b = (s.double() / s.double().square().mean().sqrt() for s in (s_a, s_b))
    gap = (unit_a.flatten().sort().values - unit_b.flatten().sort().values).abs().mean()
    spread = math.exp(math.lgamma(24.5) - math.lgamma(25)) / math.sqrt(math.pi)
    expected = 1000 * float(gap) * float(v.norm() / size) * spread
    found = image_swd((s_a * v).float(), (s_b * v).float())
    assert found["7"] == pytest.approx(expected, rel=0.12)  # of 512 directions: a standard deviation of 3 %
    assert found["mean"] == found["7"]


def test_brightness_and_contrast_of_a_channel_do_not_count() -> None:
    a = images(6, 3, 32, 32)
    b = a * torch.tensor([0.5, 1.0, 2.0])[:, None, None] + torch.tensor([0.3, 0.0, -1.0])[:, None, None]
    assert max(image_swd(a, b).values()) < 0.1
    assert image_swd(a, images(6, 3, 32, 32, seed=1))["mean"] > 1


def test_fine_structure_counts_on_the_fine_level() -> None:
    a = torch.nn.functional.interpolate(images(24, 3, 10, 10), size=64, mode="bicubic")
    floor = image_swd(a[:12], a[12:])
    found = image_swd(a[:12], a[12:] + 0.2 * images(12, 3, 64, 64, seed=1))
    excess = {level: found[level] - floor[level] for level in floor}
    assert excess["64"] > 3 * abs(excess["32"])
    assert excess["64"] > 10 * abs(excess["16"])


def test_the_size_of_the_batches_changes_nothing() -> None:
    a, b = images(12, 3, 20, 33), images(12, 3, 20, 33, seed=1).tanh()
    whole = image_swd(a, b)
    assert image_swd(a.split(5), iter(b.split(7))) == pytest.approx(whole, rel=1e-5)
    before = torch.get_rng_state()
    assert image_swd(a, b) == whole != image_swd(a, b, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ((4, 3, 16, 16), (5, 3, 16, 16), "as many images"),
        ((4, 3, 16, 16), (4, 1, 16, 16), "as many images"),
        ((4, 3, 32, 32), (4, 3, 16, 16), "as many images"),
        ((4, 3, 6, 16), (4, 3, 6, 16), "6x16"),
        ((0, 3, 16, 16), (0, 3, 16, 16), "as many images"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(a: tuple[int, ...], b: tuple[int, ...], message: str) -> None:
    with pytest.raises(LIAError, match=message):
        image_swd(torch.zeros(a), torch.zeros(b))
