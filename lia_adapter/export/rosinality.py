"""rosinality/stylegan2-pytorch, and what grew from it: `g_ema` and `d` of its files, with `latent_avg` among the former."""

from collections.abc import Iterator, Mapping
from typing import Final

from torch import Tensor

from lia_adapter.canonical import HALF_CLAMP, Discriminator2Config, Generator2Config, clamped_parts, discriminator2, generator2
from lia_adapter.export.base import Part, literal, refuse, widths_limit
from lia_adapter.export.limits import clamps, dense_layers, discriminator_limits, generator_limits
from lia_adapter.lia import LIA

__all__ = ["PROGRAM", "export"]

PROGRAM: Final = "rosinality/stylegan2-pytorch"

State = Mapping[str, Tensor]


def export(lia: LIA, average: Tensor) -> tuple[Part, Part | str | None]:
    """Generator and discriminator for rosinality's program, or why the discriminator stays behind.

    Args:
        lia: The networks.
        average: Centre of truncation [y_dim].

    Raises:
        LIAError: The program cannot hold the generator.
    """
    if lia.family != "stylegan2":
        refuse(PROGRAM, [f"the family {lia.family}; StyleGAN2 alone fits"])
    config = generator2(lia.config)
    found = clamps(clamped_parts(config))
    refuse(PROGRAM, [*generator_limits(config), *_generator_limits(config), *_clamp_limits(found)])
    widths, remarks = _widths({block["size"][0]: block["out_channels"] for block in config["blocks"]})
    layers = len(dense_layers(config)["features"])
    arguments = ", ".join([str(config["resolution"][0]), str(config["y_dim"]), str(layers), *widths])
    code = (
        "from model import Generator", 'state = load_file("FILE")', 'latent_avg = state.pop("latent_avg")',
        f"g_ema = Generator({arguments})", "g_ema.load_state_dict(state, strict=True)",
        "# an image: g_ema([z], truncation=0.7, truncation_latent=latent_avg, randomize_noise=False)[0]",
    )  # fmt: skip
    state = _generator(lia.generator.state_dict(), len(config["blocks"]))  # type: ignore[attr-defined]
    generator = Part(state | {"latent_avg": average}, code, remarks + _clamp_remark("generator", found))
    return generator, _discriminator(lia)


def _generator_limits(config: Generator2Config) -> Iterator[str]:
    mapping = config["mapping"]
    if mapping["c_dim"]:
        yield f"labels ({mapping['c_dim']} entries)"
    if config["z_dim"] != config["y_dim"]:
        yield f"a z of {config['z_dim']} entries and a y of {config['y_dim']}"
    if "coupling" not in mapping and set(mapping["features"]) - {config["y_dim"]}:
        yield "a mapping with layers that are not as wide as y"
    if any(block["architecture"] != "skip" for block in config["blocks"]):
        yield f"the architecture {config['blocks'][-1]['architecture']}, and skip was expected"
    if not all(layer["noise"] for block in config["blocks"] for layer in (block["conv0"], block["conv1"]) if layer):
        yield "no noise"
    yield from _channel_limits(config)


def _channel_limits(config: Generator2Config | Discriminator2Config) -> Iterator[str]:
    if config["channels"] != 3:
        yield f"images of {config['channels']} channels"


def _clamp_limits(found: set[float | None]) -> Iterator[str]:
    # Images of trained networks do not reach it in single precision.
    low = [clamp for clamp in found if clamp is not None and clamp < HALF_CLAMP]
    if low:
        yield f"layers that are clamped at {min(low):g}"


def _clamp_remark(name: str, found: set[float | None]) -> tuple[str, ...]:
    if found == {None}:
        return ()
    return (f"The {name}'s clamps stay behind. Only networks in half precision were ever seen to reach them.",)


