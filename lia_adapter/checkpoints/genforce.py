"""genforce's StyleGAN2 (.pth): `{"generator", "discriminator", "generator_smooth"}`, or the same under "models".

Up-convolutions are stored in TensorFlow's orientation, the mirror image of the canonical one, and style biases without
their 1. Labels are a matrix of their own (StyleGAN2), or embedded (StyleGAN2-ADA).
"""

import re
from collections.abc import Callable
from typing import Final

from torch import Tensor

from lia_adapter.checkpoints.base import Checkpoint
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.networks import choose, discriminator_of, networks
from lia_adapter.checkpoints.stylegan2 import assemble
from lia_adapter.checkpoints.tables import Rule, Table, block_name, image, mirrored, only, rename
from lia_adapter.errors import CheckpointError

__all__ = ["NAME", "find_discriminator", "discriminator_rules", "matches", "read"]

NAME: Final = "stylegan2"


def _layer(part: str) -> Callable[[re.Match[str]], str]:
    """Names of layer n: layer0 is the constant's, then two to a block."""

    def name(m: re.Match[str]) -> str:
        n = int(m[1])
        return f"synthesis.{block_name((n + 1) // 2)}.conv{(n + 1) % 2 if n else 1}.{part}"

    return name


def _plus_one(x: Tensor) -> Tensor:
    return x + 1


def _quarter(x: Tensor) -> Tensor:
    """Filters before an up-sampling carry its gain of 4."""
    return image(x) / 4


_GENERATOR: Final = (
    Rule(r"mapping\.dense([0-9]{1,2})\.(weight|bias)", r"mapping.fc\1.\2"),
    Rule(r"mapping\.label_weight", "mapping.label_weight"),
    Rule(r"mapping\.LabelEmbed\.(weight|bias)", r"mapping.embed.\1"),
    Rule(r"truncation\.w_avg", "mapping.w_avg"),
    Rule(r"synthesis\.early_layer\.const", "synthesis.b4.const", only),
    Rule(r"synthesis\.layer((?:[0-9]*[13579]))\.weight", _layer("weight"), mirrored),  # odd: the up-convolutions
    Rule(r"synthesis\.layer([0-9]{1,2})\.weight", _layer("weight")),
    Rule(r"synthesis\.layer([0-9]{1,2})\.bias", _layer("bias")),
    Rule(r"synthesis\.layer([0-9]{1,2})\.noise", _layer("noise_const"), image),
    Rule(r"synthesis\.layer([0-9]{1,2})\.noise_strength", _layer("noise_strength"), lambda x: x.reshape(())),
    Rule(r"synthesis\.layer([0-9]{1,2})\.style\.weight", _layer("affine.weight")),
    Rule(r"synthesis\.layer([0-9]{1,2})\.style\.bias", _layer("affine.bias"), _plus_one),
    Rule(r"synthesis\.layer([0-9]{1,2})\.filter\.kernel", _layer("resample_filter"), _quarter),
    Rule(r"synthesis\.output([0-9]{1,2})\.(weight|bias)", lambda m: f"synthesis.{block_name(int(m[1]))}.torgb.{m[2]}"),
    Rule(r"synthesis\.output([0-9]{1,2})\.style\.weight", lambda m: f"synthesis.{block_name(int(m[1]))}.torgb.affine.weight"),
    Rule(
        r"synthesis\.output([0-9]{1,2})\.style\.bias",
        lambda m: f"synthesis.{block_name(int(m[1]))}.torgb.affine.bias",
        _plus_one,
    ),
    Rule(r"synthesis\.upsample\.kernel", "synthesis.b4.resample_filter", _quarter),
)


def discriminator_rules(
    sizes: int,
    *,
    last: tuple[str, ...] = ("conv", "fc", "out"),
    taps: str | None = r"filter\.kernel",
    skip: str = "skip_layer",
) -> tuple[Rule, ...]:
    """Rules for a discriminator of genforce's kin, whose blocks are numbered from the finest, two layers to each.

    Args:
        sizes: Number of blocks.
        last: Canonical names of the layers behind them.
        taps: What the low-pass filters are called behind their layer's name, as a regular expression; None: there are none.
        skip: What the layers are called that bypass a block.
    """
    n = "([0-9]{1,2})"

    def block(m: re.Match[str]) -> str:
        return block_name(sizes - int(m[1]) // 2)

    def layer(m: re.Match[str]) -> str:
        i = int(m[1])
        if i < 2 * sizes:
            return f"{block(m)}.conv{i % 2}.{m[2]}"
        return f"b4.{dict(enumerate(last, 2 * sizes)).get(i, 'unknown')}.{m[2]}"

    def of_block(part: str) -> Callable[[re.Match[str]], str]:
        return lambda m: f"{block_name(sizes - int(m[1]))}.{part}"

    rules = (
        Rule(rf"input{n}\.(weight|bias)", lambda m: f"{block_name(sizes - int(m[1]))}.fromrgb.{m[2]}"),
        Rule(rf"layer{n}\.(weight|bias)", layer),
        Rule(rf"{skip}{n}\.weight", of_block("skip.weight")),
    )
    if taps is None:
        return rules
    return (
        *rules,
        Rule(rf"layer{n}\.{taps}", lambda m: f"{block(m)}.conv1.resample_filter", image),
        Rule(rf"{skip}{n}\.{taps}", of_block("skip.resample_filter"), image),
    )


def find_discriminator(generator: Table | None, document: Document) -> Table | None:
    """The discriminator of one of genforce's files.

    Args:
        generator: The one that was chosen.
        document: The decoded file.
    """
    return discriminator_of(generator, networks(document, "input0.weight", "layer0.weight", "layer1.weight"))


def matches(document: Document) -> bool:
    """Whether there is a generator with genforce's names of a StyleGAN2."""
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
    if found is None:
        raise CheckpointError(f"{document.name} has no generator in it. A dict with generator_smooth was expected.")
    discriminator, d = find_discriminator(found, document), None
    if discriminator is not None:
        convolutions = [re.fullmatch(r"layer([0-9]{1,2})\.filter\.kernel", name) for name in discriminator.nodes]
        sizes = sum(match is not None for match in convolutions)
        d = rename(discriminator, (*discriminator_rules(sizes), Rule(r"LabelEmbed\.(weight|bias)", r"mapping.embed.\1")), notes)
    conditional = found.has("mapping.label_weight")
    return assemble(document, sha256, rename(found, _GENERATOR, notes), d, notes, label="sum" if conditional else "project")


def _generators(document: Document) -> list[Table]:
    return networks(document, "synthesis.early_layer.const", "synthesis.layer0.noise_strength")
