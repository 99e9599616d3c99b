"""From weights in StyleGAN1's canonical names to the config that they imply, checked.

Names are those of StyleGAN2's canonical form with what differs: `conv0` and `conv1` have a noise strength for every channel and
an `affine` of twice as many outputs (scale - 1, then shift); `b4.conv0` has no weight, it follows the constant. All
up-convolutions are correlations of an image that was doubled before; "fused" ones are mirrored by who reads them. The bias of
the mapping's layers is divided by sqrt(2), because the canonical mapping has that gain behind its activation.
"""

import math
import re
from collections.abc import Mapping
from typing import Final, Literal, NoReturn

import torch
from torch import Tensor

from lia_adapter.canonical import (
    MAX_SIDE,
    MBSTD_GROUP,
    NORM_EPS,
    Block1Config,
    Discriminator1Config,
    DiscriminatorBlock1Config,
    Epilogue1Config,
    Generator1Config,
    InvertibleConfig,
    MappingConfig,
)
from lia_adapter.checkpoints.base import Checkpoint
from lia_adapter.checkpoints.decoder import clean
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.stylegan2 import infer_mapping
from lia_adapter.errors import CheckpointError

__all__ = ["assemble", "infer_discriminator", "infer_generator", "over_root_2"]

# Noise images that a file has not are memory that it did not pay for.
_MAX_MADE: Final = 2**12

_Shapes = dict[str, tuple[int, ...]]


def over_root_2(bias: Tensor) -> Tensor:
    """A bias of the mapping as the canonical mapping has it."""
    return bias / math.sqrt(2)


def assemble(
    document: Document,
    sha256: str,
    generator: dict[str, Tensor] | None,
    discriminator: dict[str, Tensor] | None = None,
    notes: list[str] | None = None,
    *,
    norm_eps: float = NORM_EPS,
    final: Literal["tanh"] | None = None,
    lod: float = 0.0,
    fromrgb_activation: Literal["lrelu", "linear"] = "lrelu",
) -> Checkpoint:
    """A checkpoint from weights in canonical names.

    Args:
        document: What they are from.
        sha256: Of the file.
        generator: The generator's, without a prefix; None where there is none.
        discriminator: The discriminator's.
        notes: What was ignored or chosen so far.
        norm_eps: Of the instance norm.
        final: What comes behind the last layer: "tanh" or None.
        lod: Doublings of the resolution that were still to come.
        fromrgb_activation: What follows the discriminator's image layers: "lrelu" or "linear".

    Raises:
        CheckpointError: A tensor is missing, left over, or contradicts its neighbours.
    """
    notes = list(notes or [])
    config: Generator1Config | None = None
    config_d: Discriminator1Config | None = None
    tensors: dict[str, Tensor] = {}
    if generator is None:
        notes.append("the file has no generator")
    else:
        add_noise(generator, notes)
        config = infer_generator(generator, document.name, norm_eps=norm_eps, final=final, lod=lod)
        tensors |= {f"generator.{key}": tensor for key, tensor in generator.items()}
    if discriminator is None:
        notes.append("the file has no discriminator")
    else:
        config_d = infer_discriminator(discriminator, document.name, lod=lod, fromrgb_activation=fromrgb_activation)
        tensors |= {f"discriminator.{key}": tensor for key, tensor in discriminator.items()}
    return Checkpoint(
        family="stylegan1", config={"generator": config, "discriminator": config_d}, tensors=tensors, sha256=sha256,
        symbols=document.names, notes=tuple(notes) + document.notes, source=document.name,
    )  # fmt: skip


def add_noise(tensors: dict[str, Tensor], notes: list[str]) -> None:
    """Zero images where a layer has strengths of noise and no image of it."""
    missing = 0
    for key in [key for key in tensors if key.endswith(".noise_strength")]:
        image, match = key.removesuffix("strength") + "const", re.search(r"\.b([0-9]{1,5})\.", key)
        if image not in tensors and match and int(match[1]) <= _MAX_MADE:
            tensors[image] = torch.zeros(1, 1).expand(int(match[1]), int(match[1]))
            missing += 1
    if missing:
        notes.append(f"{missing} layers have no noise image in the file: const noise is none for them, random noise works")


