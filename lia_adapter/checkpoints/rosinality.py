"""rosinality/stylegan2-pytorch's weights, and those of all that grew from it under other names.

- Training files `{"g", "d", "g_ema", ...}`, converted ones `{"g_ema", "latent_avg"}`, and bare weights.
- pSp, e4e, ReStyle, HyperStyle: `{"state_dict": {"decoder.…", "encoder.…"}, "latent_avg"}`; the encoder is left aside.
- BasicSR: `{"params_ema"}` or `{"params"}`; a generator or a discriminator.
- stylegan2-torch (PyPI): other names for the same; its discriminator is left aside.
- mmgeneration and mmagic: `{"state_dict": {"generator_ema.…", "generator.…", "discriminator.…"}, "meta"}`.

They lie wherever `networks` finds them. The latter three rename: `_BASICSR`, `_STYLEGAN2_TORCH` and `_MMAGIC` give them
rosinality's names back, and `rosinality_names` tells the canonical ones. Weights of up-convolutions already have the
orientation of the canonical form, style biases contain their 1.
"""

import re
from typing import Final

import torch
from torch import Tensor

from lia_adapter.checkpoints.base import Checkpoint
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.networks import choose, discriminator_of, near, networks
from lia_adapter.checkpoints.rosinality_names import DISCRIMINATOR, GENERATOR, rules
from lia_adapter.checkpoints.stylegan2 import assemble
from lia_adapter.checkpoints.tables import Rule, Table, rename, renamed
from lia_adapter.checkpoints.values import as_tensor, check_finite
from lia_adapter.errors import CheckpointError

__all__ = ["NAME", "average", "matches", "read"]

NAME: Final = "stylegan2"


_GENERATOR: Final = (
    *rules(GENERATOR),
    Rule(r"embed\.(weight|bias)", r"mapping.embed.\1"),  # of a conditional one, which rosinality's program has not
    Rule(r"(?:latent_avg|w_avg)", "mapping.w_avg"),
)
_BASICSR: Final = (
    (r"^style_mlp\.", "style."),
    (r"^constant_input\.weight", "input.input"),
    (r"^style_conv1\.modulated_conv\.", "conv1.conv."),
    (r"^style_conv1\.weight", "conv1.noise.weight"),
    (r"^style_conv1\.", "conv1."),
    (r"^style_convs\.([0-9]{1,2})\.modulated_conv\.", r"convs.\1.conv."),
    (r"^style_convs\.([0-9]{1,2})\.weight", r"convs.\1.noise.weight"),
    (r"^style_convs\.", "convs."),
    (r"^(to_rgb1|to_rgbs\.[0-9]{1,2})\.modulated_conv\.", r"\1.conv."),
    (r"^noises\.noise(?=[0-9])", "noises.noise_"),
    (r"^conv_body\.", "convs."),
)
_MMAGIC: Final = (
    (r"^style_mapping\.", "style."),
    (r"^constant_input\.input", "input.input"),
    (r"^injected_noise_", "noises.noise_"),
    (r"^(.*)\.noise_injector\.weight", r"\1.noise.weight"),
    (r"^(.*)\.style_modulation\.linear\.weight_orig", r"\1.modulation.weight"),
    (r"^(.*)\.style_modulation\.bias", r"\1.modulation.bias"),
    (r"^(embed|style\.[0-9]{1,2}|final_linear\.[01])\.linear\.weight_orig", r"\1.weight"),
    (r"^(convs\.0\.0|convs\.[0-9]{1,2}\.(?:conv1\.0|conv2\.1|skip\.1)|final_conv\.0)\.conv\.weight_orig", r"\1.weight"),
    (r"^(.*)\.weight_orig", r"\1.weight"),
)
_STYLEGAN2_TORCH: Final = (
    (r"^mapping\.", "style."),
    (r"^convs\.0\.", "conv1."),
    # Its two lists of convolutions take turns in the one of rosinality.
    (r"^(up_)?convs\.([0-9]{1,2})\.", lambda m: f"convs.{2 * int(m[2]) - (not m[1])}."),
    (r"^to_rgbs\.0\.", "to_rgb1."),
    (r"^to_rgbs\.([0-9]{1,2})\.", lambda m: f"to_rgbs.{int(m[1]) - 1}."),
    (r"^(.*)\.affine\.", r"\1.conv.modulation."),
    (r"^(.*)\.add_noise\.", r"\1.noise."),
    (r"^(.*)\.leaky_relu\.", r"\1.activate."),
    (r"^(conv1|convs\.[0-9]{1,2}|to_rgb1|to_rgbs\.[0-9]{1,2})\.(weight|blur\.kernel)$", r"\1.conv.\2"),
)
# How to know a generator and a discriminator by their stored names, and what gives these rosinality's.
_PROGRAMS: Final = (
    (("style.1.weight", "input.input", "conv1.conv.weight"), ("convs.0.0.weight", "final_conv.0.weight"), ()),
    (
        ("style_mlp.1.weight", "constant_input.weight", "style_conv1.activate.bias"),
        ("conv_body.0.0.weight", "final_conv.0.weight"),
        _BASICSR,
    ),
    (
        ("style_mapping.1.linear.weight_orig", "constant_input.input", "conv1.conv.weight_orig"),
        ("convs.0.0.conv.weight_orig", "final_conv.0.conv.weight_orig"),
        _MMAGIC,
    ),
    (("mapping.1.weight", "input.input", "convs.0.add_noise.weight"), ("no discriminator of it is read",), _STYLEGAN2_TORCH),
)
_ENCODER: Final = "the encoder (pSp, e4e, ReStyle or a relative) was left aside: lia-adapt train-encoder makes one into y"
_BGR: Final = (
    "channels were assumed to be RGB; networks that mmagic itself trained draw BGR: convert them with channel order bgr"
)


