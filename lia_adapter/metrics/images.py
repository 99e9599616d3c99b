"""How much two images differ, pixel by pixel: mean squared error, PSNR, SSIM."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lia_adapter.ops import upfirdn2d

__all__ = ["mse", "psnr", "pyramid_distance", "ssim"]

_RANGE = 2.0  # from black, -1, to white, 1
_WINDOW, _SIGMA = 11, 1.5
_COARSEST = 8  # side of the last level that is split
_C1, _C2 = 0.01**2, 0.03**2


def mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error on the scale of [-1, 1], over channels and positions, of values as they are.

    Args:
        a: Images [N, C, H, W].
        b: Images like a.

    Returns:
        [N].
    """
    return (a - b).square().mean(dim=(1, 2, 3))


def pyramid_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute differences of bands of Laplacian pyramids (Burt 1983; as a loss, Bojanowski 2018), added.

    Squared errors of pixels ask for the mean of what is possible, which is a blurred patch; these ask for edges.

    Args:
        a: Images [N, C, H, W].
        b: Images like a.

    Returns:
        [N]: one mean for each octave down to a side below 8, and one for what is left.
    """
    rest = a - b  # of a difference: the pyramid is linear
    total = rest.new_zeros(len(rest))
    while min(rest.shape[2:]) >= _COARSEST:
        coarse = F.avg_pool2d(rest, 2)
        band = rest - F.interpolate(coarse, size=rest.shape[2:], mode="bilinear", align_corners=False)
        total, rest = total + band.abs().mean(dim=(1, 2, 3)), coarse
    return total + rest.abs().mean(dim=(1, 2, 3))


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of images as they are shown, that is, clamped to [-1, 1].

    Args:
        a: Images [N, C, H, W].
        b: Images like a.

    Returns:
        [N], in dB, with 2 as the peak: the range of the values. Infinite for equal images.
    """
    return 10 * torch.log10(_RANGE**2 / mse(a.clamp(-1, 1), b.clamp(-1, 1)))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004, eq. 13) of images as they are shown: the mean over positions and channels.

    Each channel is compared by itself, with Gaussian windows of 11x11 and sigma 1.5 that lie wholly in the image, and with
    K of 0.01 and 0.03. In an image with a side below 11 the window is the largest odd one that fits, and sigma shrinks
    with it.

    Args:
        a: Images [N, C, H, W]; clamped to [-1, 1].
        b: Images like a.

    Returns:
        [N], at most 1, which is for equal images.
    """
    a, b = (x.clamp(-1, 1) * 0.5 + 0.5 for x in (a, b))  # the measure of brightness counts from black, which must be 0
    least = min(_WINDOW, *a.shape[2:])
    window = least - 1 + least % 2
    steps = torch.arange(window, device=a.device, dtype=a.dtype) - window // 2
    weights = torch.softmax(-(steps**2) / (2 * (_SIGMA * window / _WINDOW) ** 2), dim=0)
    mean_a, mean_b = upfirdn2d(a, weights), upfirdn2d(b, weights)
    variance_a, variance_b = upfirdn2d(a * a, weights) - mean_a**2, upfirdn2d(b * b, weights) - mean_b**2
    covariance = upfirdn2d(a * b, weights) - mean_a * mean_b
    similarity = ((2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)) / (
        (mean_a**2 + mean_b**2 + _C1) * (variance_a + variance_b + _C2)
    )
    return similarity.mean(dim=(1, 2, 3))
