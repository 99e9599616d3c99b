"""Programs that keep a StyleGAN2 or 3 under other names and scales: the same network comes back."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lia_adapter.checkpoints import Checkpoint, read_checkpoint
from lia_adapter.errors import CheckpointError
from lia_adapter.generators import build
from lia_adapter.loading import load
from tests import toys

Weights = dict[str, Tensor]
LIA = toys.stylegan(resolution=16)
STORED: Weights = LIA.generator.state_dict()


def parts(name: str) -> tuple[int, str]:
    """The block's number, from the coarsest, and the rest: synthesis.b8.conv0.weight is 1 and conv0.weight."""
    match = re.fullmatch(r"synthesis\.b([0-9]+)\.(.*)", name)
    assert match is not None
    return int(match[1]).bit_length() - 3, match[2]


def layer(block: int, conv: str) -> int:
    return 2 * block - (conv == "conv0")


def to_hammer(name: str, tensor: Tensor) -> tuple[str, Tensor] | None:
    if not name.startswith("synthesis."):
        return name.replace("mapping.fc", "mapping.dense").replace("mapping.w_avg", "w_avg"), tensor
    block, rest = parts(name)
    if rest == "resample_filter":
        return ("synthesis.filter", tensor) if block == 0 else None
    if rest == "const":
        return "synthesis.early_layer.const", tensor[None]
    owner, _, last = rest.partition(".")
    last = last.replace("affine", "style").replace("noise_const", "noise").replace("resample_filter", "filter")
    if owner == "torgb":
        return f"synthesis.output{block}.{last}", tensor
    if last == "filter" and owner == "conv1":
        return None
    return f"synthesis.layer{layer(block, owner)}.{last}", tensor[None, None] if last == "noise" else tensor


def to_stylegan2_torch(name: str, tensor: Tensor) -> tuple[str, Tensor] | None:
    if not name.startswith("synthesis."):
        if name == "mapping.w_avg":
            return None
        return re.sub(r"mapping\.fc([0-9])", lambda m: f"mapping.{int(m[1]) + 1}", name), tensor
    block, rest = parts(name)
    owner, _, last = rest.partition(".")
    if last == "noise_const" or (last == "resample_filter" and owner == "conv1"):
        return None
    if rest == "const":
        return "input.input", tensor[None]
    if rest == "resample_filter":
        return (f"to_rgbs.{block}.upsample.kernel", tensor * 4) if block else None
    last, tensor = {
        "weight": ("weight", tensor[None]),
        "bias": (
            "bias" if owner == "torgb" else "leaky_relu.bias",
            tensor.reshape(1, -1, 1, 1) if owner == "torgb" else tensor,
        ),
        "noise_strength": ("add_noise.weight", tensor.reshape(-1)),
        "resample_filter": ("blur.kernel", tensor * 4),
    }.get(last, (last, tensor))
    return (
        f"{ {'conv0': f'up_convs.{block - 1}', 'conv1': f'convs.{block}', 'torgb': f'to_rgbs.{block}'}[owner] }.{last}",
        tensor,
    )


def to_clean_gfpgan(name: str, tensor: Tensor) -> tuple[str, Tensor] | None:
    """With all scales and gains multiplied in."""
    equalised = tensor / math.sqrt(max(tensor[0].numel(), 1)) if tensor.ndim > 1 else tensor
    if not name.startswith("synthesis."):
        if name == "mapping.w_avg":
            return None
        new = re.sub(r"mapping\.fc([0-9])", lambda m: f"style_mlp.{2 * int(m[1]) + 1}", name)
        return new, equalised * 0.01 * math.sqrt(2)
    block, rest = parts(name)
    owner, _, last = rest.partition(".")
    if "resample_filter" in rest:
        return None
    if rest == "const":
        return "constant_input.weight", tensor[None]
    if last == "noise_const":
        return f"noises.noise{layer(block, owner)}", tensor[None, None]
    own = f"to_rgbs.{block - 1}" if block else "to_rgb1"
    if owner != "torgb":
        own = f"style_convs.{layer(block, owner) - 1}" if block else "style_conv1"
    gain = 1 if owner == "torgb" else math.sqrt(2)
    last, tensor = {
        "weight": ("modulated_conv.weight", equalised[None]),
        "bias": ("bias", tensor.reshape(1, -1, 1, 1) * gain),
        "noise_strength": ("weight", tensor.reshape(-1) * gain),
        "affine.weight": ("modulated_conv.modulation.weight", equalised),
        "affine.bias": ("modulated_conv.modulation.bias", tensor),
    }[last]
    return f"{own}.{last}", tensor


