"""ALAE (podgorskiy/ALAE, .pth): a StyleGAN1 generator with its mapping, and the encoder that was trained along with them.

A file holds `{"models": {"generator", "mapping_fl", "discriminator", "mapping_tl", "dlatent_avg"}}` and the averages of the
first four, with "_s" behind their names; "discriminator" is the encoder, to which "mapping_tl" adds the discriminator. Weights
are stored with the scale of the equalised learning rate multiplied in, which is divided out here. Kernels of fused
up-convolutions, to 128x128 and more, are mirrored and have their first two axes exchanged.
"""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from lia_adapter.canonical import LR_MULTIPLIER, GeneratorConfig, PublishedEncoderConfig
from lia_adapter.checkpoints.base import Checkpoint
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.networks import choose, near, networks
from lia_adapter.checkpoints.stylegan1 import assemble
from lia_adapter.checkpoints.tables import Rule, Table, block_name, only, rename
from lia_adapter.checkpoints.values import as_tensor, check_finite
from lia_adapter.errors import CheckpointError

__all__ = ["NAME", "matches", "read"]

NAME: Final = "stylegan1 of ALAE"

_N: Final = r"([0-9]{1,2})"
_ROOT_2: Final = 2**0.5
_FUSED_FROM: Final = 5  # block of 128x128
_AVERAGED: Final = "_s"


def _kernels(gain: float) -> Callable[[Tensor], Tensor]:
    """Weights [O, I, h, w] before the factor gain / sqrt(fan_in)."""
    return lambda x: x * (math.sqrt(x[0].numel()) / gain)


def _fused(x: Tensor) -> Tensor:
    """Kernels of a transposed convolution [I, O, h, w] as those of a correlation of the doubled image."""
    return _kernels(_ROOT_2)(x.transpose(0, 1).flip(-1, -2))


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1)


def _layer(part: str) -> Callable[[re.Match[str]], str]:
    """decode_block.1.conv_1 is the first layer of the second block."""
    return lambda m: f"synthesis.{block_name(int(m[1]))}.conv{int(m[2]) - 1}.{part}"


_GENERATOR: Final = (
    Rule(r"const", "synthesis.b4.const", only),
    *(Rule(rf"decode_block\.({i})\.conv_(1)\.weight", _layer("weight"), _fused) for i in range(_FUSED_FROM, 16)),
    Rule(rf"decode_block\.{_N}\.conv_([12])\.weight", _layer("weight"), _kernels(_ROOT_2)),
    Rule(rf"decode_block\.{_N}\.noise_weight_([12])", _layer("noise_strength"), _flat),
    Rule(rf"decode_block\.{_N}\.bias_([12])", _layer("bias"), _flat),
    Rule(rf"decode_block\.{_N}\.style_([12])\.weight", _layer("affine.weight"), _kernels(1)),
    Rule(rf"decode_block\.{_N}\.style_([12])\.bias", _layer("affine.bias")),
    Rule(rf"decode_block\.{_N}\.blur\.weight", None),
    Rule(rf"to_rgb\.{_N}\.to_rgb\.weight", lambda m: f"synthesis.{block_name(int(m[1]))}.torgb.weight", _kernels(1)),
    Rule(rf"to_rgb\.{_N}\.to_rgb\.bias", lambda m: f"synthesis.{block_name(int(m[1]))}.torgb.bias"),
)
_MAPPING: Final = (
    Rule(rf"(?:map_blocks\.|block_){_N}\.fc\.weight", r"mapping.fc\1.weight", _kernels(LR_MULTIPLIER * _ROOT_2)),
    Rule(rf"(?:map_blocks\.|block_){_N}\.fc\.bias", r"mapping.fc\1.bias", lambda x: x / (LR_MULTIPLIER * _ROOT_2)),
)


def _part(m: re.Match[str]) -> str:
    """encode_block.1.conv_2 is the fourth layer."""
    part = {"conv": "conv.weight", "bias": "bias", "style": f"style{m[4] or ''}"}[m[2]]
    return f"layers.{2 * int(m[1]) + int(m[3]) - 1}.{part}"


_ENCODER: Final = (
    Rule(r"from_rgb\.0\.from_rgb\.(weight|bias)", r"fromrgb.\1"),
    Rule(rf"from_rgb\.{_N}\.from_rgb\.(weight|bias)", None),  # of the smaller images that it began with
    Rule(rf"encode_block\.{_N}\.(conv|style)_([12])(\.weight|\.bias)", _part),
    Rule(rf"encode_block\.{_N}\.(bias)_([12])()", _part, _flat),
    Rule(rf"encode_block\.{_N}\.blur\.weight", None),
)


