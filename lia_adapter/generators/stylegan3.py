"""StyleGAN3's generator (Karras et al. 2021, "Alias-Free Generative Adversarial Networks"), and StyleGAN-XL's.

Parameters and buffers carry the names of the files that NVlabs' programs write. Sizes, filters and paddings of every layer come
from the canonical config (see `lia_adapter.canonical`): a StyleGAN-XL has layers that no rule would give.
Everything runs in the dtype of the weights, and no sample depends on the others of its batch.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lia_adapter.canonical import Generator3Config, InputConfig, Layer3Config, MappingConfig, whole_mapping
from lia_adapter.errors import LIAError
from lia_adapter.generators.base import Generator, StyleLayer, broadcast, check_label, check_noise_mode, one_class, run_part
from lia_adapter.generators.convolution import conv2d
from lia_adapter.generators.layers import Dense, no_autocast, scaled
from lia_adapter.generators.stylegan2 import MappingNetwork, make_mapping
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.ops import filtered_lrelu

__all__ = ["ClassMapping", "FourierInput", "StyleGAN3", "Synthesis3"]


class ClassMapping(MappingNetwork):
    """StyleGAN-XL's mapping, (z, class) -> y, which tracks a mean y of each class.

    Features of the class from a table go through a dense layer, are normalised, and stand behind z (Sauer 2022, sec. 3.1).

    Args:
        config: `mapping` of the canonical config, with "label" "table".
    """

    def __init__(self, config: MappingConfig) -> None:
        z_dim, c_dim, projected = int(config["z_dim"]), int(config["c_dim"]), int(config["embed_features"] or 0)
        super().__init__({**config, "z_dim": z_dim + projected, "c_dim": 0, "label": "embed", "has_average": False})
        self.z_dim, self.c_dim = z_dim, c_dim
        self.table = nn.Parameter(torch.randn(c_dim, int(config["table_features"])))
        self.embed_proj = Dense(int(config["table_features"]), projected, act="lrelu")
        self.has_average = bool(config["has_average"])
        if self.has_average:
            self.register_buffer("w_avg", torch.zeros(c_dim, int(config["features"][-1])))

    @property
    def y_mean(self) -> Tensor | None:
        """The mean of all classes [y_dim], or of the one that is drawn; None where the file has none."""
        if not self.has_average:
            return None
        if self.fixed_label is None:
            return self.w_avg.mean(dim=0)
        return self.w_avg[one_class(self.fixed_label, self.c_dim, 1, self.table).argmax()]

    def label_code(self, c: Tensor | None, n: int) -> Tensor:
        """What n labels c [n, c_dim] become, [n, embed_features]. Only the largest entry of each counts."""
        if self.fixed_label is not None:
            c = one_class(self.fixed_label, self.c_dim, n, self.table)
        c = check_label(c, self.c_dim, n)
        assert c is not None  # noqa: S101  (there is no such mapping without classes)
        return self.norm(self.embed_proj(self.table[c.argmax(dim=1)]))


class FourierInput(nn.Module):
    """The coarsest features: waves on the plane, which y turns and shifts (Karras 2021, sec. 3.1 and app. F).

    Args:
        y_dim: Entries of y.
        config: `input` of the canonical config.
    """

    freqs: Tensor
    phases: Tensor
    transform: Tensor

    def __init__(self, y_dim: int, config: InputConfig) -> None:
        super().__init__()
        channels = int(config["channels"])
        self.size = (int(config["size"][0]), int(config["size"][1]))
        self.sampling_rate, self.bandwidth = float(config["sampling_rate"]), float(config["bandwidth"])
        self.weight = nn.Parameter(torch.randn(channels, channels))
        self.affine = Dense(y_dim, 4)
        with torch.no_grad():
            self.affine.weight.zero_()
            self.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        # Spread over a disc whose radius is the bandwidth.
        angle, radius = torch.rand(channels) * 2 * math.pi, torch.rand(channels).sqrt() * self.bandwidth
        self.register_buffer("freqs", torch.stack([angle.cos() * radius, angle.sin() * radius], dim=1))
        self.register_buffer("phases", torch.rand(channels) - 0.5)
        self.register_buffer("transform", torch.eye(3))

    def waves(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Frequencies [N, C, 2] and phases [N, C] (both in turns) of the waves as y [N, y_dim] moves them."""
        # Cosine and sine of the angle, and the shift along x and y; scaling all four leaves the picture's size alone.
        moves = self.affine(y)
        moves = moves / moves[:, :2].norm(dim=1, keepdim=True)
        cos, sin = moves[:, 0], moves[:, 1]
        turn = torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1)  # [N, 2, 2]
        shift = turn @ -moves[:, 2:, None]
        # `transform` is a move of the whole picture that its user stored in the file.
        whole = torch.cat([turn, shift], dim=2) @ self.transform  # [N, 2, 3]
        return self.freqs @ whole[:, :, :2], self.phases + (self.freqs @ whole[:, :, 2:])[..., 0]

    def forward(self, y: Tensor) -> Tensor:
        """y [N, y_dim] -> [N, C, H, W]."""
        with no_autocast(y):
            freqs, phases = self.waves(y)
            # Waves that the turn or the user's transform has driven out of the band fade: they would alias.
            room = self.sampling_rate / 2 - self.bandwidth
            amplitudes = (1 - (freqs.norm(dim=2) - self.bandwidth) / room).clamp(0, 1)
            v, u = (
                (torch.arange(side, device=y.device, dtype=phases.dtype) + (0.5 - side / 2)) / self.sampling_rate
                for side in self.size
            )
            fx, fy = freqs[:, :, 0, None, None], freqs[:, :, 1, None, None]
            x = torch.sin(2 * math.pi * (fx * u + fy * v[:, None] + phases[:, :, None, None]))
            x = x * amplitudes[:, :, None, None]
            return F.conv2d(x, (self.weight / len(self.weight) ** 0.5)[:, :, None, None])


