"""MSE, PSNR and SSIM against values by hand and against a slow SSIM in plain loops."""

import math

import pytest
import torch
from torch import Tensor

from lia_adapter.metrics.images import mse, psnr, ssim


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def test_mse_and_psnr_by_hand() -> None:
    a = torch.zeros(2, 1, 1, 4)
    b = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]]).reshape(2, 1, 1, 4)
    assert mse(a, b).tolist() == [0.25, 0.25]
    # On bytes: 10 lg (255² / (127.5² · 0.25))
    assert psnr(a, b).tolist() == pytest.approx([10 * math.log10(255**2 / (127.5**2 * 0.25))] * 2)
    assert psnr(a, a).tolist() == [math.inf] * 2


def test_psnr_and_ssim_see_images_as_they_are_shown() -> None:
    a, b = 3 * images(2, 3, 16, 16), images(2, 3, 16, 16, seed=1)
    assert torch.equal(psnr(a, b), psnr(a.clamp(-1, 1), b))
    assert torch.equal(ssim(a, b), ssim(a.clamp(-1, 1), b))
    assert not torch.equal(mse(a, b), mse(a.clamp(-1, 1), b))


def slow_ssim(a: Tensor, b: Tensor, window: int, sigma: float) -> float:
    """Wang et al. 2004, of bytes: every window by itself, with weighted means and central moments."""
    a, b = (a + 1) * 127.5, (b + 1) * 127.5
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    half = window // 2
    weights = [[math.exp(-((i - half) ** 2 + (j - half) ** 2) / (2 * sigma**2)) for j in range(window)] for i in range(window)]
    w = torch.tensor(weights, dtype=torch.float64)
    w = w / w.sum()
    found = []
    for x, y in zip(a, b, strict=True):
        for i in range(x.shape[0] - window + 1):
            for j in range(x.shape[1] - window + 1):
                p, q = x[i : i + window, j : j + window], y[i : i + window, j : j + window]
                mean_p, mean_q = (w * p).sum(), (w * q).sum()
                var_p, var_q = (w * (p - mean_p) ** 2).sum(), (w * (q - mean_q) ** 2).sum()
                cov = (w * (p - mean_p) * (q - mean_q)).sum()
                likeness = (2 * mean_p * mean_q + c1) * (2 * cov + c2)
                found.append(float(likeness / ((mean_p**2 + mean_q**2 + c1) * (var_p + var_q + c2))))
    return sum(found) / len(found)


@pytest.mark.parametrize(
    ("size", "window"), [((16, 16), 11), ((11, 20), 11), ((8, 8), 7), ((7, 30), 7), ((10, 12), 9), ((1, 5), 1)]
)
def test_ssim_is_that_of_a_slow_one(size: tuple[int, int], window: int) -> None:
    a = images(1, 3, *size)
    b = (a + 0.3 * images(1, 3, *size, seed=1)).clamp(-1, 1)
    expected = slow_ssim(a[0], b[0], window, 1.5 * window / 11)
    assert ssim(a, b).tolist() == pytest.approx([expected], rel=1e-9)
    assert ssim(a.float(), b.float()).tolist() == pytest.approx([expected], abs=1e-5)


def test_ssim_of_each_image_is_its_own() -> None:
    a, b = images(3, 3, 16, 16), images(3, 3, 16, 16, seed=1)
    together = ssim(a, b)
    assert together.tolist() == pytest.approx([float(ssim(a[n : n + 1], b[n : n + 1])) for n in range(3)], rel=1e-12)
    assert ssim(a, a).tolist() == pytest.approx([1, 1, 1])
    assert ssim(b, a).tolist() == pytest.approx(together.tolist())
    flat = torch.zeros(1, 1, 16, 16)
    assert float(ssim(flat, flat)) == pytest.approx(1)
