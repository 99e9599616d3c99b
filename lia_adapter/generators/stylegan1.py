"""StyleGAN1's generator (Karras et al. 2019, "A Style-Based Generator Architecture for Generative Adversarial Networks").

Names are those of our StyleGAN2: a block has conv0, conv1 and torgb. In the first block the constant takes the place of conv0,
which is then only what follows a convolution. The gain of leaky ReLUs, sqrt(2), is in the weights before them.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lia_adapter.canonical import Block1Config, Generator1Config
from lia_adapter.errors import LIAError
from lia_adapter.generators.base import Generator, StyleLayer, broadcast, check_noise_mode, run_part
from lia_adapter.generators.convolution import conv2d
from lia_adapter.generators.layers import Dense
from lia_adapter.generators.stylegan2 import MappingNetwork, Noise, make_mapping
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.ops import bias_act, setup_filter, upfirdn2d

__all__ = ["Conv", "StyleGAN1", "Synthesis", "blur", "grown"]

_GAIN = 2**0.5


def blur(x: Tensor) -> Tensor:
    """Low-pass filter [1, 2, 1] over x [N, C, H, W]."""
    return upfirdn2d(x, setup_filter([1.0, 2.0, 1.0], device=x.device), padding=1)


def grown(fine: Tensor, coarse: Tensor, t: float) -> Tensor:
    """What a network shows that still grows: fine, coarse, or a part of each (Karras 2018, "progressive growing", fig. 2).

    Args:
        fine: Of the new layer.
        coarse: Of the one before; the same shape.
        t: Share of the latter, cut off at 0 and 1.
    """
    return fine.lerp(coarse, min(max(t, 0.0), 1.0))


class _Weights(nn.Module):
    """Weight and bias of a convolution with equalised learning rate.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Side of the kernel.
        gain: That of the activation behind it.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, gain: float = _GAIN) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.gain = gain / (in_channels * kernel**2) ** 0.5

    def convolve(self, x: Tensor) -> Tensor:
        """[N, I, H, W] -> [N, O, H, W], the bias not yet added."""
        return conv2d(x, self.weight * self.gain, padding=self.weight.shape[-1] // 2)


class Conv(_Weights):
    """The same with the bias and an activation."""

    def forward(self, x: Tensor, act: str = "linear") -> Tensor:
        """[N, I, H, W] -> [N, O, H, W]."""
        return bias_act(self.convolve(x), self.bias, act=act, gain=1.0)


class SynthesisLayer(_Weights):
    """Convolution, noise, bias, leaky ReLU, instance norm, style (Karras 2019, fig. 1b).

    Args:
        in_channels: Channels of the input; 0: nothing is convolved, the input is the constant.
        out_channels: Channels of the output.
        y_dim: Entries of y.
        size: (H, W).
        up: Whether the image is doubled before, and blurred behind, the convolution.
        noise: Whether there are noise images.
        eps: Of the instance norm.
    """

    noise_const: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, y_dim: int, size: tuple[int, int], *, up: bool, noise: bool, eps: float
    ) -> None:
        super().__init__(max(in_channels, 1), out_channels, 3)
        if not in_channels:
            del self.weight
        self.convolves, self.up, self.use_noise, self.eps, self.size = bool(in_channels), up, noise, eps, size
        self.affine = Dense(y_dim, 2 * out_channels)
        if noise:
            self.register_buffer("noise_const", torch.randn(size))
            self.noise_strength = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, y: Tensor, noise_mode: str | Noise) -> Tensor:
        """x [N, I, h, w], y [N, y_dim] -> [N, O, H, W]."""
        if self.convolves:
            x = self.convolve(F.interpolate(x, scale_factor=2.0, mode="nearest") if self.up else x)
        if self.up:
            x = blur(x)
        if self.use_noise and noise_mode != "none":
            noise, strength = self._noise(x, noise_mode), self.noise_strength.to(x)[:, None, None]
            x = x + noise * strength if torch.is_grad_enabled() else x.add_(noise * strength)
        x = bias_act(x, self.bias, act="lrelu", gain=1.0, overwrite_x=True)
        variance, mean = torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
        scale, shift = self.affine(y).to(x)[:, :, None, None].chunk(2, dim=1)
        if torch.is_grad_enabled():
            styled: Tensor = (x - mean) * (variance + self.eps).rsqrt() * (scale + 1) + shift
            return styled
        return x.sub_(mean).mul_((variance + self.eps).rsqrt()).mul_(scale + 1).add_(shift)

    def _noise(self, x: Tensor, mode: str | Noise) -> Tensor:
        if mode == "const":
            return self.noise_const.to(x)
        if not isinstance(mode, str):
            return mode(*self.size).to(x)
        return torch.randn([len(x), 1, *self.size], device=x.device, dtype=x.dtype)


