"""StyleGAN2 and StyleGAN3 of bytedance/Hammer (.pth), the successor of genforce: `{"models": {"generator_smooth", ...}}`.

Kernels have the orientation of the canonical form, and style biases contain their 1, as in NVlabs' own files. A StyleGAN3's
layers are numbered, where NVlabs' have their size and channels in their names: these follow from the lengths of the filters,
which tell where the sampling rate doubles (Karras 2021, sec. 3.2).
"""

import re
from collections.abc import Callable
from typing import Any, Final

from torch import Tensor

from lia_adapter.checkpoints import stylegan2, stylegan3
from lia_adapter.checkpoints.base import Checkpoint
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.genforce import discriminator_rules
from lia_adapter.checkpoints.networks import choose, discriminator_of, networks
from lia_adapter.checkpoints.tables import Rule, Table, block_name, image, only, rename
from lia_adapter.errors import CheckpointError

__all__ = ["NAME", "matches", "read"]

NAME: Final = "stylegan2 or stylegan3 of Hammer"

_N: Final = r"([0-9]{1,2})"
_MARGIN: Final = 10  # pixels around a StyleGAN3's layers
_TAPS: Final = 6  # of a filter, for each doubling
_CRITICAL: Final = 2  # the last layers, ToRGB among them, have the size of the image


def _layer(part: str) -> Callable[[re.Match[str]], str]:
    """Names of layer n: layer0 is the constant's, then two to a block."""

    def name(m: re.Match[str]) -> str:
        n = int(m[1])
        return f"synthesis.{block_name((n + 1) // 2)}.conv{(n + 1) % 2 if n else 1}.{part}"

    return name


def _torgb(part: str) -> Callable[[re.Match[str]], str]:
    return lambda m: f"synthesis.{block_name(int(m[1]))}.torgb.{part}"


_MAPPING: Final = (
    Rule(rf"mapping\.dense{_N}\.(weight|bias)", r"mapping.fc\1.\2"),
    Rule(r"mapping\.embedding\.(weight|bias)", r"mapping.embed.\1"),
    Rule(r"w_avg", "mapping.w_avg"),
)
_STYLEGAN2: Final = (
    *_MAPPING,
    Rule(r"synthesis\.early_layer\.const", "synthesis.b4.const", only),
    Rule(rf"synthesis\.layer{_N}\.(weight)", _layer("weight")),
    Rule(rf"synthesis\.layer{_N}\.bias", _layer("bias")),
    Rule(rf"synthesis\.layer{_N}\.noise", _layer("noise_const"), image),
    Rule(rf"synthesis\.layer{_N}\.noise_strength", _layer("noise_strength")),
    Rule(rf"synthesis\.layer{_N}\.style\.weight", _layer("affine.weight")),
    Rule(rf"synthesis\.layer{_N}\.style\.bias", _layer("affine.bias")),
    Rule(rf"synthesis\.layer{_N}\.filter", _layer("resample_filter"), image),
    Rule(rf"synthesis\.output{_N}\.weight", _torgb("weight")),
    Rule(rf"synthesis\.output{_N}\.bias", _torgb("bias")),
    Rule(rf"synthesis\.output{_N}\.style\.weight", _torgb("affine.weight")),
    Rule(rf"synthesis\.output{_N}\.style\.bias", _torgb("affine.bias")),
    Rule(r"synthesis\.filter", "synthesis.b4.resample_filter", image),
)


def _stylegan3(names: dict[int, str]) -> tuple[Rule, ...]:
    """Rules for a StyleGAN3 whose layers are called so."""

    def layer(m: re.Match[str]) -> str:
        return f"synthesis.{names.get(int(m[1]), 'unknown')}."

    return (
        *_MAPPING,
        Rule(r"synthesis\.early_layer\.(weight|transform|affine\.weight|affine\.bias)", r"synthesis.input.\1"),
        Rule(r"synthesis\.early_layer\.frequency", "synthesis.input.freqs"),
        Rule(r"synthesis\.early_layer\.phase", "synthesis.input.phases"),
        Rule(r"synthesis\.early_layer\.grid", None),
        Rule(rf"synthesis\.layer{_N}\.magnitude_ema", lambda m: f"{layer(m)}magnitude_ema"),
        Rule(rf"synthesis\.layer{_N}\.conv\.weight", lambda m: f"{layer(m)}weight"),
        Rule(rf"synthesis\.layer{_N}\.conv\.style\.(weight|bias)", lambda m: f"{layer(m)}affine.{m[2]}"),
        Rule(rf"synthesis\.layer{_N}\.filter\.(bias|up_filter|down_filter)", lambda m: f"{layer(m)}{m[2]}"),
    )


