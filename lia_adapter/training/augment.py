"""Adaptive discriminator augmentation, to learn from few images (Karras et al. 2020, "Training GANs with limited data").

Each image is moved and recoloured at random before the discriminator sees it, each way with probability p; p follows from how
sure the discriminator is of its training images. All is differentiable with respect to the image, to any order.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lia_adapter.ops import setup_filter, upfirdn2d

__all__ = ["SYM6", "Augment", "adjust", "recolour", "transform", "turn"]

SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
"""Low-pass filter of the most symmetric orthogonal wavelet with 6 vanishing moments (Daubechies 1992, tab. 6.3)."""

_REACH = len(SYM6) // 2  # samples to either side that the filter sees
_LAG = sum(k * tap for k, tap in enumerate(SYM6)) / sum(SYM6) - (_REACH - 1)  # of the filter's centre behind its sixth tap
_GATES, _UNIFORM, _NORMAL = 13, 8, 7  # columns of a table of draws
_SHIFT, _SCALE = 0.125, 0.2 * math.log(2)  # standard deviations, or ranges, of the paper's app. B
_CONTRAST, _SATURATION, _BRIGHTNESS = 0.5 * math.log(2), math.log(2), 0.2
_HORIZON = 500_000  # images in which p goes from 0 to 1 at its fastest (sec. 3.1)


class Augment(nn.Module):
    """The paper's best pipeline, "bgc": pixel blitting, general geometric and colour transformations (app. B).

    Its `p`, the probability of each transformation, is 0 at first; then images pass as they are.
    """

    p: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("p", torch.zeros([]))

    def draw(self, n: int, random: torch.Generator) -> Tensor:
        """All that chance decides for n images, a row each, on the generator's device."""
        uniform = torch.rand(n, _GATES + _UNIFORM, generator=random, device=random.device)
        return torch.cat([uniform, torch.randn(n, _NORMAL, generator=random, device=random.device)], dim=1)

    def forward(self, x: Tensor, draws: Tensor) -> Tensor:
        """Transforms images.

        Args:
            x: [N, C, H, W] in [-1, 1]; colours change where C is 1 or 3.
            draws: N rows from `draw`.
        """
        p = float(self.p)
        if p == 0:
            return x
        gates, uniform, normal = draws.to(x).split([_GATES, _UNIFORM, _NORMAL], dim=1)
        flip = (gates[:, 0] < p) & (uniform[:, 0] < 0.5)
        turns = torch.where(gates[:, 1] < p, (uniform[:, 1] * 4).floor(), 0.0).long()
        moved = transform(turn(x, flip, turns), self._movement(gates, uniform, normal, p, x.shape[2:]))
        return recolour(moved, self._colours(gates, uniform, normal, p))

    def _movement(self, gates: Tensor, uniform: Tensor, normal: Tensor, p: float, size: Sequence[int]) -> Tensor:
        """Where pixels of each image go once it is flipped and turned, in pixels from the centre, [N, 3, 3]."""
        h, w = size
        on = gates < p
        turned = gates < 1 - (1 - p) ** 0.5  # twice, so that one or both happen with p
        u, scales = uniform.T, (normal * _SCALE).exp()
        steps = [
            _shifted(*(torch.where(on[:, 2], ((2 * u[i] - 1) * _SHIFT * side).round(), 0.0) for i, side in ((2, w), (3, h)))),
            _scaled(*[torch.where(on[:, 3], scales[:, 0], 1.0)] * 2),
            _rotated(torch.where(turned[:, 4], (2 * u[4] - 1) * math.pi, 0.0)),
            _scaled(torch.where(on[:, 5], scales[:, 1], 1.0), torch.where(on[:, 5], 1 / scales[:, 1], 1.0)),
            _rotated(torch.where(turned[:, 6], (2 * u[5] - 1) * math.pi, 0.0)),
            _shifted(*(torch.where(on[:, 7], normal[:, i] * _SHIFT * side, 0.0) for i, side in ((2, w), (3, h)))),
        ]
        return _composed(steps)

    def _colours(self, gates: Tensor, uniform: Tensor, normal: Tensor, p: float) -> Tensor:
        """The affine map of each image's colours, [N, 4, 4]."""
        on, u = gates[:, 8:] < p, uniform.T
        eye = torch.eye(4).to(normal)
        luma = torch.tensor([1.0, 1, 1, 0]).to(normal) / 3**0.5
        gray = torch.outer(luma, luma)
        shift = torch.where(on[:, 0], normal[:, 4] * _BRIGHTNESS, 0.0)
        contrast = torch.where(on[:, 1], (normal[:, 5] * _CONTRAST).exp(), 1.0)
        flip = torch.where(on[:, 2] & (u[6] < 0.5), 2.0, 0.0).to(u)
        hue = torch.where(on[:, 3], (2 * u[7] - 1) * math.pi, 0.0)
        saturation = torch.where(on[:, 4], (normal[:, 6] * _SATURATION).exp(), 1.0)
        rgb = torch.tensor([1.0, 1, 1, 0]).to(normal).diag()
        steps = [
            _matrix([[1.0, 0.0, 0.0, shift], [0.0, 1.0, 0.0, shift], [0.0, 0.0, 1.0, shift], [0.0, 0.0, 0.0, 1.0]], shift),
            eye + (contrast[:, None, None] - 1) * rgb,
            eye - flip[:, None, None] * gray,
            _about_luma(hue),
            eye + (saturation[:, None, None] - 1) * (rgb - gray),
        ]
        return _composed(steps)