def matches(document: Document) -> bool:
    """Whether there is a network with rosinality's names, or with those of its heirs."""
    return any(
        networks(document, *generator) or networks(document, *discriminator) for generator, discriminator, _ in _PROGRAMS
    )


def read(document: Document, sha256: str) -> Checkpoint:
    """Take the averaged generator, and the discriminator where there is one.

    Args:
        document: The decoded file, for which `matches` is true.
        sha256: Of the file.

    Raises:
        CheckpointError: Something in it is missing, unknown, or does not fit.
    """
    found = [(networks(document, *g), networks(document, *d), names) for g, d, names in _PROGRAMS]
    generator, notes = choose([table for generators, _, _ in found for table in generators])
    discriminator = discriminator_of(generator, [table for _, discriminators, _ in found for table in discriminators])
    g = d = None
    if generator is not None:
        names = next(names for generators, _, names in found if generator in generators)
        if any(".iwt." in name for name in generator.nodes):
            raise CheckpointError(
                f"{document.name} holds a SWAGAN, which cannot be converted from its file: it draws wavelets. lia_adapter.wrap "
                "takes the generator as it is in its own program."
            )
        if names is _MMAGIC:
            notes.append(_BGR)
        if networks(document, "encoder.input_layer.0.weight"):
            notes.append(_ENCODER)
        g = rename(_mapping_from_one(renamed(generator, names)), _GENERATOR, notes)
        if "mapping.w_avg" not in g and (centre := average(generator, notes)) is not None:
            g["mapping.w_avg"] = centre
    if discriminator is not None:
        names = next(names for _, discriminators, names in found if discriminator in discriminators)
        discriminator = renamed(discriminator, names)
        blocks = sum(re.fullmatch(r"convs\.[0-9]{1,2}\.conv1\.0\.weight", name) is not None for name in discriminator.nodes)
        d = rename(discriminator, rules(DISCRIMINATOR, blocks), notes)
    return assemble(document, sha256, g, d, notes)


def _mapping_from_one(found: Table) -> Table:
    """A conditional network's mapping is counted from 0, because the normalisation has moved out of it."""
    if not found.has("style.0.weight"):
        return found
    return renamed(found, ((r"^style\.([0-9]{1,2})", lambda m: f"style.{int(m[1]) + 1}"),))


def average(generator: Table, notes: list[str]) -> Tensor | None:
    """latent_avg beside the weights: one row, or the same row for every layer.

    Args:
        generator: Where to look.
        notes: Gains one where there is none.

    Raises:
        CheckpointError: It has rows that differ.
    """
    node = near(generator, "latent_avg")
    if node is None:
        notes.append("the file has no latent_avg: the centre of truncation is measured from 10,000 samples of seed 0")
        return None
    document = generator.document
    centre = check_finite(as_tensor(node, document, "latent_avg"), document, "latent_avg")
    if centre.ndim == 2 and len(centre) and torch.equal(centre, centre[:1].expand_as(centre)):
        centre = centre[0]
    if centre.ndim != 1:
        raise CheckpointError(
            f"{document.name}: latent_avg has shape {list(centre.shape)} and its rows differ; one row [y_dim] was expected. "
            "Pass the generator's own file."
        )
    return centre
