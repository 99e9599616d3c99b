"""The StyleGAN2 in a GFPGAN face restorer (.pth), in the "clean" form: alone, or under "stylegan_decoder" beside the restorer.

Its layers are plain ones: the scales of the equalised learning rate and the gains of the activations are multiplied into the
weights, and are divided out here again. It doubles the resolution by bilinear interpolation before a convolution, where
StyleGAN2 convolves and filters. The restorer itself, which steers the generator by a picture, is left aside.
"""

import math
import re
from typing import Any, Final

from torch import Tensor

from lia_adapter.canonical import LR_MULTIPLIER, Discriminator2Config, Generator2Config
from lia_adapter.checkpoints.base import Checkpoint
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.networks import choose, networks
from lia_adapter.checkpoints.rosinality import average
from lia_adapter.checkpoints.stylegan2 import assemble
from lia_adapter.checkpoints.tables import Rule, Table, block_name, image, only, rename

__all__ = ["NAME", "matches", "read"]

NAME: Final = "stylegan2 of GFPGAN"

_N: Final = r"([0-9]{1,2})"
_ROOT_2: Final = 2**0.5  # the gain of leaky ReLUs


def _scaled(x: Tensor) -> Tensor:
    """Weights [O, I, ...] before the factor of the equalised learning rate."""
    return x * math.sqrt(x[0].numel())


def _kernels(x: Tensor) -> Tensor:
    return _scaled(only(x))


def _over_gain(x: Tensor) -> Tensor:
    return x.reshape(-1) / _ROOT_2


def _strength(x: Tensor) -> Tensor:
    return x.reshape(()) / _ROOT_2


def _dense(m: re.Match[str]) -> str:
    """Every second layer of the mapping is an activation."""
    return f"mapping.fc{(int(m[1]) - 1) // 2}.{m[2]}"


def _conv(part: str) -> Any:
    """style_convs.0 and .1 are the two layers of the block after the constant's, and so on."""
    return lambda m: f"synthesis.{block_name(int(m[1]) // 2 + 1)}.conv{int(m[1]) % 2}.{part}"


def _torgb(part: str) -> Any:
    return lambda m: f"synthesis.{block_name(int(m[1]) + 1)}.torgb.{part}"


def _noise(m: re.Match[str]) -> str:
    index = int(m[1])
    return f"synthesis.{block_name((index + 1) // 2)}.conv{(index + 1) % 2 if index else 1}.noise_const"


_RULES: Final = (
    Rule(rf"style_mlp\.{_N}\.(weight)", _dense, lambda x: _scaled(x) / (LR_MULTIPLIER * _ROOT_2)),
    Rule(rf"style_mlp\.{_N}\.(bias)", _dense, lambda x: x / (LR_MULTIPLIER * _ROOT_2)),
    Rule(r"constant_input\.weight", "synthesis.b4.const", only),
    Rule(r"style_conv1\.modulated_conv\.weight", "synthesis.b4.conv1.weight", _kernels),
    Rule(r"style_conv1\.modulated_conv\.modulation\.weight", "synthesis.b4.conv1.affine.weight", _scaled),
    Rule(r"style_conv1\.modulated_conv\.modulation\.bias", "synthesis.b4.conv1.affine.bias"),
    Rule(r"style_conv1\.weight", "synthesis.b4.conv1.noise_strength", _strength),
    Rule(r"style_conv1\.bias", "synthesis.b4.conv1.bias", _over_gain),
    Rule(r"to_rgb1\.modulated_conv\.weight", "synthesis.b4.torgb.weight", _kernels),
    Rule(r"to_rgb1\.modulated_conv\.modulation\.weight", "synthesis.b4.torgb.affine.weight", _scaled),
    Rule(r"to_rgb1\.modulated_conv\.modulation\.bias", "synthesis.b4.torgb.affine.bias"),
    Rule(r"to_rgb1\.bias", "synthesis.b4.torgb.bias", lambda x: x.reshape(-1)),
    Rule(rf"style_convs\.{_N}\.modulated_conv\.weight", _conv("weight"), _kernels),
    Rule(rf"style_convs\.{_N}\.modulated_conv\.modulation\.weight", _conv("affine.weight"), _scaled),
    Rule(rf"style_convs\.{_N}\.modulated_conv\.modulation\.bias", _conv("affine.bias")),
    Rule(rf"style_convs\.{_N}\.weight", _conv("noise_strength"), _strength),
    Rule(rf"style_convs\.{_N}\.bias", _conv("bias"), _over_gain),
    Rule(rf"to_rgbs\.{_N}\.modulated_conv\.weight", _torgb("weight"), _kernels),
    Rule(rf"to_rgbs\.{_N}\.modulated_conv\.modulation\.weight", _torgb("affine.weight"), _scaled),
    Rule(rf"to_rgbs\.{_N}\.modulated_conv\.modulation\.bias", _torgb("affine.bias")),
    Rule(rf"to_rgbs\.{_N}\.bias", _torgb("bias"), lambda x: x.reshape(-1)),
    Rule(rf"noises\.noise{_N}", _noise, image),
)


def matches(document: Document) -> bool:
    """Whether there is a generator with the names of a clean GFPGAN's."""
    return bool(_generators(document))


def read(document: Document, sha256: str) -> Checkpoint:
    """Take the averaged generator; its own training kept no average of y.

    Args:
        document: The decoded file, for which `matches` is true.
        sha256: Of the file.

    Raises:
        CheckpointError: Something in it is missing, unknown, or does not fit.
    """
    found, notes = choose(_generators(document))
    assert found is not None  # noqa: S101  (matches)
    if found.place.endswith("stylegan_decoder"):
        notes.append("the generator in a face restorer was taken; what steers it by a picture (the restorer) was not")
    tensors = rename(found, _RULES, notes)
    if (centre := average(found, notes)) is not None:
        tensors["mapping.w_avg"] = centre
    return assemble(document, sha256, tensors, None, notes, settle=_bilinear)


def _bilinear(generator: Generator2Config | None, _: Discriminator2Config | None) -> None:
    for block in generator["blocks"] if generator else ():
        block["upsample"] = "bilinear"


def _generators(document: Document) -> list[Table]:
    return networks(document, "style_mlp.1.weight", "constant_input.weight", "style_conv1.bias")