def infer_generator(
    tensors: Mapping[str, Tensor],
    name: str,
    *,
    mapping: InvertibleConfig | None = None,
    norm_eps: float = NORM_EPS,
    final: Literal["tanh"] | None = None,
    lod: float = 0.0,
) -> Generator1Config:
    """The config of a generator.

    Args:
        tensors: By canonical names, nothing besides.
        name: The file's name, for messages.
        mapping: The mapping's config, where its own tensors do not tell it (`infer_mapping`).
        norm_eps: Of the instance norm.
        final: What comes behind the last layer.
        lod: Doublings of the resolution that were still to come.

    Raises:
        CheckpointError: A tensor is missing, left over, or contradicts its neighbours.
    """
    found = _Found(name, tensors)
    names = found.blocks(r"synthesis\.", r"conv1\.weight")
    size = found.shape("synthesis.b4.const", 3)[1:]
    if max(size) << len(names) - 1 > MAX_SIDE:
        found.fail(f"its images have more than {MAX_SIDE:,} pixels a side")
    own: MappingConfig | InvertibleConfig = infer_mapping(tensors, name) if mapping is None else mapping
    y_dim = found.shape("synthesis.b4.conv0.affine.weight", 2)[1]
    channels = found.shape(f"synthesis.{names[-1]}.torgb.weight", 4)[0]
    blocks: list[Block1Config] = []
    for i, block in enumerate(names):
        blocks.append(
            {
                "name": block, "size": [side << i for side in size], "in_channels": blocks[-1]["out_channels"] if i else 0,
                "out_channels": found.shape(f"synthesis.{block}.conv1.weight", 4)[0],
                "noise": f"synthesis.{block}.conv1.noise_strength" in tensors,
                "torgb": f"synthesis.{block}.torgb.weight" in tensors,
            }
        )  # fmt: skip
    wanted = _generator_shapes(blocks, y_dim, channels)
    if "coupling" in own:
        wanted |= {key: tuple(tensor.shape) for key, tensor in tensors.items() if key.startswith("mapping.")}
    else:
        wanted |= _mapping_shapes(own, y_dim, found)
    found.check(wanted)
    found.check_lod(lod, len(blocks))
    if lod and not all(block["torgb"] for block in blocks):
        found.fail(f"it still grows (lod {lod:g}), and has no image layer for every resolution")
    return {
        "z_dim": y_dim if "coupling" in own else own["z_dim"], "c_dim": own["c_dim"], "y_dim": y_dim, "num_ws": 2 * len(blocks),
        "resolution": list(blocks[-1]["size"]), "channels": channels, "mapping": own, "norm_eps": norm_eps, "final": final,
        "lod": lod, "blocks": blocks,
    }  # fmt: skip


