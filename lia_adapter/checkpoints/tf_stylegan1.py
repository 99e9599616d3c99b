"""StyleGAN1 of TensorFlow: NVlabs' stylegan, and config A of stylegan2.

The variables become tensors in StyleGAN1's canonical names (`lia_adapter.checkpoints.stylegan1`). Dense layers are stored
[in, out] and convolutions [h, w, in, out]. From 128x128 on an up-convolution is "fused": TensorFlow transposes a convolution
instead of enlarging the image first, which mirrors the kernel; such kernels are mirrored back here. A file that was saved while
the network still grew has `lod` > 0: how many doublings of the resolution were to come.
"""

import re
from collections.abc import Callable
from typing import Final, Literal

from torch import Tensor

from lia_adapter.canonical import LR_MULTIPLIER, MBSTD_GROUP, Discriminator1Config, InvertibleConfig
from lia_adapter.checkpoints.base import Checkpoint
from lia_adapter.checkpoints.decoder import clean
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.stylegan1 import infer_discriminator, infer_generator, over_root_2
from lia_adapter.checkpoints.tables import Rule, rename
from lia_adapter.checkpoints.tensorflow import (
    Network,
    Networks,
    check_settings,
    conv,
    dense,
    first,
    flipped,
    noise_image,
    read_networks,
    side_of,
)
from lia_adapter.errors import CheckpointError

__all__ = ["MAPPING_RULES", "NAME", "discriminator_tensors", "finish", "generator_tensors", "matches", "read"]

NAME: Final = "stylegan1 of TensorFlow"

_FIXED: Final = {
    "nonlinearity": "lrelu", "mapping_nonlinearity": "lrelu", "use_wscale": True, "use_styles": True, "use_pixel_norm": False,
    "use_instance_norm": True, "const_input_layer": True, "blur_filter": [1, 2, 1],
}  # fmt: skip
_READ: Final = frozenset({"mapping_lrmul", "normalize_latents", "fused_scale", "mbstd_group_size"})
_FUSED_FROM: Final = 128  # pixels a side
_R: Final = r"([0-9]{1,5})x\1"  # such as 16x16
_LAYERS: Final = {"Const": "conv0", "Conv": "conv1", "Conv0_up": "conv0", "Conv1": "conv1"}
_PARTS: Final = {"weight": "weight", "bias": "bias", "Noise/weight": "noise_strength"}


def matches(document: Document) -> bool:
    """Whether the tree holds TensorFlow networks with StyleGAN1's normalisation, and its mapping.

    Args:
        document: The decoded file.
    """
    networks = read_networks(document)
    return (
        networks is not None and networks.generator.has(r".*/StyleMod/weight") and networks.generator.has(r"mapping/Dense0/.*")
    )


def _layer(match: re.Match[str]) -> str:
    """4x4/Const/Noise/weight -> synthesis.b4.conv0.noise_strength."""
    return f"synthesis.b{match[1]}.{_LAYERS[match[2]]}.{_PARTS[match[3]]}"


def _style(match: re.Match[str]) -> str:
    return f"synthesis.b{match[1]}.{_LAYERS[match[2]]}.affine.{match[3]}"


def _noise(match: re.Match[str]) -> str:
    """Noise images are numbered from coarse to fine, two for every resolution."""
    i = int(match[1])
    return f"synthesis.b{4 << i // 2}.conv{i % 2}.noise_const"


def _image_layer(prefix: str, side: int) -> Callable[[re.Match[str]], str]:
    """ToRGB_lod1/weight -> b512.torgb.weight, where the images have 1024 pixels a side."""

    def name(match: re.Match[str]) -> str:
        return f"{prefix}b{side >> int(match[2])}.{match[1].lower()}.{match[3]}"

    return name


