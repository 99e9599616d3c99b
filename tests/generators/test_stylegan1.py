"""StyleGAN1 and its PyTorch files: what the published files and their oracles, which are small, do not cover."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lia_adapter.checkpoints import Checkpoint, read_checkpoint
from lia_adapter.checkpoints.stylegan1 import infer_discriminator, infer_generator
from lia_adapter.errors import CheckpointError
from lia_adapter.generators import build
from lia_adapter.generators.discriminator1 import Discriminator1
from lia_adapter.generators.stylegan1 import StyleGAN1

Y, WIDTH = 5, 2
State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _seeded(reference_ops: None) -> None:
    """The same numbers every time, and no compiler for a few small images."""
    torch.manual_seed(0)


def random(*shape: int) -> Tensor:
    return torch.randn(shape)


def mapping(prefix: str, weight: str, bias: str, out: int = Y) -> State:
    names = [f"{prefix}dense{i}." for i in range(2)]
    return {f"{names[0]}{weight}": random(Y, Y), f"{names[0]}{bias}": random(Y)} | {
        f"{names[1]}{weight}": random(out, Y), f"{names[1]}{bias}": random(out)
    }  # fmt: skip


def genforce(blocks: int) -> State:
    state = mapping("mapping.", "weight", "bias") | {"truncation.w_avg": random(Y), "synthesis.lod": torch.zeros([])}
    state["synthesis.layer0.const"] = random(1, WIDTH, 4, 4)
    for i in range(2 * blocks):
        name, side = f"synthesis.layer{i}", 4 << i // 2
        if i:
            state[f"{name}.weight"] = random(WIDTH, WIDTH, 3, 3)
        state |= {
            f"{name}.bias": random(WIDTH), f"{name}.apply_noise.weight": random(WIDTH),
            f"{name}.apply_noise.noise": random(1, 1, side, side),
            f"{name}.style.weight": random(2 * WIDTH, Y), f"{name}.style.bias": random(2 * WIDTH),
        }  # fmt: skip
    for i in range(blocks):
        state |= {f"synthesis.output{i}.weight": random(3, WIDTH, 1, 1), f"synthesis.output{i}.bias": random(3)}
    return state


def idinvert(blocks: int) -> State:
    """With a y for each layer, and up-convolutions to 128x128 and more as [h, w, in, out] under another name."""
    state = mapping("mapping.", "fc.weight", "wscale.bias", 2 * blocks * Y) | {"truncation.w_avg": random(Y)}
    for key, tensor in genforce(blocks).items():
        if not key.startswith("synthesis.layer") or key == "synthesis.layer0.const":
            state |= {key: tensor} if key.startswith("synthesis.l") else {}
            continue
        layer, part = key.split(".", 2)[1:]
        fused = part == "weight" and layer in ("layer10", "layer12")
        renamed = {
            "weight": "weight" if fused else "conv.weight", "style.weight": "epilogue.style_mod.dense.fc.weight",
            "style.bias": "epilogue.style_mod.dense.wscale.bias",
        }.get(part, f"epilogue.{part}")  # fmt: skip
        state[f"synthesis.{layer}.{renamed}"] = tensor.permute(2, 3, 1, 0).contiguous() if fused else tensor
    for i in range(blocks):
        state |= {f"synthesis.output{i}.conv.weight": random(3, WIDTH, 1, 1), f"synthesis.output{i}.bias": random(3)}
    return state


def lernapparat(blocks: int) -> State:
    state = mapping("g_mapping.", "weight", "bias")
    state |= {"g_synthesis.torgb.weight": random(3, WIDTH, 1, 1), "g_synthesis.torgb.bias": random(3)}
    for i in range(blocks):
        name = f"g_synthesis.blocks.{4 << i}x{4 << i}."
        first = {f"{name}const": random(1, WIDTH, 4, 4), f"{name}bias": random(WIDTH)}
        first |= {f"{name}conv.weight": random(WIDTH, WIDTH, 3, 3), f"{name}conv.bias": random(WIDTH)}
        later = {f"{name}{conv}.weight": random(WIDTH, WIDTH, 3, 3) for conv in ("conv0_up", "conv1")}
        later |= {f"{name}{conv}.bias": random(WIDTH) for conv in ("conv0_up", "conv1")}
        state |= later if i else first
        for epilogue in (f"{name}epi1.", f"{name}epi2."):
            state |= {
                f"{epilogue}top_epi.noise.weight": random(WIDTH),
                f"{epilogue}style_mod.lin.weight": random(2 * WIDTH, Y), f"{epilogue}style_mod.lin.bias": random(2 * WIDTH),
            }  # fmt: skip
    return state


def huangzh13(blocks: int) -> State:
    """lernapparat's with numbers for sizes, and an image layer for each of them."""
    state: State = {}
    for key, tensor in lernapparat(blocks).items():
        for i in range(1, blocks):
            key = key.replace(f"blocks.{4 << i}x{4 << i}.", f"blocks.{i - 1}.")
        key = key.replace("blocks.4x4.", "init_block.").replace("g_mapping.", "g_mapping.map.")
        state |= {} if ".torgb." in key else {key: tensor}
    for i in range(blocks):
        state |= {f"g_synthesis.to_rgb.{i}.weight": random(3, WIDTH, 1, 1), f"g_synthesis.to_rgb.{i}.bias": random(3)}
    return state | {"truncation.avg_latent": random(Y)}


