"""Programs that keep a StyleGAN2 or 3 under other names and scales: the same network comes back."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lia_adapter.checkpoints import Checkpoint, read_checkpoint
from lia_adapter.errors import CheckpointError
from lia_adapter.generators import build
from tests import toys

Weights = dict[str, Tensor]
LIA = toys.stylegan(resolution=16)
STORED: Weights = LIA.generator.state_dict()  # type: ignore[attr-defined]


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