def _is_fused(network: Network, side: int) -> bool:
    """Whether the up-convolution to that many pixels a side is a transposed one."""
    fused = network.settings.get("fused_scale", "auto")
    if isinstance(fused, bool):
        return fused
    if fused != "auto":
        raise CheckpointError(
            f"{network.variables.document.name}: fused_scale is {clean(fused, 40)}, and True, False or auto was expected. Get "
            "the file again."
        )
    return side >= _FUSED_FROM


MAPPING_RULES: Final = (
    Rule(r"mapping/LabelConcat/weight", "mapping.label_weight"),
    Rule(r"mapping/Dense([0-9]{1,3})/weight", r"mapping.fc\1.weight", dense),
    Rule(r"mapping/Dense([0-9]{1,3})/bias", r"mapping.fc\1.bias", over_root_2),
)
"""How the variables of StyleGAN1's own mapping are called."""


def generator_tensors(
    network: Network,
    notes: list[str],
    mapping_rules: tuple[Rule, ...] = MAPPING_RULES,
    mapping_settings: frozenset[str] = frozenset(),
) -> dict[str, Tensor]:
    """A generator's variables in StyleGAN1's canonical names.

    Args:
        network: The generator.
        notes: Gains a sentence about settings that are not known.
        mapping_rules: Rules for what is below "mapping/"; dlatent_avg becomes mapping.w_avg.
        mapping_settings: Settings that its mapping has besides StyleGAN1's.

    Raises:
        CheckpointError: A variable is not known, or a setting is not supported.
    """
    check_settings(network, _FIXED, _READ | mapping_settings, notes)
    side = side_of(network)
    layer = rf"synthesis/{_R}/(Const|Conv|Conv0_up|Conv1)"
    return rename(
        network.variables,
        [
            Rule(r"(?:synthesis/)?lod", None),
            Rule(r"dlatent_avg", "mapping.w_avg"),
            *mapping_rules,
            Rule(r"synthesis/noise([0-9]{1,2})", _noise, noise_image),
            Rule(r"synthesis/4x4/Const/const", "synthesis.b4.const", first),
            *(
                Rule(rf"synthesis/{size}x{size}/(Conv0_up)/weight", f"synthesis.b{size}.conv0.weight", flipped)
                for size in (8 << i for i in range(16))
                if _is_fused(network, size)
            ),
            Rule(rf"{layer}/(weight)", _layer, conv),
            Rule(rf"{layer}/(bias|Noise/weight)", _layer),
            Rule(rf"{layer}/StyleMod/(weight)", _style, dense),
            Rule(rf"{layer}/StyleMod/(bias)", _style),
            Rule(r"synthesis/(ToRGB)_lod([0-9]{1,2})/(weight)", _image_layer("synthesis.", side), conv),
            Rule(r"synthesis/(ToRGB)_lod([0-9]{1,2})/(bias)", _image_layer("synthesis.", side)),
        ],
        notes,
    )


def discriminator_tensors(network: Network, notes: list[str]) -> dict[str, Tensor]:
    """A discriminator's variables in StyleGAN1's canonical names.

    Args:
        network: The discriminator.
        notes: Gains a sentence about what is no weight.

    Raises:
        CheckpointError: A variable is not known.
    """
    side = side_of(network)
    return rename(
        network.variables,
        [
            Rule(r"lod", None),
            Rule(r"(FromRGB)_lod([0-9]{1,2})/(weight)", _image_layer("", side), conv),
            Rule(r"(FromRGB)_lod([0-9]{1,2})/(bias)", _image_layer("", side)),
            Rule(rf"{_R}/Conv0/weight", r"b\1.conv0.weight", conv),
            Rule(rf"{_R}/Conv0/bias", r"b\1.conv0.bias"),
            Rule(rf"{_R}/Conv1_down/weight", r"b\1.conv1.weight", conv),  # fused as well, but not mirrored
            Rule(rf"{_R}/Conv1_down/bias", r"b\1.conv1.bias"),
            Rule(r"4x4/Conv/weight", "b4.conv.weight", conv),
            Rule(r"4x4/Conv/bias", "b4.conv.bias"),
            Rule(r"4x4/Dense0/weight", "b4.fc.weight", dense),
            Rule(r"4x4/Dense0/bias", "b4.fc.bias"),
            Rule(r"4x4/Dense1/weight", "b4.out.weight", dense),
            Rule(r"4x4/Dense1/bias", "b4.out.bias"),
        ],
        notes,
    )