class SynthesisBlock(nn.Module):
    """The layers of one resolution.

    Args:
        config: One of the `blocks` of the canonical config.
        y_dim: Entries of y.
        channels: Channels of the image.
        eps: Of the instance norm.
    """

    def __init__(self, config: Block1Config, y_dim: int, channels: int, eps: float) -> None:
        super().__init__()
        narrow, wide = int(config["in_channels"]), int(config["out_channels"])
        size, noise = (int(config["size"][0]), int(config["size"][1])), bool(config["noise"])
        if not narrow:
            self.const = nn.Parameter(torch.ones(wide, *size))
        self.conv0 = SynthesisLayer(narrow, wide, y_dim, size, up=narrow > 0, noise=noise, eps=eps)
        self.conv1 = SynthesisLayer(wide, wide, y_dim, size, up=False, noise=noise, eps=eps)
        self.torgb = Conv(wide, channels, 1, gain=1.0) if config["torgb"] else None

    def forward(self, x: Tensor | None, ys: Tensor, noise_mode: str | Noise) -> Tensor:
        """x [N, I, h, w] (None: the constant), ys [N, 2, y_dim] -> [N, O, H, W]."""
        if x is None:
            x = self.const.repeat(len(ys), 1, 1, 1)  # a copy, which the layer may overwrite
        x = self.conv0(x, ys[:, 0], noise_mode)
        x = self.conv1(x, ys[:, 1], noise_mode)
        return x


class Synthesis(nn.Module):
    """The synthesis network, ys -> x.

    Args:
        config: `generator` of the canonical config.
    """

    def __init__(self, config: Generator1Config) -> None:
        super().__init__()
        self.num_ws, self.y_dim, self.lod = int(config["num_ws"]), int(config["y_dim"]), float(config["lod"])
        self.tanh = config["final"] == "tanh"
        self.names = [str(block["name"]) for block in config["blocks"]]
        for block in config["blocks"]:
            made = SynthesisBlock(block, self.y_dim, int(config["channels"]), float(config["norm_eps"]))
            setattr(self, block["name"], made)

    @property
    def blocks(self) -> list[SynthesisBlock]:
        """The blocks, from the coarsest."""
        return [cast(SynthesisBlock, self.get_submodule(name)) for name in self.names]

    def forward(self, ys: Tensor, *, noise_mode: str | Noise = "const") -> Tensor:
        """ys [N, num_ws, y_dim] (or one y for all layers, [N, y_dim]) -> x [N, C, H, W]."""
        if isinstance(noise_mode, str):
            check_noise_mode(noise_mode)
        ys = broadcast(ys, self.num_ws, self.y_dim)
        if ys.shape[2] != self.y_dim:
            raise LIAError(f"ys have shape {list(ys.shape)}; expected [N, {self.num_ws}, {self.y_dim}].")
        x: Tensor | None = None
        image: Tensor | None = None
        for i, block in enumerate(self.blocks):
            x = run_part(block, x, ys[:, 2 * i : 2 * i + 2], noise_mode, noise_mode=noise_mode)
            left = len(self.names) - 1 - i  # doublings that follow
            if block.torgb is None or (self.lod == 0 and left):
                continue
            drawn = block.torgb(x)
            image = drawn if image is None else grown(drawn, F.interpolate(image, scale_factor=2.0), self.lod - left)
        assert image is not None  # noqa: S101  (the last block always has a torgb)
        return image.tanh() if self.tanh else image


class StyleGAN1(Generator):
    """StyleGAN1's generator: `mapping` z -> y and `synthesis` ys -> x; see `lia_adapter.generators.Generator`.

    Args:
        config: `generator` of the canonical config of the family "stylegan1".
    """

    mapping: MappingNetwork | InvertibleMapping
    synthesis: Synthesis

    def __init__(self, config: Generator1Config) -> None:
        super().__init__()
        self.z_dim, self.c_dim = int(config["z_dim"]), int(config["c_dim"])
        self.y_dim, self.num_ws = int(config["y_dim"]), int(config["num_ws"])
        self.channels = int(config["channels"])
        self.resolution = (int(config["resolution"][0]), int(config["resolution"][1]))
        self.mapping = make_mapping(config["mapping"])
        self.synthesis = Synthesis(config)

    @property
    def y_mean(self) -> Tensor | None:
        """Centre of truncation [y_dim] as tracked in training, or None where the file has none."""
        return self.mapping.y_mean

    def style_layers(self) -> list[StyleLayer]:
        """What makes the styles, two layers to each block; style is (scale - 1, shift) [2 * features]."""
        names = [f"{block}.{part}" for block in self.synthesis.names for part in ("conv0", "conv1")]
        return [StyleLayer(name, self.synthesis.get_submodule(f"{name}.affine"), i) for i, name in enumerate(names)]

    def forward(self, z: Tensor, c: Tensor | None = None, *, noise_mode: str = "const") -> Tensor:
        """z [N, z_dim], c [N, c_dim] -> x [N, C, H, W]."""
        x: Tensor = self.synthesis(self.mapping(z, c), noise_mode=noise_mode)
        return x