_DISCRIMINATOR: Final = (
    Rule(r"output\.(weight|bias)", r"b4.out.\1"),
    Rule(r"embedding\.(weight|bias)", r"mapping.embed.\1"),
    Rule(rf"mapping{_N}\.(weight|bias)", r"mapping.fc\1.\2"),
)


def matches(document: Document) -> bool:
    """Whether there is a generator with Hammer's names."""
    return bool(_generators(document))


def read(document: Document, sha256: str) -> Checkpoint:
    """Take the averaged generator, and the discriminator where there is one.

    Args:
        document: The decoded file, for which `matches` is true.
        sha256: Of the file.

    Raises:
        CheckpointError: Something in the generator is missing, unknown, or does not fit.
    """
    found, notes = choose(_generators(document))
    assert found is not None  # noqa: S101  (matches)
    discriminator = _find_discriminator(found, document, notes)
    if found.has("synthesis.early_layer.const"):
        return stylegan2.assemble(document, sha256, rename(found, _STYLEGAN2, notes), discriminator, notes)
    return stylegan3.assemble(document, sha256, rename(found, _stylegan3(_names(found)), notes), discriminator, notes)


def _generators(document: Document) -> list[Table]:
    second = networks(document, "synthesis.early_layer.const", "synthesis.layer0.noise")
    # genforce's have the same names, but for the filters, the average and the constant's noise.
    second = [table for table in second if table.has("synthesis.filter") or table.has("synthesis.layer1.filter")]
    return second + networks(document, "synthesis.early_layer.frequency", "synthesis.layer0.conv.weight")


def _find_discriminator(generator: Table, document: Document, notes: list[str]) -> dict[str, Tensor] | None:
    """The discriminator's tensors; one that is not known costs nobody the generator."""
    found = discriminator_of(generator, networks(document, "input0.weight", "layer0.weight", "output.weight"))
    if found is None:
        return None
    blocks = sum(re.fullmatch(rf"layer{_N}\.filter", name) is not None for name in found.nodes)
    try:
        rules = discriminator_rules(blocks, last=("conv", "fc"), taps="filter", skip="residual")
        return rename(found, (*rules, *_DISCRIMINATOR), notes)
    except CheckpointError as error:
        notes.append(f"the discriminator was ignored: {error}")
        return None


def _names(found: Table) -> dict[int, str]:
    """NVlabs' names of a StyleGAN3's layers by their number: index, size and channels."""
    weights: dict[int, Any] = {
        int(m[1]): found.tensor(m[0])
        for name in found.nodes
        if (m := re.fullmatch(rf"synthesis\.layer{_N}\.conv\.weight", name))
    }
    grid = found.tensor("synthesis.early_layer.grid") if found.has("synthesis.early_layer.grid") else None
    if grid is None or grid.ndim != 4:
        raise CheckpointError(
            f"{found.document.name}: synthesis.early_layer.grid is missing, which tells the sizes of the layers."
        )
    rate, names = grid.shape[1] - 2 * _MARGIN, {}
    rates: list[int] = []
    for i in sorted(weights):
        filter_ = f"synthesis.layer{i}.filter.up_filter"
        taps = found.tensor(filter_).shape[-1] if found.has(filter_) else 2 * _TAPS
        rate *= max(1, taps // (2 * _TAPS))
        rates.append(rate)
    for i, rate in zip(sorted(weights), rates, strict=True):
        size = rates[-1] if i > len(rates) - 1 - _CRITICAL else rate + 2 * _MARGIN
        names[i] = f"L{i}_{size}_{weights[i].shape[0]}"
    return names
