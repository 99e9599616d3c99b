"""genforce's StyleGAN1 (.pth), and its older form under other names, idinvert's generator and encoder (bare weights).

idinvert's networks draw through a tanh, and their mapping gives every layer a y of its own; neither stands in the file beyond
the shape of the last dense layer. Up-convolutions to 128x128 and more are fused, with the mirrored kernel.
"""

import re
from collections.abc import Callable
from typing import Final

from torch import Tensor

from lia_adapter.checkpoints.base import Checkpoint
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.genforce import discriminator_rules, find_discriminator
from lia_adapter.checkpoints.networks import choose, networks
from lia_adapter.checkpoints.stylegan1 import assemble, over_root_2
from lia_adapter.checkpoints.tables import Rule, Table, block_name, image, mirrored, only, rename, renamed
from lia_adapter.errors import CheckpointError

__all__ = ["NAME", "matches", "read"]

NAME: Final = "stylegan1 of genforce"

_FUSED_FROM: Final = 5  # block of 128x128
_BLOCKS: Final = 16  # more than any has
_N: Final = r"([0-9]{1,2})"
# idinvert's names and genforce's.
_OLDER: Final = (
    (r"mapping\.dense([0-9]{1,2})\.(?:fc|wscale)\.", r"mapping.dense\1."),
    (r"\.epilogue\.apply_noise\.", ".apply_noise."),
    (r"\.epilogue\.style_mod\.dense\.(?:fc|wscale)\.", ".style."),
    (r"\.epilogue\.bias$", ".bias"),
    (r"\.conv\.weight$", ".weight"),
)


def _layer(part: str) -> Callable[[re.Match[str]], str]:
    """Layers are numbered from coarse to fine, two for each block; layer0 is the constant's."""
    return lambda m: f"synthesis.{block_name(int(m[1]) // 2)}.conv{int(m[1]) % 2}.{part}"


# A tensor of another shape passes these as it is, and is refused by its shape then.


def _mirror_from_last(x: Tensor) -> Tensor:
    """idinvert keeps fused kernels as TensorFlow does, [h, w, in, out]."""
    return x.permute(3, 2, 0, 1).flip(-1, -2) if x.ndim == 4 else x


def _rules(fused: Callable[[Tensor], Tensor], scale: str) -> tuple[Rule, ...]:
    """Rules for a generator whose up-convolutions are fused from a block on: auto, all or none."""
    first = {"auto": _FUSED_FROM, "all": 1, "none": _BLOCKS}[scale]
    up = "|".join(str(2 * block) for block in range(first, _BLOCKS)) or "none"
    return (
        Rule(rf"mapping\.dense{_N}\.weight", r"mapping.fc\1.weight"),
        Rule(rf"mapping\.dense{_N}\.bias", r"mapping.fc\1.bias", over_root_2),
        Rule(r"mapping\.label_weight", "mapping.label_weight"),
        Rule(r"truncation\.w_avg", "mapping.w_avg"),
        Rule(r"truncation\.truncation", None),
        Rule(r"synthesis\.lod", None),
        Rule(r"synthesis\.layer0\.const", "synthesis.b4.const", only),
        Rule(rf"synthesis\.layer({up})\.weight", _layer("weight"), fused),
        Rule(rf"synthesis\.layer{_N}\.weight", _layer("weight")),
        Rule(rf"synthesis\.layer{_N}\.bias", _layer("bias")),
        Rule(rf"synthesis\.layer{_N}\.apply_noise\.weight", _layer("noise_strength")),
        Rule(rf"synthesis\.layer{_N}\.apply_noise\.noise", _layer("noise_const"), image),
        Rule(rf"synthesis\.layer{_N}\.style\.weight", _layer("affine.weight")),
        Rule(rf"synthesis\.layer{_N}\.style\.bias", _layer("affine.bias")),
        Rule(rf"synthesis\.layer{_N}\.blur\.kernel", None),
        Rule(rf"synthesis\.output{_N}\.(weight|bias)", lambda m: f"synthesis.{block_name(int(m[1]))}.torgb.{m[2]}"),
    )


_DISCRIMINATOR: Final = (Rule(r"lod", None), Rule(rf"layer{_N}\.blur\.kernel", None))


def matches(document: Document) -> bool:
    """Whether there is a generator with genforce's or idinvert's names of a StyleGAN1."""
    return bool(_generators(document))


def read(document: Document, sha256: str) -> Checkpoint:
    """Take the averaged generator, and the discriminator where there is one.

    Args:
        document: The decoded file, for which `matches` is true.
        sha256: Of the file.

    Raises:
        CheckpointError: Something in it is missing, unknown, or does not fit.
    """
    found, notes = choose(_generators(document))
    assert found is not None  # noqa: S101  (matches)
    older = found.has("synthesis.layer0.epilogue.bias")
    final = document.assume(
        "final", "tanh" if older else "none", ("none", "tanh"), "What comes behind the last layer: idinvert's have a tanh."
    )
    scale = document.assume(
        "fused_scale", "auto", ("auto", "all", "none"), "Which up-convolutions are fused; auto: those to 128x128 and more."
    )
    rules = _rules(_mirror_from_last if older else mirrored, scale)
    tensors = rename(renamed(found, _OLDER) if older else found, rules, notes)
    other, discriminator = find_discriminator(found, document), None
    if other is not None:
        sizes = sum(re.fullmatch(r"layer[0-9]{1,2}\.blur\.kernel", name) is not None for name in other.nodes)
        discriminator = rename(other, (*discriminator_rules(sizes, taps=None), *_DISCRIMINATOR), notes)
    return assemble(document, sha256, tensors, discriminator, notes, final="tanh" if final == "tanh" else None, lod=_lod(found))


def _generators(document: Document) -> list[Table]:
    noises = ("synthesis.layer0.apply_noise.weight", "synthesis.layer0.epilogue.apply_noise.weight")
    return [found for noise in noises for found in networks(document, "synthesis.layer0.const", noise)]


def _lod(found: Table) -> float:
    if not found.has("synthesis.lod"):
        return 0.0
    lod = found.tensor("synthesis.lod")
    if lod.numel() != 1:
        raise CheckpointError(f"{found.document.name} is damaged: synthesis.lod is no single number. Get the file again.")
    return float(lod)