def turn(x: Tensor, flip: Tensor, turns: Tensor) -> Tensor:
    """Flips images, then turns them by quarters, without loss.

    It is not left to `transform`, whose filter is not symmetric and would soften an image that is flipped.

    Args:
        x: [N, C, H, W].
        flip: Which images to flip from left to right, bool [N].
        turns: Quarters counterclockwise, 0 to 3, [N]; of images that are not square, only half turns are made.

    Returns:
        [N, C, H, W].
    """
    flip, turns = flip[:, None, None, None], turns[:, None, None, None]
    x = torch.where(flip, x.flip(3), x)
    if x.shape[2] == x.shape[3]:
        x = torch.where(turns % 2 == 1, x.rot90(dims=(2, 3)), x)
    return torch.where(turns >= 2, x.flip(2, 3), x)


def transform(x: Tensor, matrix: Tensor) -> Tensor:
    """Moves the pixels of images; beyond the edges they are mirrored.

    Sampled at twice the resolution, between low-pass filters that change nothing when an image stays or moves by whole pixels
    (app. B).

    Args:
        x: [N, C, H, W].
        matrix: Homogeneous, in pixels from the centre, x to the right and y down, [N, 3, 3].

    Returns:
        [N, C, H, W].
    """
    h, w = x.shape[2:]
    f = setup_filter(list(SYM6)).to(x.device)
    size, centre = torch.tensor([w, h]).to(x), torch.tensor([w - 1, h - 1]).to(x) / 2
    # Where each sample of the result at twice the resolution comes from, in pixels, with a margin for the filter behind.
    # Sample 2 i of an upsampled image is the filter's sixth tap on pixel i: what that shows lies _LAG samples further.
    columns, rows = (torch.arange(-_REACH, 2 * side + _REACH).to(x) for side in (w, h))
    there = (torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1) - _LAG) / 2 - centre
    back = torch.linalg.inv(matrix.to(x))[:, None]
    here = there @ back[..., :2, :2].mT + back[..., None, :2, 2]  # from the centre as well, [N, 2 H + 12, 2 W + 12, 2]
    # As much of the mirrored surroundings as is seen, but not much more than half an image on each side: few see further.
    seen = (here.abs().amax(dim=(0, 1, 2)) - centre).ceil().long() + 1
    mx, my = (min(max(m, 0), side // 2 + _REACH) for m, side in zip(seen.tolist(), (w, h), strict=True))
    wide = _mirrored(x, my + _REACH, mx + _REACH)
    fine = upfirdn2d(wide, f, up=2, padding=[-_REACH, -_REACH - 1] * 2, gain=4)  # [N, C, 2 (H + 2 my), 2 (W + 2 mx)]
    # What lies further off is looked up where it is mirrored to: a little softer, as the filter is not symmetric.
    margin = torch.tensor([mx, my]).to(x)
    folded = size / 2 - ((here + size / 2) % (2 * size) - size).abs()
    here = torch.where(here.abs() > size / 2 + margin, folded, here)
    grid = (2 * (2 * (here + centre + margin) + _LAG) + 1) / (2 * (size + 2 * margin)) - 1  # as grid_sample counts: -1 to 1
    smooth: Tensor = upfirdn2d(_Sampled.apply(fine, grid), f, down=2, padding=-1, flip_filter=True)
    return smooth


def recolour(x: Tensor, matrix: Tensor) -> Tensor:
    """Changes the colours of images.

    Args:
        x: [N, C, H, W]; other than 1 or 3 channels are left alone.
        matrix: Homogeneous, of the values in [-1, 1], [N, 4, 4].

    Returns:
        [N, C, H, W]; a gray image changes as the mean of its three equal colours does.
    """
    if x.shape[1] == 3:
        return torch.einsum("nij,njhw->nihw", matrix[:, :3, :3], x) + matrix[:, :3, 3, None, None]
    if x.shape[1] == 1:
        mean = matrix[:, :3].mean(dim=1)  # [N, 4]
        return x * mean[:, :3].sum(dim=1)[:, None, None, None] + mean[:, 3, None, None, None]
    return x


def adjust(p: float, sign: float, images: int, *, target: float) -> float:
    """The next probability of augmentation (sec. 3.1).

    Args:
        p: Now.
        sign: Mean sign of D's logits on real images since the last change: near 1 when it knows them by heart.
        images: Real images seen since then.
        target: The sign that is asked for.

    Returns:
        p, a little larger or smaller, in [0, 1].
    """
    step = images / _HORIZON
    return min(max(p + (step if sign > target else -step), 0.0), 1.0)


class _Sampled(torch.autograd.Function):
    """Bilinear samples of x; linear in x, so that its gradient is its adjoint, whose gradient is itself again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = x.shape
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _SampledAdjoint.apply(dy, grid, ctx.shape), None


class _SampledAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dy: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        bilinear, border = 0, 1  # as grid_sample numbers them
        dx: Tensor = torch.ops.aten.grid_sampler_2d_backward(
            dy.contiguous(), dy.new_empty(shape), grid, bilinear, border, False, [True, False]
        )[0]
        return dx

    @staticmethod
    def backward(ctx: Any, ddx: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return _Sampled.apply(ddx, grid), None, None


def _mirrored(x: Tensor, *margins: int) -> Tensor:
    """x [N, C, H, W] with so many rows more above and below, and columns left and right, as often mirrored as it takes."""
    for dim, margin in zip((2, 3), margins, strict=True):
        side = x.shape[dim]
        there = torch.arange(-margin, side + margin, device=x.device) % (2 * side)
        x = x.index_select(dim, torch.minimum(there, 2 * side - 1 - there))
    return x


def _composed(steps: Sequence[Tensor]) -> Tensor:
    """The product of matrices, the first one applied first."""
    whole = steps[0]
    for step in steps[1:]:
        whole = step @ whole
    return whole


def _matrix(rows: Sequence[Sequence[Tensor | float]], like: Tensor) -> Tensor:
    """A matrix for each image [N, k, k], of entries that are numbers or tensors [N]."""
    return torch.stack(
        [torch.stack([torch.as_tensor(v).to(like).expand_as(like) for v in row], dim=-1) for row in rows], dim=-2
    )


def _scaled(sx: Tensor, sy: Tensor) -> Tensor:
    return _matrix([[sx, 0.0, 0.0], [0.0, sy, 0.0], [0.0, 0.0, 1.0]], sx)


def _shifted(tx: Tensor, ty: Tensor) -> Tensor:
    return _matrix([[1.0, 0.0, tx], [0.0, 1.0, ty], [0.0, 0.0, 1.0]], tx)


def _rotated(angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    return _matrix([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]], angle)


def _about_luma(angle: Tensor) -> Tensor:
    """Rotation of RGB about the gray axis, homogeneous (Rodrigues)."""
    cos, sin = angle.cos(), angle.sin() / 3**0.5
    same, next_, before = cos + (1 - cos) / 3, (1 - cos) / 3 - sin, (1 - cos) / 3 + sin
    return _matrix(
        [[same, next_, before, 0.0], [before, same, next_, 0.0], [next_, before, same, 0.0], [0.0, 0.0, 0.0, 1.0]], angle
    )
