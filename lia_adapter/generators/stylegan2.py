"""StyleGAN2's generator (Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN").

Parameters and buffers carry the names of the files that NVlabs' programs write, so that a checkpoint is a state dict of
these modules. All sizes come from the canonical config (`lia_adapter.canonical`); nothing is assumed to be square.
Everything runs in the dtype of the weights; nothing is done in half precision behind the user's back. Under
`torch.autocast` the convolutions are in half precision, while codes, styles and images stay as precise as the weights.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from lia_adapter.canonical import (
    Block2Config,
    Generator2Config,
    InvertibleConfig,
    Layer2Config,
    MappingConfig,
    Torgb2Config,
    whole_mapping,
)
from lia_adapter.errors import LIAError
from lia_adapter.generators.base import Generator, StyleLayer, broadcast, check_label, check_noise_mode, one_class, run_part
from lia_adapter.generators.convolution import conv2d
from lia_adapter.generators.layers import (
    Dense,
    Skip,
    block_precision,
    conv_up2,
    default_filter,
    half_above,
    in_fast_format,
    interpolated,
    no_autocast,
    normalize_2nd_moment,
    scaled,
    upsample2d,
)
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.ops import ACTIVATIONS, bias_act, modconv_epilogue, upfirdn2d_act

__all__ = ["MappingNetwork", "Noise", "StyleGAN2", "Synthesis", "half_above", "make_mapping"]

Noise = Callable[[int, int], Tensor]
"""The noise images [N, 1, H, W] of the next layer, called with H and W: for who must draw the same ones again."""


class MappingNetwork(nn.Module):
    """The mapping network, z -> y, with the label put behind z.

    The label is embedded by a dense layer and normalised for itself (Karras 2020, ADA: "embed"), or multiplied by a matrix and
    normalised together with z (StyleGAN 1 and 2 in TensorFlow: "concat"). Also embeds the labels of a conditional
    discriminator, where z_dim is 0.

    Args:
        config: `mapping` of the canonical config.
    """

    w_avg: Tensor

    def __init__(self, config: MappingConfig) -> None:
        super().__init__()
        config = whole_mapping(config)
        self.z_dim, self.c_dim, self.act = int(config["z_dim"]), int(config["c_dim"]), str(config["activation"])
        widths = [int(width) for width in config["features"]]
        inputs = self.z_dim
        self.fixed_label = config.get("class")  # the one class that is drawn, whatever c is
        self.concat = config["label"] == "concat"
        self.norm = normalize_2nd_moment if config["normalize"] else nn.Identity()
        if self.c_dim:
            embedded = int(config["embed_features"] or 0)
            if self.concat:
                self.label_weight = nn.Parameter(torch.randn(self.c_dim, embedded))
            else:
                self.embed = Dense(self.c_dim, embedded)
            inputs += embedded
        self.num_layers = len(widths)
        for i, (fan_in, fan_out) in enumerate(zip([inputs, *widths], widths, strict=False)):
            setattr(self, f"fc{i}", Dense(fan_in, fan_out, config["activation"], config["lr_multiplier"]))
        self.has_average = bool(config["has_average"])
        if self.has_average:
            self.register_buffer("w_avg", torch.zeros(config.get("average_width", widths[-1])))

    @property
    def y_mean(self) -> Tensor | None:
        """Centre of truncation [y_dim] as tracked in training, or None where the file has none."""
        return self.w_avg if self.has_average else None

    @property
    def layers(self) -> list[Dense]:
        """The dense layers behind the normalisation, in order."""
        return [cast(Dense, self.get_submodule(f"fc{i}")) for i in range(self.num_layers)]

    def label_code(self, c: Tensor | None, n: int) -> Tensor:
        """What n labels c [n, c_dim] become, [n, embed_features]; c may be None where there is one class alone."""
        if self.fixed_label is not None:
            c = one_class(self.fixed_label, self.c_dim, n, next(self.parameters()))
        c = check_label(c, self.c_dim, n)
        assert c is not None  # noqa: S101  (called with labels alone)
        return c.to(self.label_weight.dtype) @ self.label_weight if self.concat else self.norm(self.embed(c))

    def forward(self, z: Tensor | None, c: Tensor | None = None) -> Tensor:
        """z [N, z_dim] (None where z_dim is 0) and c [N, c_dim] -> y [N, y_dim]."""
        parts = []
        if self.z_dim and z is not None:
            if z.ndim != 2 or z.shape[1] != self.z_dim:
                raise LIAError(f"z has shape {list(z.shape)}; expected [N, {self.z_dim}].")
            parts.append(z if self.concat else self.norm(z))
        n = len(z) if z is not None else len(c) if c is not None else 0
        if self.c_dim:
            parts.append(self.label_code(c, n))
        x = torch.cat(parts, dim=1)
        if self.concat:
            x = self.norm(x)
        for layer in self.layers:
            x = layer(x)
        return x


def make_mapping(config: MappingConfig | InvertibleConfig) -> MappingNetwork | InvertibleMapping:
    """The mapping of a config: a network, or an invertible one with which a generator has learnt (LIA, stage 1)."""
    return InvertibleMapping.from_config(config) if "coupling" in config else MappingNetwork(config)


class SynthesisLayer(nn.Module):
    """Modulated convolution, noise, bias, activation (Karras 2020, fig. 2d).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        y_dim: Entries of y.
        size: (H, W) of the output.
        up: 1, or 2 to double the resolution.
        config: `conv0` or `conv1` of a block.
        filter_shape: Shape of the low-pass filter.
        bilinear: Whether the resolution is doubled by bilinear interpolation (GFPGAN), not by the filter.
    """

    noise_const: Tensor
    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        y_dim: int,
        size: tuple[int, int],
        up: int,
        config: Layer2Config,
        filter_shape: tuple[int, ...],
        *,
        bilinear: bool = False,
    ) -> None:
        super().__init__()
        self.bilinear = bilinear and up == 2
        self.up, self.act, self.clamp = up, str(config["activation"]), config["clamp"]
        k = int(config["kernel"])
        self.affine = Dense(y_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, k, k))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.use_noise = bool(config["noise"])
        if self.use_noise:
            self.register_buffer("noise_const", torch.randn(size))
            self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("resample_filter", default_filter(filter_shape))
        self.size = size

    def noise(self, x: Tensor, mode: str | Noise) -> Tensor | None:
        """The noise image times its strength: [H, W], [N, 1, H, W] when random, None when there is none."""
        if not self.use_noise or mode == "none":
            return None
        if mode == "const":
            return self.noise_const * self.noise_strength
        if not isinstance(mode, str):
            return mode(*self.size).to(x) * self.noise_strength
        return torch.randn([len(x), 1, *self.size], device=x.device, dtype=x.dtype) * self.noise_strength

    def modulation(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of the input's channels [N, I] and of the output's [N, O].

        They equal scaling the weights of each sample and normalising them (Karras 2020, eq. 1 and 3). The norm of the
        scaled weights is a matrix product: no copy of the weights for every sample.
        """
        fan_in, taps = self.weight[0].numel(), self.weight[0, 0].numel()
        styles = self.affine(y)
        with no_autocast(y):
            # The normalisation undoes any factor of the styles. These keep the sums of the convolution within float16.
            largest = styles.detach().abs().amax(dim=1, keepdim=True).clamp(min=1e-6)
            styles = styles / largest
            norm = styles.square().repeat_interleave(taps, dim=1) @ self.weight.flatten(1).square().t()
            return styles * fan_in**-0.5, (norm + 1e-8 / largest.square()).rsqrt() * fan_in**0.5

    def forward(self, x: Tensor, y: Tensor, noise_mode: str | Noise, gain: float = 1.0) -> Tensor:
        """x [N, I, h, w], y [N, y_dim] -> [N, O, H, W]. Without gradients, x is overwritten."""
        styles, scale = self.modulation(y)
        x = scaled(x, styles)
        clamp = None if self.clamp is None else self.clamp * gain
        gain = gain * ACTIVATIONS[self.act].gain
        noise = self.noise(x, noise_mode)
        if self.bilinear:
            x = interpolated(x)
        if self.up == 1 or self.bilinear:
            x = conv2d(x, self.weight, padding=self.weight.shape[-1] // 2)
            return modconv_epilogue(x, scale, noise, self.bias, act=self.act, gain=gain, clamp=clamp, overwrite_x=True)
        x, padding = conv_up2(x, self.weight, self.resample_filter)
        return upfirdn2d_act(
            x, self.resample_filter, scale, noise, self.bias,
            padding=padding, filter_gain=4, act=self.act, gain=gain, clamp=clamp,
        )  # fmt: skip


class ToRGB(nn.Module):
    """A 1x1 modulated convolution to the image, without demodulation (Karras 2020, fig. 7).

    Args:
        in_channels: Channels of the input.
        channels: Channels of the image.
        y_dim: Entries of y.
        config: `torgb` of a block.
    """

    def __init__(self, in_channels: int, channels: int, y_dim: int, config: Torgb2Config) -> None:
        super().__init__()
        k = int(config["kernel"])
        self.clamp = config["clamp"]
        self.weight_gain = 1 / (in_channels * k * k) ** 0.5
        self.affine = Dense(y_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(channels, in_channels, k, k))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x [N, I, H, W], y [N, y_dim] -> [N, C, H, W]."""
        styles = self.affine(y) * self.weight_gain
        if (k := self.weight.shape[-1]) > 1:
            drawn = conv2d(x * styles.to(x.dtype)[:, :, None, None], self.weight, padding=k // 2)
        else:
            # Weights of each sample: they are so few that scaling x would cost more.
            weight = self.weight.flatten(1) * styles[:, None]  # [N, C, I]
            pixels = x.flatten(2).transpose(1, 2) @ weight.to(x.dtype).transpose(1, 2)  # [N, H * W, C]
            drawn = pixels.transpose(1, 2).unflatten(2, x.shape[2:])
        return bias_act(drawn.to(self.bias.dtype).contiguous(), self.bias, clamp=self.clamp)


class SynthesisBlock(nn.Module):
    """The layers of one resolution: skip, resnet or orig (Karras 2020, fig. 7).

    Args:
        config: One of the `blocks` of the canonical config.
        y_dim: Entries of y.
        channels: Channels of the image.
    """

    resample_filter: Tensor

    def __init__(self, config: Block2Config, y_dim: int, channels: int) -> None:
        super().__init__()
        conv0, torgb = config["conv0"], config["torgb"]
        self.architecture, self.is_first = str(config["architecture"]), conv0 is None
        in_channels, out_channels = int(config["in_channels"]), int(config["out_channels"])
        size, filter_shape = (int(config["size"][0]), int(config["size"][1])), tuple(config["filter"])
        bilinear = config.get("upsample") == "bilinear"
        self.register_buffer("resample_filter", default_filter(filter_shape))
        if conv0 is None:
            self.const = nn.Parameter(torch.randn(out_channels, *size))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, y_dim, size, 2, conv0, filter_shape, bilinear=bilinear)
        self.conv1 = SynthesisLayer(out_channels, out_channels, y_dim, size, 1, config["conv1"], filter_shape)
        self.bilinear = bilinear
        self.num_conv, self.size = 1 if self.is_first else 2, size
        self.has_torgb = torgb is not None
        if torgb is not None:
            self.torgb = ToRGB(out_channels, channels, y_dim, torgb)
        if self.architecture == "resnet" and not self.is_first:
            self.skip = Skip(in_channels, out_channels, filter_shape)

    @property
    def styled(self) -> dict[str, SynthesisLayer | ToRGB]:
        """The layers that take a y, by name, in order."""
        first = {} if self.is_first else {"conv0": self.conv0}
        return {**first, "conv1": self.conv1, **({"torgb": self.torgb} if self.has_torgb else {})}

    def forward(
        self, x: Tensor | None, image: Tensor | None, ys: Tensor, noise_mode: str | Noise
    ) -> tuple[Tensor, Tensor | None]:
        """x [N, I, h, w], image so far [N, C, h, w], ys [N, num_conv + 1, y_dim] -> both at this block's size."""
        y = iter(ys.unbind(dim=1))
        if x is None:
            x = self.const.repeat(len(ys), 1, 1, 1)  # a copy, which the layer may overwrite
            x = self.conv1(in_fast_format(x, self.const), next(y), noise_mode)
        elif self.architecture == "resnet":
            bypass = self.skip(x, gain=0.5**0.5)
            x = self.conv0(x, next(y), noise_mode)
            x = self.conv1(x, next(y), noise_mode, gain=0.5**0.5)
            x = bypass + x
        else:
            x = self.conv0(x, next(y), noise_mode)
            x = self.conv1(x, next(y), noise_mode)
        if image is not None:
            image = interpolated(image) if self.bilinear else upsample2d(image, self.resample_filter)
        if self.has_torgb:
            drawn = self.torgb(x, next(y))
            image = drawn if image is None else image + drawn
        return x, image


class Synthesis(nn.Module):
    """The synthesis network, ys -> x.

    Args:
        config: `generator` of the canonical config.
    """

    def __init__(self, config: Generator2Config) -> None:
        super().__init__()
        self.num_ws, self.y_dim = int(config["num_ws"]), int(config["y_dim"])
        self.names = [str(block["name"]) for block in config["blocks"]]
        for block in config["blocks"]:
            setattr(self, block["name"], SynthesisBlock(block, self.y_dim, int(config["channels"])))

    @property
    def blocks(self) -> list[SynthesisBlock]:
        """The blocks, from the coarsest."""
        return [cast(SynthesisBlock, self.get_submodule(name)) for name in self.names]

    def lower(self, max_side: int) -> list[str]:
        """The blocks, by name, that make the largest image with both sides up to max_side; all where none is so small."""
        ends = [i + 1 for i, block in enumerate(self.blocks) if block.has_torgb and max(block.size) <= max_side]
        return self.names[: ends[-1]] if ends else self.names

    def forward(self, ys: Tensor, *, noise_mode: str | Noise = "const", max_side: int | None = None) -> Tensor:
        """ys [N, num_ws, y_dim] (or one y for all layers, [N, y_dim]) -> x [N, C, H, W].

        Args:
            ys: Codes.
            noise_mode: One of `NOISE_MODES`, or the noise itself.
            max_side: Where given, the blocks of `lower` draw alone: a smaller image, where the architecture has one on its way.
        """
        if isinstance(noise_mode, str):
            check_noise_mode(noise_mode)
        ys = broadcast(ys, self.num_ws)
        if ys.shape[2] != self.y_dim:
            raise LIAError(f"ys have shape {list(ys.shape)}; expected [N, {self.num_ws}, {self.y_dim}].")
        x: Tensor | None = None
        image: Tensor | None = None
        first = 0
        for block in self.blocks if max_side is None else self.blocks[: len(self.lower(max_side))]:
            # ToRGB shares its y with the first convolution of the next block: the layers advance by num_conv alone.
            part = ys[:, first : first + block.num_conv + 1]
            with block_precision(block.size, ys.device):
                x, image = run_part(block, x, image, part, noise_mode, noise_mode=noise_mode)
            first += block.num_conv
        assert image is not None  # noqa: S101  (the last of them always has a torgb)
        return image


class StyleGAN2(Generator):
    """StyleGAN2's generator: `mapping` z -> y and `synthesis` ys -> x; see `lia_adapter.generators.Generator`.

    Args:
        config: `generator` of the canonical config of the family "stylegan2".
    """

    mapping: MappingNetwork | InvertibleMapping
    synthesis: Synthesis

    def __init__(self, config: Generator2Config) -> None:
        super().__init__()
        self.z_dim, self.c_dim = int(config["z_dim"]), int(config["c_dim"])
        self.y_dim, self.num_ws = int(config["y_dim"]), int(config["num_ws"])
        self.channels = int(config["channels"])
        self.resolution = (int(config["resolution"][0]), int(config["resolution"][1]))
        self.makes = str(config.get("makes", "images"))  # or planes: EG3D's backbone
        self.mapping = make_mapping(config["mapping"])
        self.synthesis = Synthesis(config)

    @property
    def y_mean(self) -> Tensor | None:
        """Centre of truncation [y_dim] as tracked in training, or None where the file has none."""
        return self.mapping.y_mean

    def style_layers(self) -> list[StyleLayer]:
        """What makes the styles, ToRGB's among them; a style has a number for each channel that comes in."""
        found, first = list[StyleLayer](), 0
        for name, block in zip(self.synthesis.names, self.synthesis.blocks, strict=True):
            styled = enumerate(block.styled.items())
            found += [StyleLayer(f"{name}.{part}", layer.affine, first + i) for i, (part, layer) in styled]
            first += block.num_conv
        return found

    def forward(self, z: Tensor, c: Tensor | None = None, *, noise_mode: str = "const") -> Tensor:
        """z [N, z_dim], c [N, c_dim] -> x [N, C, H, W]."""
        x: Tensor = self.synthesis(broadcast(self.mapping(z, c), self.num_ws), noise_mode=noise_mode)
        return x