def matches(document: Document) -> bool:
    """Whether there is a generator with ALAE's names."""
    return bool(_generators(document))


def read(document: Document, sha256: str) -> Checkpoint:
    """Take the averaged generator with its mapping, and the encoder.

    Args:
        document: The decoded file, for which `matches` is true.
        sha256: Of the file.

    Raises:
        CheckpointError: Something in it is missing, unknown, or does not fit.
    """
    generator, _ = choose(_averaged(_generators(document)))
    mapping, _ = choose(_averaged(networks(document, "map_blocks.0.fc.weight")), "mapping")
    encoder, _ = choose(_averaged(networks(document, "from_rgb.0.from_rgb.weight", "encode_block.0.style_1.weight")), "encoder")
    if generator is None or mapping is None:
        raise CheckpointError(f"{document.name} has an ALAE's generator and no mapping (mapping_fl). Pass the whole file.")
    averaged = generator.place.endswith(_AVERAGED)
    notes = [] if averaged else ["generator_s is absent, generator was taken: it was not averaged"]
    tensors = rename(generator, _GENERATOR, notes) | rename(mapping, _MAPPING, notes)
    average = _average(generator)
    if average is not None:
        tensors["mapping.w_avg"] = average
    checkpoint = assemble(document, sha256, tensors, None, notes)
    drawn = checkpoint.config["generator"]
    if encoder is None or drawn is None:
        return checkpoint
    beside: list[str] = []
    found = rename(encoder, _ENCODER, beside)
    config = _encoder_config(found, drawn, document.name)
    return replace(
        checkpoint,
        config={**checkpoint.config, "encoder": config},
        tensors={**checkpoint.tensors, **{f"encoder.{name}": tensor for name, tensor in found.items()}},
        notes=(*checkpoint.notes, *beside),
    )


def _generators(document: Document) -> list[Table]:
    return networks(document, "decode_block.0.conv_2.weight", "to_rgb.0.to_rgb.weight", "const")


def _averaged(found: list[Table]) -> list[Table]:
    """Those that are averages, where there are any."""
    return [table for table in found if table.place.endswith(_AVERAGED)] or found


def _average(generator: Table) -> Tensor | None:
    """The average y, which the file repeats for every layer."""
    node = near(generator, "dlatent_avg.buff")
    if node is None:
        return None
    document = generator.document
    rows = check_finite(as_tensor(node, document, "dlatent_avg.buff"), document, "dlatent_avg.buff")
    if rows.ndim != 2 or not len(rows) or not torch.equal(rows, rows[:1].expand_as(rows)):
        raise CheckpointError(
            f"{document.name}: dlatent_avg has shape {list(rows.shape)} or rows that differ; equal rows were expected."
        )
    return rows[0]


def _encoder_config(tensors: dict[str, Tensor], generator: GeneratorConfig, name: str) -> PublishedEncoderConfig:
    """The config of an encoder, checked."""
    layers = sum(re.fullmatch(r"layers\.[0-9]+\.conv\.weight", key) is not None for key in tensors)
    keys = ["fromrgb.weight", *(f"layers.{i}.conv.weight" for i in range(1, layers, 2))]
    if any(key not in tensors or tensors[key].ndim != 4 for key in keys):
        raise CheckpointError(f"{name}: the encoder of an ALAE lacks one of {', '.join(keys[:8])}. Get the file again.")
    widths, y_dim = [tensors[key].shape[0] for key in keys], generator["y_dim"]
    wanted = {"fromrgb.weight": (widths[0], generator["channels"], 1, 1), "fromrgb.bias": (widths[0],)}
    for i in range(layers):
        narrow, out = widths[i // 2], widths[(i + 1) // 2]
        wanted |= {f"layers.{i}.conv.weight": (out, narrow, 3, 3), f"layers.{i}.bias": (out,)}
        wanted |= {f"layers.{i}.style.weight": (y_dim, 2 * out), f"layers.{i}.style.bias": (y_dim,)}
    for key in {*wanted, *tensors}:
        shape = tuple(tensors[key].shape) if key in tensors else None
        if shape != wanted.get(key):
            raise CheckpointError(
                f"{name}: the encoder's {key} is {list(shape) if shape else 'missing'}, and "
                f"{wanted.get(key, 'nothing of that name')} was expected: a variant of ALAE's encoder that this version does "
                "not know."
            )
    return {
        "kind": "alae",
        "resolution": generator["resolution"],
        "channels": generator["channels"],
        "y_dim": y_dim,
        "widths": widths,
    }
