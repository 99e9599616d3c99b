"""rosinality/stylegan2-pytorch, and what grew from it: `g_ema` and `d` of its files, with `latent_avg` among the former."""

from collections.abc import Iterator, Mapping
from typing import Final

from torch import Tensor

from lia_adapter.canonical import HALF_CLAMP, Discriminator2Config, Generator2Config, clamped_parts, discriminator2, generator2
from lia_adapter.checkpoints.rosinality_names import DISCRIMINATOR, GENERATOR, named
from lia_adapter.export.base import ExportedFile, literal, refuse, widths_limit
from lia_adapter.export.limits import clamps, dense_layers, discriminator_limits, generator_limits
from lia_adapter.lia import LIA

__all__ = ["PROGRAM", "export"]

PROGRAM: Final = "rosinality/stylegan2-pytorch"


def export(lia: LIA, average: Tensor) -> tuple[ExportedFile, ExportedFile | str | None]:
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
    state = named(GENERATOR, lia.generator.state_dict(), len(config["blocks"]), layers)
    generator = ExportedFile(state | {"latent_avg": average}, code, remarks + _clamp_remark("generator", found))
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


def _discriminator(lia: LIA) -> ExportedFile | str | None:
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
    state = named(DISCRIMINATOR, lia.discriminator.state_dict(), len(blocks))
    return ExportedFile(state, code, remarks + _clamp_remark("discriminator", found))


def _widths(widths: Mapping[int, int]) -> tuple[list[str], tuple[str, ...]]:
    """The channel_multiplier of feature maps {side: n}: 512 up to a side of 32, and 16384 * channel_multiplier / side above."""
    for multiplier in (2, 1):
        if all(width == (512 if side <= 32 else 16384 * multiplier // side) for side, width in widths.items()):
            return [literal(channel_multiplier=multiplier)], ()
    return [], (widths_limit(widths),)