def read(document: Document, sha256: str) -> Checkpoint:
    """Take the averaged generator and the discriminator out of the tree.

    Args:
        document: The decoded file, for which `matches` is true.
        sha256: Of the file.

    Returns:
        The checkpoint; what was mirrored or scaled is a copy, the rest a view of the numbers as stored.

    Raises:
        CheckpointError: A variable is missing, not known or of another shape, or a setting is not supported.
    """
    networks = read_networks(document)
    if networks is None:
        raise CheckpointError(f"{document.name} has no generator in it. A tuple (G, D, Gs) was expected: get the file again.")
    notes = list(networks.notes)
    tensors = generator_tensors(networks.generator, notes)
    return finish(document, sha256, networks, tensors, notes)


def finish(
    document: Document,
    sha256: str,
    networks: Networks,
    tensors: dict[str, Tensor],
    notes: list[str],
    *,
    mapping: InvertibleConfig | None = None,
    final: Literal["tanh"] | None = None,
) -> Checkpoint:
    """The checkpoint of a StyleGAN1 whose generator's tensors are named already.

    Args:
        document: The decoded file.
        sha256: Of the file.
        networks: What is in it.
        tensors: The generator's, by canonical names.
        notes: What was ignored or chosen so far; gains more.
        mapping: The mapping's config, where it is not StyleGAN1's own, whose settings are read here.
        final: What comes behind the last layer: "tanh" or None.

    Raises:
        CheckpointError: As `read`.
    """
    generator, discriminator = networks.generator, networks.discriminator
    config = infer_generator(tensors, document.name, mapping=mapping, final=final, lod=_lod(generator))
    config_d: Discriminator1Config | None = None
    if "coupling" not in (dense_layers := config["mapping"]):
        dense_layers["lr_multiplier"] = generator.number("mapping_lrmul", LR_MULTIPLIER)
        dense_layers["normalize"] = generator.settings.get("normalize_latents", True) is not False
    found = {f"generator.{name}": tensor for name, tensor in tensors.items()}
    tensors_d = None if discriminator is None else _known_discriminator(discriminator, notes)
    if discriminator is None:
        notes.append("the file has no discriminator")
    elif tensors_d is not None:
        config_d = infer_discriminator(
            tensors_d, document.name, mbstd_group=discriminator.minibatch_group(MBSTD_GROUP), lod=_lod(discriminator)
        )
        if discriminator.settings.get("label_size") == 1:
            config_d["c_dim"] = 1  # one output either way
        found |= {f"discriminator.{name}": tensor for name, tensor in tensors_d.items()}
    return Checkpoint(
        family="stylegan1", config={"generator": config, "discriminator": config_d}, tensors=found, sha256=sha256,
        symbols=document.names, notes=tuple(notes) + document.notes, source=document.name,
    )  # fmt: skip


def _known_discriminator(network: Network, notes: list[str]) -> dict[str, Tensor] | None:
    """A discriminator's tensors; None, with a note, for one of an unknown kind: that costs nobody the generator."""
    try:
        check_settings(network, _FIXED, _READ, notes)
        return discriminator_tensors(network, notes)
    except CheckpointError as error:
        notes.append(f"the discriminator was ignored: {error}")
        return None


def _lod(network: Network) -> float:
    """A network of fixed structure has one layer for images, and does not look at its lod."""
    return network.lod() if network.has(r"(synthesis/ToRGB|FromRGB)_lod1/weight") else 0.0
