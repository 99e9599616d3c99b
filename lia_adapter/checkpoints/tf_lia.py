"""The official LIA (Zhu, Zhao, Zhang and Zhou 2022) of TensorFlow: (G, D, Gs, NE), or (E, G, D, Gs, NE) once it has an encoder.

The generator is StyleGAN1 with a tanh behind it, and its mapping is a chain of couplings, z -> y. It needs no conversion: it is
this project's `InvertibleMapping` as it stands, with nothing to whiten. NE, the same chain in the direction y -> z, is in the
file with weights that were never trained; LIA's own programs give it the mapping's before they use it: it is ignored here.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from lia_adapter.canonical import InvertibleConfig, PublishedEncoderConfig
from lia_adapter.checkpoints.base import Checkpoint
from lia_adapter.checkpoints.decoder import clean
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.lia_encoder import check_encoder, stem_and_widths
from lia_adapter.checkpoints.tables import Rule, rename
from lia_adapter.checkpoints.tensorflow import Network, conv, dense, read_networks
from lia_adapter.checkpoints.tf_stylegan1 import finish, generator_tensors
from lia_adapter.errors import CheckpointError

__all__ = ["NAME", "matches", "read"]

NAME: Final = "LIA of TensorFlow"

_SETTINGS: Final = frozenset({"depth", "hidden_width", "flow_coupling"})  # shapes tell them as well
_COUPLINGS: Final = {1: "additive", 2: "sigmoid"}  # by what a coupling's network gives for each entry
_MAX_Y_DIM: Final = 4096  # the mapping holds three matrices of that many rows and columns
_BLOCK: Final = r"encoder/encoder_res_block_([0-9]{1,2})"
_STATISTICS: Final = {"beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def matches(document: Document) -> bool:
    """Whether the tree holds TensorFlow networks whose mapping is a chain of couplings.

    Args:
        document: The decoded file.
    """
    networks = read_networks(document)
    return networks is not None and networks.generator.has(r"mapping/0/f_inv/dense1/weight")


def _coupling(match: re.Match[str]) -> str:
    return f"mapping.core.layers.{match[1]}.{int(match[2]) - 1}.{match[3]}"


_MAPPING_RULES: Final = (
    Rule(r"mapping/([0-9]{1,3})/f_inv/dense([12])/(weight)", _coupling, dense),
    Rule(r"mapping/([0-9]{1,3})/f_inv/dense([12])/(bias)", _coupling),
)


def _norm(prefix: str) -> str:
    return rf"{prefix}/BatchNorm/(beta|moving_mean|moving_variance)"


_ENCODER_RULES: Final = (
    Rule(r"encoder/input_image_stage/weight", "stem.conv.weight", conv),
    Rule(_norm(r"encoder/input_image_stage/[a-z_0-9]+"), lambda match: f"stem.norm.{_STATISTICS[match[1]]}"),
    Rule(rf"{_BLOCK}/(shortcut|conv[12])/weight", r"stages.\1.\2.conv.weight", conv),
    Rule(rf"{_BLOCK}/(conv[12])/bias", r"stages.\1.\2.conv.bias"),
    Rule(
        _norm(rf"{_BLOCK}/(shortcut|conv[12])/[a-z_0-9]+"),
        lambda match: f"stages.{match[1]}.{match[2]}.norm.{_STATISTICS[match[3]]}",
    ),
    Rule(r"encoder/encoder_fc/weight", "dense.weight", lambda weight: dense(weight) / math.sqrt(len(weight))),
    Rule(_norm(r"encoder/encoder_fc/[a-z_0-9]+"), lambda match: f"norm.{_STATISTICS[match[1]]}"),
)


def _mapping_config(tensors: dict[str, Tensor], name: str) -> InvertibleConfig:
    """The couplings' config; the measured steps around them, which LIA does not have, become identities among the tensors."""
    core = "mapping.core.layers"
    width, kept = _shape(tensors, f"{core}.0.0.weight", 2, name)
    outputs = _shape(tensors, f"{core}.0.1.weight", 2, name)[0]
    y_dim = 2 * kept
    coupling = next((coupling for times, coupling in _COUPLINGS.items() if outputs == times * kept), None)
    if coupling is None or not 0 < y_dim <= _MAX_Y_DIM:
        raise CheckpointError(
            f"{name}: a coupling of its mapping turns {kept} numbers into {outputs}, and as many or twice as many were "
            "expected. It is damaged: get the file again."
        )
    depth = 0
    while f"{core}.{depth}.0.weight" in tensors:
        depth += 1
    expected = {"0.weight": [width, kept], "0.bias": [width], "1.weight": [outputs, width], "1.bias": [outputs]}
    shapes = {f"{core}.{i}.{key}": shape for i in range(depth) for key, shape in expected.items()}
    _check_shapes({key: tensor for key, tensor in tensors.items() if key.startswith(core)}, shapes, name)
    average = tensors.pop("mapping.w_avg", torch.zeros(y_dim))
    _check_shapes({"dlatent_avg": average}, {"dlatent_avg": [y_dim]}, name)
    one, zeros, identity = torch.ones([]), torch.zeros(y_dim), torch.eye(y_dim)
    measured = {
        "y_mean": average, "core.rotation": identity, "centre": zeros, "white": identity, "power": one, "scale": one,
        "colour": identity, "offset": zeros, "class_shift": torch.zeros(0, y_dim),
    }  # fmt: skip
    tensors |= {f"mapping.{key}": tensor for key, tensor in measured.items()}
    return {"coupling": coupling, "y_dim": y_dim, "c_dim": 0, "depth": depth, "width": width}


