"""StyleGAN3 and the paper's encoder with random weights against the papers' formulas in float64; see test_own_oracles.py.

Resampling to another rate is a matrix along each axis, waves are complex numbers, and moves of the plane are matrices.
"""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lia_adapter.canonical import MappingConfig
from lia_adapter.encoder import Encoder
from lia_adapter.generators.stylegan3 import FourierInput, StyleGAN3
from lia_adapter.metrics.swd import image_swd
from lia_adapter.ops import filtered_lrelu
from tests.formulas import ROOT2, State, dense, drawn, lrelu, part, random, same, unit

# -- filtered leaky ReLU (Karras 2021, fig. 4b)


def at_rate(side: int, taps: Tensor | None, *, up: int = 1, down: int = 1, pads: tuple[int, int] = (0, 0)) -> Tensor:
    """Resampling as a matrix [to, from]: samples stand `up` apart, taps lie inside altogether, every down-th place counts."""
    taps = torch.ones(1, dtype=torch.float64) if taps is None else taps
    length = side * up + sum(pads)
    matrix = torch.zeros((length - len(taps)) // down + 1, side, dtype=torch.float64)
    for to in range(matrix.shape[0]):
        for i in range(side):
            tap = to * down + len(taps) - 1 - (i * up + pads[0])
            if 0 <= tap < len(taps) and 0 <= i * up + pads[0] < length:
                matrix[to, i] = up * taps[tap]
    return matrix


def filtered(x: Tensor, fu: Tensor | None, fd: Tensor | None, up: int, down: int, pads: list[int], act: Any) -> Tensor:
    """Up, the activation at the higher rate, down; pads are left, right, top, bottom."""
    rows, columns = (at_rate(side, fu, up=up, pads=(pads[at], pads[at + 1])) for side, at in ((x.shape[2], 2), (x.shape[3], 0)))
    high = act(torch.einsum("ai,ncij,bj->ncab", rows, x, columns))
    rows, columns = (at_rate(side, fd, down=down) for side in high.shape[2:])
    return torch.einsum("ai,ncij,bj->ncab", rows, high, columns)


@pytest.mark.parametrize(
    ("up", "down", "taps_up", "taps_down", "pads"),
    [
        (2, 2, 6, 6, [3, 4, 5, 2]),
        (4, 2, 9, 4, [7, 7, 7, 7]),
        (2, 4, 5, 12, [9, 8, 3, 11]),
        (1, 2, None, 3, [2, 2, 0, 1]),
        (2, 1, 4, None, [-1, 2, 1, -2]),
    ],
)
def test_filtered_lrelu_is_an_activation_at_a_higher_rate(
    up: int, down: int, taps_up: int | None, taps_down: int | None, pads: list[int]
) -> None:
    x, b = random(2, 3, 7, 9), random(3, seed=1)
    fu = None if taps_up is None else random(taps_up, seed=2) / taps_up
    fd = None if taps_down is None else random(taps_down, seed=3) / taps_down

    def act(x: Tensor) -> Tensor:
        return (torch.where(x > 0, x, 0.1 * x) * 1.3).clamp(-0.8, 0.8)

    expected = filtered(x + b[:, None, None], fu, fd, up, down, pads, act)
    options: dict[str, Any] = {"up": up, "down": down, "padding": pads, "gain": 1.3, "slope": 0.1, "clamp": 0.8}
    same(filtered_lrelu(x, fu, fd, b, **options), expected)
    # In float32, which kernels take where there are any.
    taps = (None if t is None else t.float() for t in (fu, fd, b))
    same(filtered_lrelu(x.float(), *taps, **options).double(), expected, rtol=1e-5)


# -- StyleGAN3 (Karras 2021)


def waves(s: State, y: Tensor, size: tuple[int, int], rate: float, band: float) -> Tensor:
    """app. F: the plane is moved by the user, shifted by y, and turned by y; waves that leave the band fade."""
    n = len(y)
    moves = dense(part(s, "affine"), y)
    cos, sin, right, down = (moves / (moves[:, 0] ** 2 + moves[:, 1] ** 2).sqrt()[:, None]).unbind(dim=1)
    turn, shift = (torch.eye(3, dtype=torch.float64).repeat(n, 1, 1) for _ in range(2))
    turn[:, 0, 0], turn[:, 0, 1], turn[:, 1, 0], turn[:, 1, 1] = cos, -sin, sin, cos
    shift[:, 0, 2], shift[:, 1, 2] = -right, -down
    move = turn @ shift @ s["transform"]
    freqs = torch.einsum("ci,nij->ncj", s["freqs"], move[:, :2, :2])
    phases = s["phases"] + torch.einsum("ci,ni->nc", s["freqs"], move[:, :2, 2])
    place = [(torch.arange(side, dtype=torch.float64) + 0.5 - side / 2) / rate for side in size]
    across = torch.exp(2j * math.pi * freqs[:, :, 0, None] * place[1])  # [N, C, W]
    along = torch.exp(2j * math.pi * freqs[:, :, 1, None] * place[0])
    x = (torch.exp(2j * math.pi * phases)[:, :, None, None] * along[..., None] * across[:, :, None]).imag
    fade = 1 - (freqs.pow(2).sum(dim=2).sqrt() - band) / (rate / 2 - band)
    x = x * fade.clamp(0, 1)[:, :, None, None]
    return torch.einsum("oc,nchw->nohw", s["weight"] / math.sqrt(x.shape[1]), x)


def layer3(s: State, x: Tensor, y: Tensor, config: dict[str, Any]) -> Tensor:
    """fig. 4b: the input is scaled to unit magnitude, as tracked in training; ToRGB neither demodulates nor bends."""
    w = s["weight"][None] * dense(part(s, "affine"), y)[:, None, :, None, None]
    w = w / math.sqrt(w[0, 0].numel()) if config["torgb"] else w / w.pow(2).sum(dim=(2, 3, 4), keepdim=True).sqrt()
    x = x / s["magnitude_ema"].sqrt()
    x = torch.cat([F.conv2d(one[None], own, padding=config["kernel"] - 1) for one, own in zip(x, w, strict=True)])
    limit = config["clamp"]

    def act(x: Tensor) -> Tensor:
        return (x if config["torgb"] else lrelu(x) * ROOT2).clamp(-limit, limit)

    filters = s.get("up_filter"), s.get("down_filter")
    return filtered(x + s["bias"][:, None, None], *filters, config["up"], config["down"], config["padding"], act)


def layers() -> Any:
    """Three layers that go from 8x10 up, not evenly, to a picture of 14x16."""

    def one(name: str, widths: tuple[int, int], **changes: Any) -> dict[str, Any]:
        plain = {
            "name": name, "in_channels": widths[0], "out_channels": widths[1], "kernel": 3, "up": 2, "down": 2,
            "padding": [3, 4, 4, 3], "clamp": 3.0, "torgb": False, "up_filter": [6], "down_filter": [6],
        }  # fmt: skip
        return plain | changes

    rgb = {"kernel": 1, "torgb": True, "up": 1, "down": 1, "padding": [0] * 4, "up_filter": None, "down_filter": None}
    return [one("L0", (6, 5)), one("L1", (5, 4), up=4, up_filter=[12], padding=[2, 3, 1, 2]), one("L2", (4, 3)) | rgb]


def stylegan3() -> StyleGAN3:
    mapping: MappingConfig = {
        "z_dim": 7, "c_dim": 0, "embed_features": None, "features": [5, 5], "activation": "lrelu", "lr_multiplier": 0.01,
        "has_average": True,
    }  # fmt: skip
    return StyleGAN3(
        {
            "z_dim": 7, "c_dim": 0, "y_dim": 5, "num_ws": 4, "resolution": [14, 16], "channels": 3, "output_scale": 0.25,
            "mapping": mapping, "layers": layers(),
            "input": {"channels": 6, "size": [8, 10], "sampling_rate": 8.0, "bandwidth": 2.0},
        }
    )  # fmt: skip


def test_stylegan3_draws_what_its_paper_says() -> None:
    g = stylegan3()
    s = drawn(g)
    z, ys = random(3, 7, seed=1), random(3, 4, 5, seed=2)
    y = unit(z)
    for i in range(2):
        y = lrelu(dense(part(s, f"mapping.fc{i}"), y, 0.01)) * ROOT2
    same(g.mapping(z), y)
    x = waves(part(s, "synthesis.input"), ys[:, 0], (8, 10), 8.0, 2.0)
    for i, config in enumerate(layers(), 1):
        x = layer3(part(s, f"synthesis.L{i - 1}"), x, ys[:, i], config)
    same(g.synthesis(ys), 0.25 * x, rtol=1e-6)


def test_waves_that_the_user_has_moved() -> None:
    """A turn, a shift and a scale of the plane that is stored in the file; the scale drives some waves out of the band."""
    layer = FourierInput(5, {"channels": 40, "size": [6, 9], "sampling_rate": 8.0, "bandwidth": 2.0})
    s = drawn(layer)
    s["transform"].copy_(torch.tensor([[1.2, -0.9, 0.3], [0.9, 1.2, -0.7], [0.0, 0.0, 1.0]]))
    s["freqs"].clamp_(-2, 2)
    y = random(2, 5, seed=1)
    same(layer(y), waves(s, y, (6, 9), 8.0, 2.0))


# -- the encoder (LIA, sec. 3.2)


@pytest.mark.parametrize("space", ["y", "ys"])
def test_an_encoder_is_a_residual_network(space: str) -> None:
    """Stem, stages that halve the image, a dense layer whose normalised codes are coloured; odd sides, running statistics."""
    encoder = Encoder((9, 14), 3, 5, 4, space=space, width=3, width_max=6)
    s, x = drawn(encoder), random(2, 3, 9, 14, seed=1)

    def norm(s: State, x: Tensor) -> Tensor:
        shape = [1, -1] + [1] * (x.ndim - 2)
        x = (x - s["running_mean"].reshape(shape)) / (s["running_var"] + 1e-5).sqrt().reshape(shape)
        return x * s.get("weight", torch.ones(1)).reshape(shape) + s["bias"].reshape(shape)

    def pooled(x: Tensor) -> Tensor:
        """Means of 2x2 pixels, at the border of those that there are."""
        rows = torch.stack([part.mean(dim=2) for part in x.split(2, dim=2)], dim=2)
        return torch.stack([part.mean(dim=3) for part in rows.split(2, dim=3)], dim=3)

    h = lrelu(norm(part(s, "norm"), F.conv2d(x, s["stem.weight"], padding=1)))
    for i in range(len(encoder.stages)):
        own, h = part(s, f"stages.{i}"), pooled(h)
        bypass = F.conv2d(h, own["skip.weight"]) if "skip.weight" in own else h
        for j in (0, 1):
            h = lrelu(norm(part(own, f"norm{j}"), F.conv2d(h, own[f"conv{j}.weight"], padding=1)))
        h = h + bypass
    h = h.flatten(1)
    y = s["mean"] + norm(part(s, "last_norm"), h @ s["dense.weight"].T + s["dense.bias"]) @ s["root"]
    if space == "ys":
        y = y[:, None] + (h @ s["offsets.weight"].T + s["offsets.bias"]).reshape(2, 4, 5) @ s["root"]
    same(encoder(x), y)


# -- sliced Wasserstein distance of patches (Karras 2018, sec. 5)


def test_the_distance_of_single_patches_is_that_of_a_random_projection() -> None:
    """Images of 7x7 are one patch: normalised by channel, two are |a - b| E|u| apart, u on a sphere of 147 dimensions."""
    a, b = random(1, 3, 7, 7), random(1, 3, 7, 7, seed=1)
    unit_a, unit_b = ((x - x.mean(dim=(2, 3), keepdim=True)) / x.std(dim=(2, 3), keepdim=True, unbiased=False) for x in (a, b))
    dim = 147
    mean = math.exp(math.lgamma(dim / 2) - math.lgamma((dim + 1) / 2)) / math.sqrt(math.pi)
    expected = 1e3 * float((unit_a - unit_b).norm()) * mean
    found = [image_swd(a, b, seed=seed)["mean"] for seed in range(20)]  # 512 directions each
    assert sum(found) / 20 == pytest.approx(expected, rel=0.03)  # four standard errors