def saved(rename: Callable[[str, Tensor], tuple[str, Tensor] | None], path: Path, prefix: str = "") -> Checkpoint:
    renamed = [new for name, tensor in STORED.items() if (new := rename(name, tensor.clone())) is not None]
    torch.save({"models": {"generator_smooth": {prefix + name: tensor for name, tensor in renamed}}}, path)
    return read_checkpoint(path)


@pytest.mark.parametrize("rename", [to_hammer, to_stylegan2_torch, to_clean_gfpgan])
def test_the_same_weights_come_back(tmp_path: Path, rename: Callable[[str, Tensor], tuple[str, Tensor] | None]) -> None:
    found = saved(rename, tmp_path / "x.pth").tensors
    for name, tensor in STORED.items():
        absent = name == "mapping.w_avg" or (name.endswith("noise_const") and rename is to_stylegan2_torch)
        if not absent or f"generator.{name}" in found and rename is to_hammer:
            torch.testing.assert_close(found[f"generator.{name}"], tensor, rtol=1e-5, atol=1e-6, msg=name)


def test_a_restorers_generator_interpolates_before_it_convolves(tmp_path: Path) -> None:
    checkpoint = saved(to_clean_gfpgan, tmp_path / "x.pth", "stylegan_decoder.")
    assert any("face restorer" in note for note in checkpoint.notes)
    generator, _ = build(checkpoint.family, checkpoint.config, checkpoint.tensors)
    assert generator is not None
    conv0 = generator.get_submodule("synthesis.b8.conv0")
    x, y = torch.randn(2, STORED["synthesis.b8.conv0.weight"].shape[1], 4, 4), torch.randn(2, 16)
    with torch.no_grad():
        drawn = conv0(x.clone(), y, "const")
        # As the program says it: the kernel of each sample, scaled and normalised, on the interpolated picture.
        weight = STORED["synthesis.b8.conv0.weight"] / math.sqrt(STORED["synthesis.b8.conv0.weight"][0].numel())
        affine = STORED["synthesis.b8.conv0.affine.weight"] / 4
        style = y @ affine.t() + STORED["synthesis.b8.conv0.affine.bias"]
        up = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        for i in range(2):
            kernel = weight * style[i, None, :, None, None]
            kernel = kernel * (kernel.square().sum((1, 2, 3), keepdim=True) + 1e-8).rsqrt()
            noise = STORED["synthesis.b8.conv0.noise_const"] * STORED["synthesis.b8.conv0.noise_strength"]
            one = F.conv2d(up[i : i + 1], kernel, padding=1) + noise + STORED["synthesis.b8.conv0.bias"][:, None, None]
            torch.testing.assert_close(drawn[i : i + 1], F.leaky_relu(one, 0.2) * math.sqrt(2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("style.1.weight", "emb.input", "lff.ffm.conv.weight"), "a CIPS"),
        (("style.1.weight", "layers.0.blocks.0.attn.0.relative_position_bias_table"), "a StyleSwin"),
        (("mapping.mlp.fc0.weight", "mapping.x_avg"), "a StyleGAN-T"),
        (("mapping_z.1.weight", "decoder.convs.0.conv1.conv.weight"), "a StyleMapGAN"),
        (("init.init.0.weight_orig", "se_64.main.1.weight_orig"), "a FastGAN"),
        (("generator.gen_z.weight_orig", "embeddings.weight"), "a BigGAN"),
        (("style.1.weight", "input.input", "conv1.conv.weight", "to_rgb1.iwt.ll"), "a SWAGAN"),
        (("StructuredToParameterName@@",), "PaddlePaddle"),
        (("model.diffusion_model.x.weight",), "a diffusion model"),
    ],
)
def test_neighbours_are_called_by_their_names(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    for prefix in ("", "module."):
        torch.save({"g_ema": {prefix + name: torch.ones(2, 2) for name in names}}, tmp_path / "x.pt")
        with pytest.raises(CheckpointError, match=said):
            read_checkpoint(tmp_path / "x.pt")


# -- ALAE


def alae(blocks: int = 3, width: int = 4, y_dim: int = 6) -> dict[str, Weights]:
    """The parts of a file as ALAE's program writes it, with random weights."""
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    decoder = {"const": draw(1, width, 4, 4)}
    encoder: Weights = {}
    for i in range(blocks):
        decoder |= {f"to_rgb.{i}.to_rgb.weight": draw(3, width, 1, 1), f"to_rgb.{i}.to_rgb.bias": draw(3)}
        encoder |= {f"from_rgb.{i}.from_rgb.weight": draw(width, 3, 1, 1), f"from_rgb.{i}.from_rgb.bias": draw(width)}
        for k in (1, 2):
            block, layer_ = f"decode_block.{i}", f"encode_block.{i}"
            if i or k == 2:
                decoder[f"{block}.conv_{k}.weight"] = draw(width, width, 3, 3)
            decoder |= {f"{block}.noise_weight_{k}": draw(1, width, 1, 1), f"{block}.bias_{k}": draw(1, width, 1, 1)}
            decoder |= {f"{block}.style_{k}.weight": draw(2 * width, y_dim), f"{block}.style_{k}.bias": draw(2 * width)}
            encoder |= {f"{layer_}.conv_{k}.weight": draw(width, width, 3, 3), f"{layer_}.bias_{k}": draw(1, width, 1, 1)}
            encoder |= {f"{layer_}.style_{k}.weight": draw(y_dim, 2 * width), f"{layer_}.style_{k}.bias": draw(y_dim)}
    mapping = {f"map_blocks.{i}.fc.weight": draw(y_dim, y_dim) for i in range(3)}
    mapping |= {f"map_blocks.{i}.fc.bias": draw(y_dim) for i in range(3)}
    average = draw(1, y_dim).expand(2 * blocks, -1).clone()
    return {
        "generator": {name: tensor * 2 for name, tensor in decoder.items()}, "generator_s": decoder, "mapping_fl_s": mapping,
        "discriminator_s": encoder, "dlatent_avg": {"buff": average},
    }  # fmt: skip


def alae_encoded(weights: Weights, x: Tensor, blocks: int) -> Tensor:
    """As the paper and the program say it, its slope applied twice at first, its kernels fused with the halving."""
    x = F.conv2d(x, weights["from_rgb.0.from_rgb.weight"], weights["from_rgb.0.from_rgb.bias"])
    x = F.leaky_relu(F.leaky_relu(x, 0.2), 0.2)
    y = torch.zeros(())
    taps = torch.tensor([1.0, 2.0, 1.0])
    low = (torch.outer(taps, taps) / 16).expand(x.shape[1], 1, 3, 3)
    for i in range(blocks):
        for k in (1, 2):
            own = f"encode_block.{i}."
            kernel = weights[f"{own}conv_{k}.weight"]
            if k == 1:
                x = F.conv2d(x, kernel, padding=1)
            else:
                w = F.pad(kernel, (1, 1, 1, 1))
                w = (w[:, :, 1:, 1:] + w[:, :, :-1, 1:] + w[:, :, 1:, :-1] + w[:, :, :-1, :-1]) / 4
                x = F.conv2d(F.conv2d(x, low, padding=1, groups=x.shape[1]), w, stride=2, padding=1)
            x = F.leaky_relu(x + weights[f"{own}bias_{k}"], 0.2)
            deviation, mean = torch.std_mean(x, dim=(2, 3), correction=0)
            y = y + F.linear(
                torch.cat([mean, deviation], 1), weights[f"{own}style_{k}.weight"], weights[f"{own}style_{k}.bias"]
            )
            x = F.instance_norm(x)
    return y


def test_an_alae_brings_its_mapping_its_generator_and_its_encoder(tmp_path: Path) -> None:
    stored, x, z = alae(), torch.randn(2, 3, 16, 16), torch.randn(2, 6)
    torch.save({"models": stored, "auxiliary": {"step": 3}}, tmp_path / "alae.pth")
    lia = load(tmp_path / "alae.pth")
    mapped = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
    for i in range(3):
        own = stored["mapping_fl_s"]
        mapped = F.leaky_relu(F.linear(mapped, own[f"map_blocks.{i}.fc.weight"], own[f"map_blocks.{i}.fc.bias"]), 0.2)
    with torch.no_grad():
        torch.testing.assert_close(lia.to_y(z), mapped, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(lia.encode(x), alae_encoded(stored["discriminator_s"], x, 3), rtol=1e-4, atol=1e-4)
        assert torch.equal(lia.y_mean, stored["dlatent_avg"]["buff"][0])
    lia.save(tmp_path / "again.safetensors")
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "again.safetensors").encode(x), lia.encode(x))
    layer_: Any = lia.generator.get_submodule("synthesis.b8.conv0")
    x = torch.randn(1, 4, 4, 4)
    with torch.no_grad():
        doubled = F.interpolate(x, scale_factor=2.0)
        torch.testing.assert_close(
            layer_.convolve(doubled), F.conv2d(doubled, stored["generator_s"]["decode_block.1.conv_1.weight"], padding=1)
        )


def test_an_alae_without_its_mapping_is_refused(tmp_path: Path) -> None:
    stored = alae()
    del stored["mapping_fl_s"]
    torch.save({"models": stored}, tmp_path / "alae.pth")
    with pytest.raises(CheckpointError, match="no mapping"):
        read_checkpoint(tmp_path / "alae.pth")
