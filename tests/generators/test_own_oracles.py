"""Whole networks with random weights against the papers' formulas, written a second time in float64.

Nothing of the product computes an expected value: filters are convolutions on an unbounded plane that are sampled where the
centre of a pixel lies, and weights are scaled for each sample.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lia_adapter.canonical import Block1Config, DiscriminatorBlock1Config, Epilogue1Config, MappingConfig
from lia_adapter.generators import build_random, stylegan2_config, truncate
from lia_adapter.generators.discriminator import Discriminator
from lia_adapter.generators.discriminator1 import Discriminator1
from lia_adapter.generators.stylegan1 import StyleGAN1
from lia_adapter.generators.stylegan2 import MappingNetwork
from tests.formulas import ROOT2, State, dense, drawn, lrelu, part, random, same, unit

FIR = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8


# -- images on an unbounded plane


def full(x: Tensor, w: Tensor) -> Tensor:
    """Convolution (the kernel turned) of x [N, I, H, W] with w [O, I, k, k] or [N, O, I, k, k], to the end of its support."""
    k = w.shape[-1]
    if w.ndim == 5:
        return torch.cat([full(one[None], own) for one, own in zip(x, w, strict=True)])
    return F.conv2d(x, w.flip(2, 3), padding=k - 1)


def low_pass(x: Tensor, taps: Tensor = FIR) -> Tensor:
    """[1, 3, 3, 1] along both axes, to the end of its support."""
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, len(taps), len(taps))
    return F.conv2d(x, kernel.flip(2, 3), padding=len(taps) - 1, groups=x.shape[1])


def at_pixels(x: Tensor, delay: float, size: tuple[int, int], first: float = 0.0, step: int = 1) -> Tensor:
    """Samples of what filters have delayed, at the pixels of an image whose first lies at `first`."""
    start = round(first + delay)
    assert start == first + delay
    return x[:, :, start::step, start::step][:, :, : size[0], : size[1]]


def stuffed(x: Tensor) -> Tensor:
    """Every pixel becomes one of 2x2; it lies half a pixel before the centre of the four."""
    n, c, h, w = x.shape
    out = x.new_zeros(n, c, 2 * h, 2 * w)
    out[:, :, ::2, ::2] = x
    return out


def doubled(x: Tensor) -> Tensor:
    """Upsampling of an image: the filter's delay is 1.5, and zero-stuffed pixels stand at -0.5 of theirs."""
    return at_pixels(4 * low_pass(stuffed(x)), 1.5, (2 * x.shape[2], 2 * x.shape[3]), first=-0.5)


