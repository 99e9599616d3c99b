"""NVlabs' PyTorch programs: `G_ema.state_dict()` and `D.state_dict()` of the stylegan3 repository, which also has StyleGAN2.

The canonical names are theirs. The loading code is written for that repository (`training/networks_stylegan2.py` and
`networks_stylegan3.py`); nothing runs in half precision there.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from torch import Tensor

from lia_adapter.canonical import (
    Generator2Config,
    Generator3Config,
    GeneratorConfig,
    Layer3Config,
    MappingConfig,
    clamped_parts,
    discriminator2,
    generator2,
    generator3,
)
from lia_adapter.export.base import ExportedFile, literal, refuse, widths_limit
from lia_adapter.export.limits import clamps, dense_layers, discriminator_limits, generator_limits, mapping_limits
from lia_adapter.lia import LIA

__all__ = ["PROGRAM", "export"]

PROGRAM: Final = "NVlabs/stylegan3"


def export(lia: LIA, average: Tensor) -> tuple[ExportedFile, ExportedFile | str | None]:
    """Generator and discriminator for NVlabs' program, or why the discriminator stays behind.

    Args:
        lia: The networks.
        average: Centre of truncation [y_dim].

    Raises:
        LIAError: The program cannot hold the generator.
    """
    if lia.family not in ("stylegan2", "stylegan3"):
        refuse(PROGRAM, [f"the family {lia.family}; StyleGAN 2 and 3 fit"])
    generator = _stylegan2(generator2(lia.config)) if lia.family == "stylegan2" else _stylegan3(generator3(lia.config))
    state = {**lia.generator.state_dict(), "mapping.w_avg": average}
    return ExportedFile(state, generator.code, generator.remarks), _discriminator(lia)


def _stylegan2(config: Generator2Config) -> ExportedFile:
    blocks = config["blocks"]
    found = clamps(clamped_parts(config))
    refuse(PROGRAM, [*generator_limits(config), *_clamp_limits(found)])
    widths, remarks = _widths({block["size"][0]: block["out_channels"] for block in blocks})
    options: dict[str, Any] = {"architecture": blocks[0]["architecture"], **widths, "num_fp16_res": 0}
    options |= {"conv_clamp": next(iter(found)), "use_noise": blocks[-1]["conv1"]["noise"]}
    mapping = dense_layers(config)
    return ExportedFile({}, _code("networks_stylegan2", config, _mapping(mapping), options), remarks + _class_remark(mapping))


def _stylegan3(config: Generator3Config) -> ExportedFile:
    layers = config["layers"]
    found = clamps(layers)
    refuse(PROGRAM, [*mapping_limits(config["mapping"], config["y_dim"]), *_stylegan3_limits(config), *_clamp_limits(found)])
    widths, remarks = _widths3(layers, config["resolution"][0])
    radial = any(layer["down_filter"] and len(layer["down_filter"]) == 2 for layer in layers)
    options: dict[str, Any] = {**widths, "num_layers": len(layers) - 1, "conv_kernel": layers[0]["kernel"]}
    options |= {"use_radial_filters": radial, "output_scale": config["output_scale"], "num_fp16_res": 0}
    margin = (config["input"]["size"][0] - int(config["input"]["sampling_rate"])) // 2
    options |= {"conv_clamp": next(iter(found)), "margin_size": margin}
    mapping = dense_layers(config)
    code = _code("networks_stylegan3", config, {"num_layers": len(mapping["features"])}, options)
    return ExportedFile({}, code, remarks + _class_remark(mapping))


def _class_remark(mapping: MappingConfig) -> tuple[str, ...]:
    return (f"All classes go out; the one that was chosen here is {mapping['class']}.",) if "class" in mapping else ()


def _widths3(layers: Sequence[Layer3Config], side: int) -> tuple[dict[str, int], tuple[str, ...]]:
    """channel_base and channel_max of StyleGAN3's layers, which have round(min(channel_base / 2 / cutoff, channel_max)) maps.

    Cutoffs rise geometrically from 2 to half the side, which the last two layers have (Karras 2021, sec. 3.2).
    """
    widths, most = [layer["out_channels"] for layer in layers[:-1]], max(layer["out_channels"] for layer in layers)
    rises = len(layers) - 3
    cutoffs = [2 * (side / 4) ** min(i / rises, 1) for i in range(len(widths))] if rises > 0 else []
    bases = [2 * cutoff * width for cutoff, width in zip(cutoffs, widths, strict=False)]
    for base in (1 << round(math.log2(max(bases, default=1))), math.ceil(max(bases, default=1))):
        if [round(min(base / 2 / cutoff, most)) for cutoff in cutoffs] == widths:
            return {"channel_base": base, "channel_max": most}, ()
    names = ", ".join(layer["name"] for layer in layers)
    return {}, (f"Add the channel_base and channel_max that the network was trained with; they make the layers {names}.",)


def _stylegan3_limits(config: Generator3Config) -> Iterator[str]:
    mapping, y_dim = config["mapping"], config["y_dim"]
    if "coupling" not in mapping and {*mapping["features"], mapping["embed_features"]} - {None, y_dim}:
        yield "a mapping with layers that are not as wide as y"


def _discriminator(lia: LIA) -> ExportedFile | str | None:
    config = discriminator2(lia.config)
    if lia.discriminator is None or config is None:
        return None
    blocks, last = config["blocks"], config["epilogue"]
    found = clamps(clamped_parts(config))
    limits = [*discriminator_limits(config), *_clamp_limits(found)]
    if limits:
        return f"it has {'; '.join(limits)}"
    by_side = {config["resolution"][0] >> i: block["mid_channels"] for i, block in enumerate(blocks)}
    widths, remarks = _widths(by_side | {4: last["in_channels"]})
    options: dict[str, Any] = {"architecture": last["architecture"], **widths, "num_fp16_res": 0}
    options |= {"conv_clamp": next(iter(found)), "epilogue_kwargs": {"mbstd_group_size": last["mbstd_group"]}}
    sizes = {"c_dim": config["c_dim"], "img_resolution": config["resolution"][0], "img_channels": config["channels"]}
    if config["mapping"]:
        options |= {"cmap_dim": last["cmap_dim"], "mapping_kwargs": _mapping(config["mapping"])}
    code = (
        "from training.networks_stylegan2 import Discriminator",
        f"D = Discriminator({literal(**sizes, **options)})", 'D.load_state_dict(load_file("FILE"), strict=True)',
    )  # fmt: skip
    return ExportedFile(lia.discriminator.state_dict(), code, remarks)


def _code(module: str, config: GeneratorConfig, mapping: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[str, ...]:
    sizes = {
        "z_dim": config["z_dim"], "c_dim": config["mapping"]["c_dim"], "w_dim": config["y_dim"],
        "img_resolution": config["resolution"][0], "img_channels": config["channels"], "mapping_kwargs": mapping,
    }  # fmt: skip
    return (
        f"from training.{module} import Generator", f"G = Generator({literal(**sizes, **options)})",
        'G.load_state_dict(load_file("FILE"), strict=True)', "G.eval().requires_grad_(False)",
    )  # fmt: skip


def _mapping(config: MappingConfig) -> dict[str, Any]:
    """Arguments of the mapping; what they leave out is as wide as y."""
    widths = config["features"]
    options: dict[str, Any] = {"num_layers": len(widths)}
    if widths and widths[0] != widths[-1]:
        options["layer_features"] = widths[0]
    if config["embed_features"] not in (None, *widths[-1:]):
        options["embed_features"] = config["embed_features"]
    return options


def _clamp_limits(found: set[float | None]) -> Iterator[str]:
    if len(found) > 1:
        yield "different clamps in its layers"


def _widths(widths: Mapping[int, int]) -> tuple[dict[str, int], tuple[str, ...]]:
    """channel_base and channel_max of feature maps {side: n}, where n = min(channel_base // side, channel_max)."""
    most = max(widths.values())
    base = max(side * width for side, width in widths.items())
    if all(min(base // side, most) == width for side, width in widths.items()):
        return {"channel_base": base, "channel_max": most}, ()
    return {}, (widths_limit(widths),)