class SynthesisLayer3(nn.Module):
    """Modulated convolution and filtered nonlinearity (Karras 2021, fig. 4b); ToRGB is one with neither.

    Args:
        y_dim: Entries of y.
        config: One of the `layers` of the canonical config.
    """

    magnitude_ema: Tensor
    up_filter: Tensor | None
    down_filter: Tensor | None

    def __init__(self, y_dim: int, config: Layer3Config) -> None:
        super().__init__()
        self.up, self.down, self.clamp = int(config["up"]), int(config["down"]), config["clamp"]
        self.padding, self.torgb = [int(side) for side in config["padding"]], bool(config["torgb"])
        inputs, outputs, k = int(config["in_channels"]), int(config["out_channels"]), int(config["kernel"])
        self.affine = Dense(y_dim, inputs, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, k, k))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("magnitude_ema", torch.ones([]))
        for name, shape in (("up_filter", config["up_filter"]), ("down_filter", config["down_filter"])):
            # To be filled from a file: the filters are designed together with the sizes (Karras 2021, app. C).
            self.register_buffer(name, None if shape is None else torch.full(tuple(shape), 1 / math.prod(shape)))

    def modulation(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of the input's channels [N, I] and of the output's [N, O] (or [1, O]).

        They equal scaling the weights of each sample and normalising them. The published code also normalises the styles, over
        the whole batch; that cancels, so that here each sample's are normalised alone.
        """
        with no_autocast(y):
            styles, weight = self.affine(y), self.weight.flatten(1)
            # What keeps the input at unit magnitude: its mean square as tracked in training (Karras 2021, sec. 3.2).
            gain = self.magnitude_ema.rsqrt()
            if self.torgb:
                return styles * weight.shape[1] ** -0.5, gain.expand(1, len(weight))
            unit = weight.square().mean(dim=1).rsqrt()
            styles = styles * styles.square().mean(dim=1, keepdim=True).rsqrt()
            taps = self.weight[0, 0].numel()
            norm = styles.square().repeat_interleave(taps, dim=1) @ weight.square().t()  # [N, O]
            return styles, gain * unit * (norm * unit.square() + 1e-8).rsqrt()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x [N, I, h, w], y [N, y_dim] -> [N, O, H, W]. Without gradients, x is overwritten."""
        styles, scale = self.modulation(y)
        x = conv2d(scaled(x, styles), self.weight, padding=self.weight.shape[-1] - 1)
        gain, slope = (1.0, 1.0) if self.torgb else (math.sqrt(2), 0.2)
        return filtered_lrelu(
            scaled(x, scale), self.up_filter, self.down_filter, self.bias,
            up=self.up, down=self.down, padding=self.padding, gain=gain, slope=slope, clamp=self.clamp,
        )  # fmt: skip


class Synthesis3(nn.Module):
    """The synthesis network, ys -> x.

    Args:
        config: `generator` of the canonical config.
    """

    def __init__(self, config: Generator3Config) -> None:
        super().__init__()
        self.num_ws, self.y_dim = int(config["num_ws"]), int(config["y_dim"])
        self.output_scale = float(config["output_scale"])
        self.names = [str(layer["name"]) for layer in config["layers"]]
        self.input = FourierInput(self.y_dim, config["input"])
        for layer in config["layers"]:
            setattr(self, layer["name"], SynthesisLayer3(self.y_dim, layer))

    @property
    def layers(self) -> list[SynthesisLayer3]:
        """The layers behind the input, from the coarsest; the last is ToRGB."""
        return [cast(SynthesisLayer3, self.get_submodule(name)) for name in self.names]

    def forward(self, ys: Tensor, *, noise_mode: str = "const") -> Tensor:
        """ys [N, num_ws, y_dim] (or one y for all layers, [N, y_dim]) -> x [N, C, H, W]. There is no noise in it."""
        check_noise_mode(noise_mode)
        ys = broadcast(ys, self.num_ws)
        if ys.shape[2] != self.y_dim:
            raise LIAError(f"ys have shape {list(ys.shape)}; expected [N, {self.num_ws}, {self.y_dim}].")
        first, *rest = ys.to(self.input.weight.dtype).unbind(dim=1)
        x: Tensor = self.input(first)
        for layer, y in zip(self.layers, rest, strict=True):
            x = run_part(layer, x, y)
        return x.to(self.input.weight.dtype) * self.output_scale


class StyleGAN3(Generator):
    """StyleGAN3's generator: `mapping` z -> y and `synthesis` ys -> x; see `lia_adapter.generators.Generator`.

    Args:
        config: `generator` of the canonical config of the family "stylegan3".
    """

    mapping: MappingNetwork | InvertibleMapping
    synthesis: Synthesis3

    def __init__(self, config: Generator3Config) -> None:
        super().__init__()
        self.z_dim, self.c_dim = int(config["z_dim"]), int(config["c_dim"])
        self.y_dim, self.num_ws = int(config["y_dim"]), int(config["num_ws"])
        self.channels = int(config["channels"])
        self.resolution = (int(config["resolution"][0]), int(config["resolution"][1]))
        mapping = config["mapping"]
        if "coupling" not in mapping and whole_mapping(mapping)["label"] == "table":
            self.mapping = ClassMapping(mapping)
        else:
            self.mapping = make_mapping(mapping)
        self.synthesis = Synthesis3(config)

    @property
    def y_mean(self) -> Tensor | None:
        """Centre of truncation [y_dim], of all classes together; None where the file has none."""
        return self.mapping.y_mean

    @property
    def y_means(self) -> Tensor | None:
        """Centre of truncation of each class [c_dim, y_dim], as StyleGAN-XL tracks it; None where there is one for all."""
        return self.mapping.w_avg if isinstance(self.mapping, ClassMapping) and self.mapping.has_average else None

    def style_layers(self) -> list[StyleLayer]:
        """What makes the styles: the input's, which are cosine, sine and two shifts, then each layer's."""
        names = ["input", *self.synthesis.names]
        return [StyleLayer(name, self.synthesis.get_submodule(f"{name}.affine"), i) for i, name in enumerate(names)]

    def forward(self, z: Tensor, c: Tensor | None = None, *, noise_mode: str = "const") -> Tensor:
        """z [N, z_dim], c [N, c_dim] -> x [N, C, H, W]."""
        x: Tensor = self.synthesis(broadcast(self.mapping(z, c), self.num_ws), noise_mode=noise_mode)
        return x