def halved(x: Tensor, w: Tensor) -> Tensor:
    """A low-pass filter and a convolution, sampled at the centres of 2x2 pixels; w is not turned."""
    size = (x.shape[2] // 2, x.shape[3] // 2)
    return at_pixels(full(low_pass(x), w.flip(2, 3)), 1.5 + (w.shape[-1] - 1) / 2, size, first=0.5, step=2)


def convolved(x: Tensor, w: Tensor) -> Tensor:
    """The size stays; w is not turned."""
    return at_pixels(full(x, w.flip(-2, -1)), (w.shape[-1] - 1) / 2, (x.shape[2], x.shape[3]))


# -- StyleGAN2 (Karras 2020)


def mapped(s: State, z: Tensor, c: Tensor | None, layers: int, lr: float = 0.01) -> Tensor:
    x = unit(z) if c is None else torch.cat([unit(z), unit(dense(part(s, "embed"), c))], dim=1)
    for i in range(layers):
        x = lrelu(dense(part(s, f"fc{i}"), x, lr)) * ROOT2
    return x


def modulated(s: State, y: Tensor, demodulate: bool = True) -> Tensor:
    """Weights of each sample [N, O, I, k, k] (eq. 1 and 3); ToRGB's are not normalised but by their number of inputs."""
    w = s["weight"][None] * dense(part(s, "affine"), y)[:, None, :, None, None]
    if demodulate:
        return w / (w.pow(2).sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()
    return w / math.sqrt(s["weight"][0].numel())


def layer2(s: State, x: Tensor, y: Tensor, *, up: bool = False, gain: float = 1.0, noise: bool = True) -> Tensor:
    w = modulated(s, y)
    if up:
        x = at_pixels(4 * full(low_pass(stuffed(x)), w), 2.5, (2 * x.shape[2], 2 * x.shape[3]), first=-0.5)
    else:
        x = convolved(x, w)
    if noise:
        x = x + s["noise_const"] * s["noise_strength"]
    return lrelu(x + s["bias"][:, None, None]) * ROOT2 * gain


def drawn2(s: State, ys: Tensor, names: list[str], architecture: str, noise: bool = True) -> Tensor:
    """fig. 7; ToRGB shares its y with the first convolution of the next block."""
    x, image, i = s[f"{names[0]}.const"].expand(len(ys), -1, -1, -1), torch.zeros(()), 0
    for name in names:
        before, gain = x, math.sqrt(0.5) if architecture == "resnet" and name != names[0] else 1.0
        if name != names[0]:
            x = layer2(part(s, f"{name}.conv0"), x, ys[:, i], up=True, noise=noise)
            image, i = image if image.ndim == 0 else doubled(image), i + 1
        x = layer2(part(s, f"{name}.conv1"), x, ys[:, i], gain=gain, noise=noise)
        i += 1
        if gain < 1:
            weight = s[f"{name}.skip.weight"]
            x = x + doubled(convolved(before, weight / math.sqrt(weight.shape[1]))) * gain
        rgb = part(s, f"{name}.torgb")
        if rgb:
            image = image + convolved(x, modulated(rgb, ys[:, i], demodulate=False)) + rgb["bias"][:, None, None]
    return image


def stylegan2(resolution: int | tuple[int, int], architecture: str, **sizes: Any) -> tuple[Any, Any]:
    given = {"z_dim": 6, "y_dim": 5, "mapping_layers": 3, "channel_base": 48, "channel_max": 8} | sizes
    config: Any = stylegan2_config(resolution, **given)
    for block in config["generator"]["blocks"]:
        block["architecture"] = architecture
        if architecture != "skip" and not block["is_last"]:
            block["torgb"] = None
    for block in [*config["discriminator"]["blocks"], config["discriminator"]["epilogue"]]:
        block["architecture"] = architecture
        block["fromrgb"] = block.get("fromrgb", False) or architecture == "skip"
    return build_random("stylegan2", config)


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
@pytest.mark.parametrize("resolution", [16, (8, 12)])
def test_stylegan2_draws_what_its_paper_says(architecture: str, resolution: int | tuple[int, int]) -> None:
    g, _ = stylegan2(resolution, architecture)
    s = drawn(g)
    ys = random(2, g.num_ws, 5, seed=1)
    for noise in (True, False):
        found = g.synthesis(ys, noise_mode="const" if noise else "none")
        same(found, drawn2(part(s, "synthesis"), ys, g.synthesis.names, architecture, noise))


def test_from_z_and_label_through_truncation_to_the_picture() -> None:
    g, _ = stylegan2(8, "skip", c_dim=3)
    s, z, c = drawn(g), random(4, 6, seed=1), torch.eye(3, dtype=torch.float64)[[0, 2, 1, 1]]
    y = mapped(part(s, "mapping"), z, c, layers=3)
    same(g.mapping(z, c), y)
    mean = s["mapping.w_avg"]
    ys = torch.stack([mean + 0.6 * (y - mean)] * 2 + [y] * 2, dim=1)
    found = truncate(g.mapping(z, c)[:, None].expand(-1, 4, -1), g.y_mean, 0.6, 2)
    same(found, ys)
    same(g.synthesis(found), drawn2(part(s, "synthesis"), ys, ["b4", "b8"], "skip"))


def judged2(s: State, x: Tensor, names: list[str], last: str, architecture: str) -> Tensor:
    """fig. 7, and the standard deviation within groups of four, of which the n-th sample is in group n mod N / 4."""

    def conv(name: str, x: Tensor, gain: float = ROOT2, down: bool = False) -> Tensor:
        w = s[f"{name}.weight"] / math.sqrt(s[f"{name}.weight"][0].numel())
        y = halved(x, w) if down else convolved(x, w)
        return lrelu(y + s[f"{name}.bias"][:, None, None]) * gain

    image, features = x, torch.zeros(())
    for name in names:
        if f"{name}.fromrgb.weight" in s:
            features = features + conv(f"{name}.fromrgb", image)
            one = torch.eye(image.shape[1], dtype=torch.float64)[:, :, None, None]
            image = halved(image, one)
        w = s.get(f"{name}.skip.weight")
        bypass = None if w is None else halved(features, w / math.sqrt(w.shape[1])) * math.sqrt(0.5)
        features = conv(f"{name}.conv1", conv(f"{name}.conv0", features), ROOT2 if bypass is None else 1.0, down=True)
        features = features if bypass is None else features + bypass
    if architecture == "skip":
        features = features + conv(f"{last}.fromrgb", image)
    return last_block(features, lambda x: conv(f"{last}.conv", x), part(s, f"{last}.fc"), part(s, f"{last}.out"))


def last_block(x: Tensor, conv: Callable[[Tensor], Tensor], fc: State, out: State) -> Tensor:
    groups, spread = len(x) // 4, []
    for n in range(len(x)):
        group = torch.stack([x[m] for m in range(len(x)) if m % groups == n % groups])
        spread.append(((group - group.mean(dim=0)).pow(2).mean(dim=0) + 1e-8).sqrt().mean())
    x = torch.cat([x, torch.stack(spread)[:, None, None, None].expand(-1, 1, *x.shape[2:])], dim=1)
    return dense(out, lrelu(dense(fc, conv(x).flatten(1))) * ROOT2)


@pytest.mark.parametrize("architecture", ["resnet", "skip", "orig"])
def test_stylegan2s_discriminator_judges_as_its_paper_says(architecture: str) -> None:
    _, d = stylegan2((8, 12) if architecture == "resnet" else 16, architecture)
    assert isinstance(d, Discriminator)
    s, x = drawn(d), random(8, 3, *d.resolution, seed=1)
    same(d(x), judged2(s, x, d.names, d.last, architecture))


def test_a_label_projects_the_logits() -> None:
    """Miyato & Koyama 2018; the label goes through a mapping of its own."""
    _, d = stylegan2(8, "resnet", c_dim=3)
    s, x, c = drawn(d), random(4, 3, 8, 8, seed=1), torch.eye(3, dtype=torch.float64)[[0, 2, 1, 1]]
    label = unit(dense(part(s, "mapping.embed"), c))
    for i in range(3):
        label = lrelu(dense(part(s, f"mapping.fc{i}"), label, 0.01)) * ROOT2
    features = judged2(s, x, d.names, d.last, "resnet")
    same(d(x, c), (features * label).sum(dim=1, keepdim=True) / math.sqrt(label.shape[1]))


# -- StyleGAN1 (Karras 2019)


def drawn1(s: State, ys: Tensor, names: list[str]) -> Tensor:
    """fig. 1b: the gain of leaky ReLUs is in the weights (He 2015), blur follows an upsampled convolution, AdaIN is last."""
    taps = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 4

    def epilogue(s: State, x: Tensor, y: Tensor) -> Tensor:
        x = lrelu(x + s["noise_const"] * s["noise_strength"][:, None, None] + s["bias"][:, None, None])
        x = (x - x.mean(dim=(2, 3), keepdim=True)) / (x.var(dim=(2, 3), unbiased=False, keepdim=True) + 1e-8).sqrt()
        scale, shift = dense(part(s, "affine"), y).tensor_split(2, dim=1)
        return x * (1 + scale)[:, :, None, None] + shift[:, :, None, None]

    def conv(s: State, x: Tensor, gain: float) -> Tensor:
        return convolved(x, s["weight"] * gain / math.sqrt(s["weight"][0].numel()))

    x = s[f"{names[0]}.const"].expand(len(ys), -1, -1, -1)
    for i, name in enumerate(names):
        first, second = part(s, f"{name}.conv0"), part(s, f"{name}.conv1")
        if i:
            x = conv(first, x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3), ROOT2)
            x = at_pixels(low_pass(x, taps), 1, (x.shape[2], x.shape[3]))
        x = epilogue(first, x, ys[:, 2 * i])
        x = epilogue(second, conv(second, x, ROOT2), ys[:, 2 * i + 1])
    rgb = part(s, f"{names[-1]}.torgb")
    return conv(rgb, x, 1.0) + rgb["bias"][:, None, None]


def test_stylegan1_draws_what_its_paper_says() -> None:
    sizes, widths = [(4, 6), (8, 12), (16, 24)], [6, 5, 4]
    blocks: list[Block1Config] = [
        {"name": f"b{h}", "size": [h, w], "in_channels": before, "out_channels": width, "noise": True, "torgb": True}
        for (h, w), width, before in zip(sizes, widths, [0, *widths], strict=False)
    ]
    mapping: MappingConfig = {
        "z_dim": 7, "c_dim": 3, "embed_features": 7, "label": "concat", "features": [5, 5], "activation": "lrelu",
        "lr_multiplier": 0.01, "has_average": True,
    }  # fmt: skip
    g = StyleGAN1(
        {
            "z_dim": 7, "c_dim": 3, "y_dim": 5, "num_ws": 6, "resolution": [16, 24], "channels": 3, "norm_eps": 1e-8,
            "final": None, "lod": 0.0, "blocks": blocks, "mapping": mapping,
        }
    )  # fmt: skip
    s, ys = drawn(g), random(2, 6, 5, seed=1)
    same(g.synthesis(ys), drawn1(part(s, "synthesis"), ys, ["b4", "b8", "b16"]))
    # One norm runs over z and the label's row of a matrix.
    z, c = random(3, 7, seed=2), torch.eye(3, dtype=torch.float64)[[2, 0, 1]]
    x = unit(torch.cat([z, s["mapping.label_weight"][[2, 0, 1]]], dim=1))
    for i in range(2):
        x = lrelu(dense(part(s, f"mapping.fc{i}"), x, 0.01)) * ROOT2
    assert isinstance(g.mapping, MappingNetwork)
    same(g.mapping(z, c), x)


def test_stylegan1s_discriminator_judges_as_its_paper_says() -> None:
    last: Epilogue1Config = {
        "name": "b4", "size": [4, 4], "in_channels": 4, "out_channels": 5, "fc_features": 6, "fromrgb": False,
        "mbstd_group": 4, "mbstd_channels": 1, "outputs": 1,
    }  # fmt: skip
    blocks: list[DiscriminatorBlock1Config] = [
        {"name": "b16", "in_channels": 3, "out_channels": 5, "fromrgb": True},
        {"name": "b8", "in_channels": 5, "out_channels": 4, "fromrgb": False},
    ]
    d = Discriminator1(
        {
            "c_dim": 0, "channels": 3, "resolution": [16, 16], "fromrgb_activation": "lrelu", "lod": 0.0, "blocks": blocks,
            "epilogue": last,
        }
    )  # fmt: skip
    s, image = drawn(d), random(8, 3, 16, 16, seed=1)

    def conv(name: str, x: Tensor) -> Tensor:
        w = s[f"{name}.weight"]
        return convolved(x, w * ROOT2 / math.sqrt(w[0].numel()))

    def bias(name: str, x: Tensor) -> Tensor:
        return lrelu(x + s[f"{name}.bias"][:, None, None])

    taps = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 4
    x = bias("b16.fromrgb", conv("b16.fromrgb", image))
    for name in ("b16", "b8"):
        x = bias(f"{name}.conv0", conv(f"{name}.conv0", x))
        x = conv(f"{name}.conv1", at_pixels(low_pass(x, taps), 1, (x.shape[2], x.shape[3])))
        x = bias(f"{name}.conv1", (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4)
    # Here the gain stands before the bias.
    fc = {"weight": s["b4.fc.weight"], "bias": s["b4.fc.bias"] / ROOT2}
    same(d(image), last_block(x, lambda x: bias("b4.conv", conv("b4.conv", x)), fc, part(s, "b4.out")))