PROGRAMS: dict[str, tuple[Callable[[int], State], str, str]] = {  # the layers that double to 64x64 and to 128x128
    "genforce": (genforce, "synthesis.layer8.weight", "synthesis.layer10.weight"),
    "idinvert": (idinvert, "synthesis.layer8.conv.weight", "synthesis.layer10.weight"),
    "lernapparat": (lernapparat, "g_synthesis.blocks.64x64.conv0_up.weight", "g_synthesis.blocks.128x128.conv0_up.weight"),
    "huangzh13": (huangzh13, "g_synthesis.blocks.3.conv0_up.weight", "g_synthesis.blocks.4.conv0_up.weight"),
}


def read(folder: Path, state: Any) -> Checkpoint:
    torch.save(state, folder / "net.pth")
    return read_checkpoint(folder / "net.pth")


def build1(config: Any, tensors: State) -> StyleGAN1:
    generator = StyleGAN1(config)
    generator.load_state_dict(tensors)
    return generator.eval().requires_grad_(False)


def grown_to(blocks: int, lod: float) -> StyleGAN1:
    """A generator that still grows."""
    generator = StyleGAN1(config(blocks) | {"lod": lod})
    return generator.eval().requires_grad_(False)


def config(blocks: int) -> Any:
    sizes = [4 << i for i in range(blocks)]
    parts = [
        {"name": f"b{side}", "size": [side, side], "in_channels": WIDTH if i else 0, "out_channels": WIDTH, "noise": True}
        for i, side in enumerate(sizes)
    ]
    own = {
        "z_dim": Y, "c_dim": 0, "embed_features": None, "features": [Y], "activation": "lrelu", "lr_multiplier": 0.01,
        "has_average": True,
    }  # fmt: skip
    return {
        "z_dim": Y, "c_dim": 0, "y_dim": Y, "num_ws": 2 * blocks, "resolution": [sizes[-1]] * 2, "channels": 3, "mapping": own,
        "norm_eps": 1e-8, "final": None, "lod": 0.0, "blocks": [part | {"torgb": True} for part in parts],
    }  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
def test_up_convolutions_to_128_are_mirrored_and_others_are_not(tmp_path: Path, program: str) -> None:
    make, plain, fused = PROGRAMS[program]
    state = make(6)
    found = read(tmp_path, state)
    kernel = state[fused].permute(3, 2, 0, 1) if program == "idinvert" else state[fused]
    assert torch.equal(found.tensors["generator.synthesis.b64.conv0.weight"], state[plain])
    assert torch.equal(found.tensors["generator.synthesis.b128.conv0.weight"], kernel.flip(-1, -2))
    generator, _ = build(found.family, found.config, found.tensors)
    assert generator is not None
    assert generator(torch.randn(1, Y)).shape == (1, 3, 128, 128)


def test_mirrored_kernels_of_a_doubled_image_are_a_fused_up_convolution() -> None:
    x, weight = random(2, 3, 8, 8), random(4, 3, 3, 3)
    smeared = F.pad(weight, [1, 1, 1, 1])
    smeared = smeared[..., 1:, 1:] + smeared[..., :-1, 1:] + smeared[..., 1:, :-1] + smeared[..., :-1, :-1]
    fused = F.conv_transpose2d(x, smeared.transpose(0, 1), stride=2, padding=1)
    doubled = F.conv2d(F.interpolate(x, scale_factor=2.0), weight.flip(-1, -2), padding=1)
    torch.testing.assert_close(doubled, fused, rtol=1e-4, atol=1e-4)


def test_a_y_for_every_layer_is_drawn(tmp_path: Path) -> None:
    found = read(tmp_path, idinvert(3))
    generator, _ = build(found.family, found.config, found.tensors)
    assert generator is not None
    y = generator.get_submodule("mapping")(random(2, Y))
    assert y.shape == (2, 6 * Y)
    x = generator.get_submodule("synthesis")(y)
    assert torch.equal(x, generator.get_submodule("synthesis")(y.reshape(2, 6, Y)))
    assert x.abs().max() <= 1  # a tanh