def _generator(state: State, blocks: int) -> dict[str, Tensor]:
    """The generator's tensors by rosinality's names, without latent_avg."""
    tensors = {}
    for name, tensor in state.items():
        if name.startswith("mapping.fc"):
            layer, part = name.removeprefix("mapping.fc").split(".")
            tensors[f"style.{int(layer) + 1}.{part}"] = tensor  # style.0 normalises z
    tensors["input.input"] = state["synthesis.b4.const"][None]
    for i in range(blocks):
        block = f"synthesis.b{4 << i}"
        names = {"conv1": "conv1"} if i == 0 else {"conv0": f"convs.{2 * i - 2}", "conv1": f"convs.{2 * i - 1}"}
        for j, (layer, name) in enumerate(names.items()):
            own = f"{block}.{layer}"
            tensors |= _modulated(state, own, f"{name}.conv")
            tensors[f"{name}.noise.weight"] = state[f"{own}.noise_strength"].reshape(1)
            tensors[f"{name}.activate.bias"] = state[f"{own}.bias"]
            tensors[f"noises.noise_{max(0, 2 * i - 1) + j}"] = state[f"{own}.noise_const"][None, None]
            if layer == "conv0":
                tensors[f"{name}.conv.blur.kernel"] = state[f"{own}.resample_filter"] * 4  # the gain of up-sampling
        name = f"to_rgbs.{i - 1}" if i else "to_rgb1"
        tensors |= _modulated(state, f"{block}.torgb", f"{name}.conv")
        tensors[f"{name}.bias"] = state[f"{block}.torgb.bias"].reshape(1, -1, 1, 1)
        if i:
            tensors[f"{name}.upsample.kernel"] = state[f"{block}.resample_filter"] * 4
    return tensors


def _modulated(state: State, own: str, name: str) -> dict[str, Tensor]:
    affine = {f"{name}.modulation.{part}": state[f"{own}.affine.{part}"] for part in ("weight", "bias")}
    return {f"{name}.weight": state[f"{own}.weight"][None], **affine}


def _discriminator(lia: LIA) -> Part | str | None:
    config = discriminator2(lia.config)
    if lia.discriminator is None or config is None:
        return None
    blocks, last = config["blocks"], config["epilogue"]
    found = clamps(clamped_parts(config))
    limits = [*discriminator_limits(config), *_channel_limits(config), *_clamp_limits(found)]
    if config["c_dim"]:
        limits.append(f"labels ({config['c_dim']} entries)")
    if last["architecture"] != "resnet":
        limits.append(f"the architecture {last['architecture']}, and resnet was expected")
    if last["mbstd_group"] != 4:
        limits.append(f"the minibatch's standard deviation over groups of {last['mbstd_group'] or 'all'}, and 4 was expected")
    if limits:
        return f"it has {'; '.join(limits)}"
    size = config["resolution"][0]
    widths, remarks = _widths({size >> i: block["mid_channels"] for i, block in enumerate(blocks)} | {4: last["in_channels"]})
    code = (
        "from model import Discriminator", f"d = Discriminator({', '.join([str(size), *widths])})",
        'd.load_state_dict(load_file("FILE"), strict=True)',
    )  # fmt: skip
    state = _discriminator_state(lia.discriminator.state_dict(), [block["name"] for block in blocks])
    return Part(state, code, remarks + _clamp_remark("discriminator", found))


def _discriminator_state(state: State, names: list[str]) -> dict[str, Tensor]:
    """The discriminator's tensors by rosinality's names; blocks are counted from the finest."""
    pairs = {f"{names[0]}.fromrgb.weight": "convs.0.0.weight", f"{names[0]}.fromrgb.bias": "convs.0.1.bias"}
    for i, block in enumerate(names, start=1):
        pairs |= {
            f"{block}.conv0.weight": f"convs.{i}.conv1.0.weight", f"{block}.conv0.bias": f"convs.{i}.conv1.1.bias",
            f"{block}.conv1.resample_filter": f"convs.{i}.conv2.0.kernel",
            f"{block}.conv1.weight": f"convs.{i}.conv2.1.weight", f"{block}.conv1.bias": f"convs.{i}.conv2.2.bias",
            f"{block}.skip.resample_filter": f"convs.{i}.skip.0.kernel", f"{block}.skip.weight": f"convs.{i}.skip.1.weight",
        }  # fmt: skip
    pairs |= {"b4.conv.weight": "final_conv.0.weight", "b4.conv.bias": "final_conv.1.bias"}
    for i, layer in enumerate(("fc", "out")):
        pairs |= {f"b4.{layer}.{part}": f"final_linear.{i}.{part}" for part in ("weight", "bias")}
    return {name: state[own] for own, name in pairs.items()}


def _widths(widths: Mapping[int, int]) -> tuple[list[str], tuple[str, ...]]:
    """The channel_multiplier of feature maps {side: n}: 512 up to a side of 32, and 16384 * channel_multiplier / side above."""
    for multiplier in (2, 1):
        if all(width == (512 if side <= 32 else 16384 * multiplier // side) for side, width in widths.items()):
            return [literal(channel_multiplier=multiplier)], ()
    return [], (widths_limit(widths),)