def _encoder(network: Network, resolution: list[int], notes: list[str]) -> tuple[PublishedEncoderConfig, dict[str, Tensor]]:
    """Config and tensors of the encoder, without a prefix."""
    tensors = rename(network.variables, _ENCODER_RULES, notes)
    name = network.variables.document.name
    channels, widths = stem_and_widths(tensors, name)
    config: PublishedEncoderConfig = {
        "kind": "lia", "resolution": resolution, "channels": channels, "y_dim": _shape(tensors, "dense.weight", 2, name)[0],
        "widths": widths,
    }  # fmt: skip
    check_encoder(tensors, config, name)
    return config, tensors


def _shape(tensors: Mapping[str, Tensor], key: str, axes: int, name: str) -> list[int]:
    if key not in tensors or tensors[key].ndim != axes:
        raise CheckpointError(
            f"{name}: LIA's {clean(key)} is missing, or no matrix or kernel. It is damaged: get the file again."
        )
    return list(tensors[key].shape)


def _check_shapes(tensors: Mapping[str, Tensor], shapes: Mapping[str, list[int]], name: str) -> None:
    for key in [*shapes, *(key for key in tensors if key not in shapes)]:
        found = list(tensors[key].shape) if key in tensors else "missing"
        if found != shapes.get(key):
            raise CheckpointError(
                f"{name}: LIA's {clean(key)} is {found}, and {shapes.get(key, 'nothing of that name')} was expected. It is "
                "damaged: get the file again."
            )


def read(document: Document, sha256: str) -> Checkpoint:
    """Take the averaged generator with its invertible mapping, the discriminator and the encoder out of the tree.

    Args:
        document: The decoded file, for which `matches` is true.
        sha256: Of the file.

    Returns:
        A checkpoint of the family "stylegan1" whose mapping is an `InvertibleMapping`; its encoder, where it has one, is a
        `lia_adapter.generators.encoder_lia.OfficialLIAEncoder`.

    Raises:
        CheckpointError: A variable is missing, not known or of another shape, or a setting is not supported.
    """
    networks = read_networks(document)
    if networks is None:
        raise CheckpointError(f"{document.name} has no generator in it. A tuple (G, D, Gs, NE) was expected: get it again.")
    notes = list(networks.notes)
    if "NE" in networks.ignored:
        notes.append("NE has weights that were never trained: z is computed from y by the mapping itself, backwards")
    tensors = generator_tensors(networks.generator, notes, _MAPPING_RULES, _SETTINGS)
    mapping = _mapping_config(tensors, document.name)
    found = finish(document, sha256, networks, tensors, notes, mapping=mapping, final="tanh")
    generator = found.config["generator"]
    assert generator is not None  # noqa: S101  (finish)
    if mapping["y_dim"] != generator["y_dim"]:
        raise CheckpointError(
            f"{document.name}: its mapping gives {mapping['y_dim']} numbers, and its layers take {generator['y_dim']}. It is "
            "damaged: get the file again."
        )
    if networks.encoder is None:
        return found
    beside: list[str] = []
    config, tensors = _encoder(networks.encoder, generator["resolution"], beside)
    tensors = {f"encoder.{name}": tensor for name, tensor in tensors.items()}
    return replace(
        found,
        config={**found.config, "encoder": config},
        tensors={**found.tensors, **tensors},
        notes=(*found.notes, *beside),
    )