@pytest.mark.parametrize("lod", [0.0, 0.25, 1.0, 1.5, 2.0])
def test_a_generator_that_grows_shows_two_image_layers(lod: float) -> None:
    growing = grown_to(3, lod)
    ys = random(2, 6, Y)
    images, x = [], None
    for i, side in enumerate((4, 8, 16)):
        block: Any = growing.synthesis.get_submodule(f"b{side}")
        x = block(x, ys[:, 2 * i : 2 * i + 2], "const")
        images.append(F.interpolate(block.torgb(x), 16))
    fine, coarse = images[2 - int(lod)], images[max(1 - int(lod), 0)]
    torch.testing.assert_close(growing.synthesis(ys), fine + (coarse - fine) * (lod % 1), rtol=1e-5, atol=1e-5)


def test_a_discriminator_that_grows_sees_the_smaller_image() -> None:
    def last(width: int) -> dict[str, Any]:
        return {
            "name": "b4", "size": [4, 4], "in_channels": width, "out_channels": width, "fc_features": width, "fromrgb": True,
            "mbstd_group": 4, "mbstd_channels": 1, "outputs": 1,
        }  # fmt: skip

    blocks = [{"name": f"b{side}", "in_channels": WIDTH, "out_channels": WIDTH, "fromrgb": True} for side in (16, 8)]
    whole: Any = {"c_dim": 0, "channels": 3, "resolution": [16, 16], "fromrgb_activation": "lrelu", "epilogue": last(WIDTH)}
    growing = Discriminator1(whole | {"lod": 1.0, "blocks": blocks})
    small = Discriminator1(whole | {"lod": 0.0, "blocks": blocks[1:], "resolution": [8, 8]})
    small.load_state_dict({key: t for key, t in growing.state_dict().items() if not key.startswith("b16.")})
    x = random(4, 3, 16, 16)
    torch.testing.assert_close(growing(x), small(F.avg_pool2d(x, 2)))


def test_a_layer_ends_with_its_style() -> None:
    generator = grown_to(2, 0.0)
    layer: Any = generator.synthesis.get_submodule("b8").get_submodule("conv1")
    y = random(3, Y)
    scale, shift = layer.affine(y).chunk(2, dim=1)
    variance, mean = torch.var_mean(layer(random(3, WIDTH, 8, 8), y, "none"), dim=(2, 3), correction=0)
    torch.testing.assert_close(mean, shift, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(variance, (scale + 1).square(), rtol=1e-3, atol=1e-4)


def test_noise_modes(tmp_path: Path) -> None:
    found = read(tmp_path, genforce(2))
    generator = build1(found.config["generator"], {key.removeprefix("generator."): t for key, t in found.tensors.items()})
    ys = random(1, 4, Y)
    assert torch.equal(generator.synthesis(ys), generator.synthesis(ys))
    assert not torch.equal(generator.synthesis(ys), generator.synthesis(ys, noise_mode="none"))
    assert not torch.equal(generator.synthesis(ys, noise_mode="random"), generator.synthesis(ys, noise_mode="random"))


@pytest.mark.parametrize("program", PROGRAMS)
def test_weights_of_another_shape_are_refused_with_a_message(tmp_path: Path, program: str) -> None:
    state = PROGRAMS[program][0](2)
    for key, tensor in state.items():
        for other in (torch.zeros([]), torch.zeros(0), torch.zeros(3, *tensor.shape)):
            if other.shape != tensor.shape and not (key.endswith("lod") and other.numel() == 1):
                with pytest.raises(CheckpointError):
                    read(tmp_path, state | {key: other})


def test_missing_and_unknown_weights_are_named(tmp_path: Path) -> None:
    state = genforce(2)
    with pytest.raises(CheckpointError, match=r"synthesis\.b8\.conv1\.bias is missing"):
        read(tmp_path, {key: tensor for key, tensor in state.items() if key != "synthesis.layer3.bias"})
    with pytest.raises(CheckpointError, match=r"synthesis\.pixel_norm\.weight"):
        read(tmp_path, state | {"synthesis.pixel_norm.weight": random(1)})


@pytest.mark.parametrize("lod", [float("nan"), float("inf"), -1.0, 2.0])
def test_an_impossible_lod_is_refused(tmp_path: Path, lod: float) -> None:
    with pytest.raises(CheckpointError, match="lod"):
        read(tmp_path, genforce(2) | {"synthesis.lod": torch.tensor(lod)})


def test_noise_images_that_a_file_lacks_are_not_made_without_bound(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"b8192\.conv[01]\.noise_const is missing"):
        read(tmp_path, lernapparat(12))


def test_nothing_is_no_stylegan1() -> None:
    with pytest.raises(CheckpointError):
        infer_generator({}, "net.pth")
    with pytest.raises(CheckpointError):
        infer_discriminator({}, "net.pth")
