"""StyleGAN2 of TensorFlow: the configs B to F of stylegan2, and stylegan2-ada.

The variables become tensors in the names of NVlabs' PyTorch code. What differs besides the names: dense layers are stored
[in, out] and convolutions [h, w, in, out], the kernels of up-convolutions mirrored; a style's bias lacks its 1; noise images
are numbered over all layers. Three things are in neither names nor shapes but in the settings: the low-pass filter, the clamp
and the size of the discriminator's groups.

stylegan2's configs B to D have a ToRGB for every resolution, as StyleGAN1 has, of which a finished network uses the last.
"""

import re
from typing import Final

import torch
from torch import Tensor

from lia_adapter.canonical import (
    LR_MULTIPLIER,
    MBSTD_GROUP,
    TAPS,
    Discriminator2Config,
    DiscriminatorLabel,
    Generator2Config,
    clamped_parts,
)
from lia_adapter.checkpoints.base import Checkpoint
from lia_adapter.checkpoints.decoder import clean
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.stylegan2 import assemble
from lia_adapter.checkpoints.tables import Rule, rename
from lia_adapter.checkpoints.tensorflow import (
    Network,
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

__all__ = ["NAME", "matches", "read"]

NAME: Final = "stylegan2 of TensorFlow"

_FIXED: Final = {"nonlinearity": "lrelu", "mapping_nonlinearity": "lrelu"}
_READ: Final = frozenset({"mapping_lrmul", "normalize_latents", "resample_kernel", "conv_clamp", "mbstd_group_size"})
_ADA_GAMES: Final = {"use_pagan": False, "use_spectral_norm": False, "score_max": 1}
_R: Final = r"([0-9]{1,5})x\1"  # such as 16x16
_LAYERS: Final = {"Conv0_up": "conv0", "Conv1": "conv1", "Conv": "conv1", "ToRGB": "torgb"}


def matches(document: Document) -> bool:
    """Whether the tree holds TensorFlow networks with modulated convolutions.

    Args:
        document: The decoded file.
    """
    networks = read_networks(document)
    return networks is not None and networks.generator.has(r"synthesis/4x4/Conv/mod_weight")


def read(document: Document, sha256: str) -> Checkpoint:
    """Take the averaged generator and the discriminator out of the tree.

    Args:
        document: The decoded file, for which `matches` is true.
        sha256: Of the file.

    Returns:
        The checkpoint; what was mirrored or shifted is a copy, the rest a view of the numbers as stored.

    Raises:
        CheckpointError: A variable is missing, not known or of another shape, or a setting is not supported.
    """
    networks = read_networks(document)
    if networks is None:
        raise CheckpointError(f"{document.name} has no generator in it. A tuple (G, D, Gs) was expected: get the file again.")
    generator, discriminator, notes = networks.generator, networks.discriminator, list(networks.notes)
    check_settings(generator, _FIXED, _READ, notes)
    _refuse_growing(generator)
    tensors = rename(generator.variables, _generator_rules(side_of(generator)), notes)
    _add_filters(tensors, generator, "synthesis.")
    tensors_d = group = None
    label: DiscriminatorLabel = "project"
    if discriminator is not None and (tensors_d := _discriminator_tensors(discriminator, notes)) is not None:
        # ADA's takes the whole batch by default, stylegan2's groups of four.
        group = discriminator.minibatch_group(None if discriminator.function == "D_main" else MBSTD_GROUP)
        label = "project" if "mapping.embed.weight" in tensors_d else "sum"

    def settle(config: Generator2Config | None, config_d: Discriminator2Config | None) -> None:
        if config is not None:
            _set_generator(config, generator)
        if config_d is not None and discriminator is not None:
            _set_discriminator(config_d, discriminator)

    return assemble(document, sha256, tensors, tensors_d, notes, mbstd_group=group, label=label, settle=settle)


def _layer(match: re.Match[str]) -> str:
    """8x8/Conv0_up/mod_weight -> synthesis.b8.conv0.affine.weight."""
    side, layer, what = match[1], match[2], match[3].replace("mod_", "affine.")
    return f"synthesis.b{side}.{_LAYERS[layer]}.{what}"


def _noise(match: re.Match[str]) -> str:
    """Noise images are numbered from coarse to fine: one for 4x4, two for every other resolution."""
    i = int(match[1])
    return f"synthesis.b{2 ** ((i + 5) // 2)}.conv{0 if i % 2 else 1}.noise_const"


def _generator_rules(side: int) -> list[Rule]:
    """Rules for a generator of images of that many pixels a side."""
    layer = rf"synthesis/{_R}/(Conv0_up|Conv1|Conv|ToRGB)"
    last = "synthesis/ToRGB_lod0"
    return [
        Rule(r"(?:synthesis/)?lod", None),
        Rule(r"dlatent_avg", "mapping.w_avg"),
        Rule(r"mapping/LabelConcat/weight", "mapping.label_weight"),
        Rule(r"mapping/LabelEmbed/weight", "mapping.embed.weight", dense),
        Rule(r"mapping/LabelEmbed/bias", "mapping.embed.bias"),
        Rule(r"mapping/Dense([0-9]{1,3})/weight", r"mapping.fc\1.weight", dense),
        Rule(r"mapping/Dense([0-9]{1,3})/bias", r"mapping.fc\1.bias"),
        Rule(r"synthesis/noise([0-9]{1,2})", _noise, noise_image),
        Rule(r"synthesis/4x4/Const/const", "synthesis.b4.const", first),
        Rule(rf"synthesis/{_R}/(Conv0_up)/(weight)", _layer, flipped),
        Rule(rf"{layer}/(weight)", _layer, conv),
        Rule(rf"{layer}/(mod_weight)", _layer, dense),
        Rule(rf"{layer}/(mod_bias)", _layer, _plus_one),
        Rule(rf"{layer}/(bias|noise_strength)", _layer),
        Rule(rf"synthesis/{_R}/Skip/weight", r"synthesis.b\1.skip.weight", conv),  # 1x1: nothing to mirror
        Rule(rf"{last}/weight", f"synthesis.b{side}.torgb.weight", conv),
        Rule(rf"{last}/mod_weight", f"synthesis.b{side}.torgb.affine.weight", dense),
        Rule(rf"{last}/mod_bias", f"synthesis.b{side}.torgb.affine.bias", _plus_one),
        Rule(rf"{last}/bias", f"synthesis.b{side}.torgb.bias"),
        Rule(r"synthesis/ToRGB_lod[0-9]{1,2}/.*", None),
    ]


def _discriminator_rules(side: int) -> list[Rule]:
    """Rules for a discriminator of images of that many pixels a side."""
    return [
        Rule(r"lod", None),
        Rule(r"LabelEmbed/weight", "mapping.embed.weight", dense),
        Rule(r"LabelEmbed/bias", "mapping.embed.bias"),
        Rule(r"Mapping([0-9]{1,3})/weight", r"mapping.fc\1.weight", dense),
        Rule(r"Mapping([0-9]{1,3})/bias", r"mapping.fc\1.bias"),
        Rule(rf"{_R}/FromRGB/weight", r"b\1.fromrgb.weight", conv),
        Rule(rf"{_R}/FromRGB/bias", r"b\1.fromrgb.bias"),
        Rule(r"FromRGB_lod0/weight", f"b{side}.fromrgb.weight", conv),
        Rule(r"FromRGB_lod0/bias", f"b{side}.fromrgb.bias"),
        Rule(r"FromRGB_lod[0-9]{1,2}/.*", None),
        Rule(rf"{_R}/Conv0/weight", r"b\1.conv0.weight", conv),
        Rule(rf"{_R}/Conv0/bias", r"b\1.conv0.bias"),
        Rule(rf"{_R}/Conv1_down/weight", r"b\1.conv1.weight", conv),
        Rule(rf"{_R}/Conv1_down/bias", r"b\1.conv1.bias"),
        Rule(rf"{_R}/Skip/weight", r"b\1.skip.weight", conv),
        Rule(r"4x4/Conv/weight", "b4.conv.weight", conv),
        Rule(r"4x4/Conv/bias", "b4.conv.bias"),
        Rule(r"4x4/Dense0/weight", "b4.fc.weight", dense),
        Rule(r"4x4/Dense0/bias", "b4.fc.bias"),
        Rule(r"Output/weight", "b4.out.weight", dense),
        Rule(r"Output/bias", "b4.out.bias"),
    ]


def _plus_one(bias: Tensor) -> Tensor:
    return bias + 1


def _refuse_growing(generator: Network) -> None:
    if generator.has(r"synthesis/ToRGB_lod0/.*") and generator.lod() > 0:
        raise CheckpointError(
            f"{generator.variables.document.name} was saved while the generator still grew (lod = {generator.lod():g}): its "
            "last layers are not trained yet. Pass a later checkpoint of the same run."
        )


def _discriminator_tensors(network: Network, notes: list[str]) -> dict[str, Tensor] | None:
    """A discriminator's tensors; None, with a note, for one of an unknown kind: that costs nobody the generator."""
    oddities = {
        "PA-GAN's variables": network.has(r"(.*/)?PAGAN/.*"),
        "spectral normalisation's variables": network.has(r".*_sn"),
        f"layers that still grew (lod = {network.lod():g})": network.has(r"FromRGB_lod0/.*") and network.lod() > 0,
        "a clamp behind the image's layer at 4x4": network.settings.get("conv_clamp") is not None
        and network.has(r"4x4/FromRGB/.*"),
    }
    odd = [what for what, is_so in oddities.items() if is_so]
    if odd:
        notes.append(f"the discriminator was ignored: it has {' and '.join(odd)}")
        return None
    try:
        check_settings(network, _FIXED | _ADA_GAMES, _READ, notes)
        tensors = rename(network.variables, _discriminator_rules(side_of(network)), notes)
    except CheckpointError as error:
        notes.append(f"the discriminator was ignored: {error}")
        return None
    _add_filters(tensors, network, "")
    return tensors


def _add_filters(tensors: dict[str, Tensor], network: Network, prefix: str) -> None:
    """Stores the low-pass filter with every block, where it is not StyleGAN2's [1, 3, 3, 1]."""
    taps = network.settings.get("resample_kernel", list(TAPS))
    if taps is None:
        taps = [1, 1]
    elif not isinstance(taps, list) or not all(isinstance(tap, (int, float)) for tap in taps) or not sum(taps):
        raise CheckpointError(
            f"{network.variables.document.name}: resample_kernel is {clean(taps, 60)}, and a list of numbers was expected. Get "
            "the file again."
        )
    if taps != list(TAPS):
        row = torch.tensor(taps, dtype=torch.float32)
        filter_ = torch.outer(row, row) / row.sum() ** 2
        blocks = {match[0] for name in tensors if (match := re.match(rf"{prefix}b[0-9]+\.", name))}
        tensors |= {f"{block}resample_filter": filter_ for block in blocks if prefix or block != "b4."}


def _set_generator(config: Generator2Config, network: Network) -> None:
    """What the settings alone tell."""
    mapping, clamp = config["mapping"], _clamp(network)
    assert "coupling" not in mapping  # noqa: S101  (inferred from dense layers)
    mapping["lr_multiplier"] = network.number("mapping_lrmul", LR_MULTIPLIER)
    mapping["normalize"] = network.settings.get("normalize_latents", True) is not False
    if not mapping["normalize"] and mapping["label"] == "embed" and mapping["c_dim"]:
        raise CheckpointError(
            f"{network.variables.document.name}: its mapping normalises labels but not z, which this version cannot compute. "
            "Pass another checkpoint."
        )
    for part in clamped_parts(config):
        part["clamp"] = clamp


def _set_discriminator(config: Discriminator2Config, network: Network) -> None:
    """What the settings alone tell."""
    clamp = _clamp(network)
    if config["mapping"] is not None:
        config["mapping"]["lr_multiplier"] = network.number("mapping_lrmul", 0.1)
    elif network.settings.get("label_size") == 1:
        config["c_dim"] = 1  # one output either way
    for part in clamped_parts(config):
        part["clamp"] = clamp


def _clamp(network: Network) -> float | None:
    return None if network.settings.get("conv_clamp") is None else network.number("conv_clamp", 0)