def infer_discriminator(
    tensors: Mapping[str, Tensor],
    name: str,
    *,
    mbstd_group: int | None = MBSTD_GROUP,
    lod: float = 0.0,
    fromrgb_activation: Literal["lrelu", "linear"] = "lrelu",
) -> Discriminator1Config:
    """The config of a discriminator.

    Args:
        tensors: By canonical names, nothing besides.
        name: The file's name, for messages.
        mbstd_group: Group size of the minibatch standard deviation; None: the whole batch.
        lod: Doublings of the resolution that were still to come.
        fromrgb_activation: What follows the image layers.

    Raises:
        CheckpointError: A tensor is missing, left over, or contradicts its neighbours.
    """
    found = _Found(name, tensors)
    names = found.blocks("", r"conv0\.weight")[::-1]
    out, wider = found.shape("b4.conv.weight", 4)[:2]
    features, inputs = found.shape("b4.fc.weight", 2)
    outputs = found.shape("b4.out.weight", 2)[0]
    side = math.isqrt(inputs // out)
    blocks: list[DiscriminatorBlock1Config] = []
    for block in names:
        wide, narrow = found.shape(f"{block}.conv1.weight", 4)[:2]
        fromrgb = f"{block}.fromrgb.weight" in tensors
        blocks.append({"name": block, "in_channels": narrow, "out_channels": wide, "fromrgb": fromrgb})
    first = names[0] if names else "b4"
    channels = found.shape(f"{first}.fromrgb.weight", 4)[1]
    width = blocks[-1]["out_channels"] if blocks else found.shape("b4.fromrgb.weight", 4)[0]
    last: Epilogue1Config = {
        "name": "b4", "size": [side, side], "in_channels": width, "out_channels": out, "fc_features": features,
        "fromrgb": "b4.fromrgb.weight" in tensors, "mbstd_group": mbstd_group, "mbstd_channels": wider - width,
        "outputs": outputs,
    }  # fmt: skip
    found.check(_discriminator_shapes(blocks, last, channels))
    found.check_lod(lod, len(blocks) + 1)
    if lod and not all(block["fromrgb"] for block in [*blocks, last]):
        found.fail(f"its discriminator still grows (lod {lod:g}), and has no image layer for every resolution")
    return {
        "c_dim": outputs if outputs > 1 else 0, "channels": channels, "resolution": [side << len(blocks)] * 2, "lod": lod,
        "fromrgb_activation": fromrgb_activation, "blocks": blocks, "epilogue": last,
    }  # fmt: skip


class _Found:
    """Tensors by name, with the errors that a person can use."""

    def __init__(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        self.name, self.tensors = name, tensors

    def fail(self, why: str) -> NoReturn:
        raise CheckpointError(f"{self.name}: {why}. It is damaged, or a variant of StyleGAN1 that this version does not know.")

    def missing(self, key: str) -> NoReturn:
        raise CheckpointError(f"{self.name}: {clean(key)} is missing, so this is no whole StyleGAN1. Get the file again.")

    def shape(self, key: str, axes: int) -> list[int]:
        if key not in self.tensors:
            self.missing(key)
        shape = list(self.tensors[key].shape)
        if len(shape) != axes or 0 in shape:
            self.fail(f"{clean(key)} has shape {shape}, and {axes} axes were expected")
        return shape

    def blocks(self, prefix: str, part: str) -> list[str]:
        """Names of the blocks that have such a part, from coarse to fine."""
        sides = sorted(
            int(match[1]) for key in self.tensors if (match := re.fullmatch(rf"{prefix}b([0-9]{{1,5}})\.{part}", key))
        )
        start = 4 if prefix else 8  # the discriminator's last block has another layer
        if sides != [start << i for i in range(len(sides))] or (prefix and not sides):
            sizes = ", ".join(map(str, sides)) or "no"
            self.fail(f"its blocks have {sizes} pixels a side, and {start}, {2 * start}, ... were expected")
        return [f"b{side}" for side in sides]

    def check_lod(self, lod: float, sizes: int) -> None:
        if not 0 <= lod < sizes:  # also refuses NaN
            self.fail(f"it has lod {lod:g}, and 0 (fully grown) to {sizes - 1} were expected")

    def check(self, wanted: _Shapes) -> None:
        for key, shape in wanted.items():
            if key not in self.tensors:
                self.missing(key)
            if tuple(self.tensors[key].shape) != shape:
                self.fail(f"{clean(key)} has shape {list(self.tensors[key].shape)}, and {list(shape)} was expected")
        left = [key for key in self.tensors if key not in wanted]
        if left:
            self.fail(f"{len(left)} tensors have no place in its structure: {', '.join(clean(key, 60) for key in left[:5])}")


def _generator_shapes(blocks: list[Block1Config], y_dim: int, channels: int) -> _Shapes:
    shapes: _Shapes = {}
    for block in blocks:
        name, narrow, wide = f"synthesis.{block['name']}", block["in_channels"], block["out_channels"]
        if narrow:
            shapes[f"{name}.conv0.weight"] = (wide, narrow, 3, 3)
        else:
            shapes[f"{name}.const"] = (wide, *block["size"])
        shapes[f"{name}.conv1.weight"] = (wide, wide, 3, 3)
        for layer in ("conv0", "conv1"):
            shapes |= {
                f"{name}.{layer}.bias": (wide,),
                f"{name}.{layer}.affine.weight": (2 * wide, y_dim),
                f"{name}.{layer}.affine.bias": (2 * wide,),
            }
            if block["noise"]:
                shapes |= {f"{name}.{layer}.noise_strength": (wide,), f"{name}.{layer}.noise_const": tuple(block["size"])}
        if block["torgb"]:
            shapes |= {f"{name}.torgb.weight": (channels, wide, 1, 1), f"{name}.torgb.bias": (channels,)}
    return shapes


def _mapping_shapes(config: MappingConfig, y_dim: int, found: _Found) -> _Shapes:
    width: int = config["z_dim"]
    shapes: _Shapes = {}
    if config["embed_features"] is not None:
        shapes["mapping.label_weight"] = (config["c_dim"], config["embed_features"])
        width += config["embed_features"]
    for i, features in enumerate(config["features"]):
        shapes |= {f"mapping.fc{i}.weight": (features, width), f"mapping.fc{i}.bias": (features,)}
        width = features
    if config["has_average"]:
        (average,) = found.shape("mapping.w_avg", 1)
        if average not in (y_dim, width):
            found.fail(f"mapping.w_avg has {average} entries, and {y_dim} were expected")
        config["average_width"] = average
        shapes["mapping.w_avg"] = (average,)
    if width % y_dim:
        found.fail(f"its mapping gives {width} numbers, and its layers take {y_dim}")
    return shapes


def _discriminator_shapes(blocks: list[DiscriminatorBlock1Config], last: Epilogue1Config, channels: int) -> _Shapes:
    shapes: _Shapes = {}
    width = blocks[0]["in_channels"] if blocks else last["in_channels"]
    for block in blocks:
        name, narrow, wide = block["name"], width, block["out_channels"]
        shapes |= {f"{name}.conv0.weight": (narrow, narrow, 3, 3), f"{name}.conv0.bias": (narrow,)}
        shapes |= {f"{name}.conv1.weight": (wide, narrow, 3, 3), f"{name}.conv1.bias": (wide,)}
        width = wide
    for block in [*blocks, last]:
        if block["fromrgb"]:
            shapes[f"{block['name']}.fromrgb.weight"] = (block["in_channels"], channels, 1, 1)
            shapes[f"{block['name']}.fromrgb.bias"] = (block["in_channels"],)
    (h, w), out = last["size"], last["out_channels"]
    return shapes | {
        "b4.conv.weight": (out, width + last["mbstd_channels"], 3, 3), "b4.conv.bias": (out,),
        "b4.fc.weight": (last["fc_features"], out * h * w), "b4.fc.bias": (last["fc_features"],),
        "b4.out.weight": (last["outputs"], last["fc_features"]), "b4.out.bias": (last["outputs"],),
    }  # fmt: skip
