"""Generators, discriminators and published encoders in our own code, and `wrap` for anybody's module.

>>> from lia_adapter.generators import BUILDERS
>>> sorted(BUILDERS)
['stylegan1', 'stylegan2', 'stylegan3']
"""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from torch import Tensor, nn

from lia_adapter.canonical import DiscriminatorConfig, GeneratorConfig, NetworksConfig
from lia_adapter.checkpoints.decoder import clean
from lia_adapter.errors import CheckpointError
from lia_adapter.generators.base import Affine, Generator, StyleLayer, broadcast, filled, truncate
from lia_adapter.generators.binding import respond, response_error, weights_digest
from lia_adapter.generators.discriminator import Discriminator, lower_discriminator
from lia_adapter.generators.discriminator1 import Discriminator1
from lia_adapter.generators.encoder_alae import ALAEEncoder
from lia_adapter.generators.encoder_lia import OfficialLIAEncoder
from lia_adapter.generators.fingerprints import fingerprint, marks_of, weights_of
from lia_adapter.generators.guest import at_rest
from lia_adapter.generators.labels import Label, check_given_label
from lia_adapter.generators.pictures import device_of, graphs_at_once, picture_bytes, pictures_at_once
from lia_adapter.generators.presets import discriminator_config, stylegan2_config
from lia_adapter.generators.reduced import draw_reduced, has_lower_layers
from lia_adapter.generators.sampler import MappingSampler, in_chunks, sampled_mean
from lia_adapter.generators.script import build_by_script, function_of_script, is_script, told_of_script
from lia_adapter.generators.seeds import seed_to_z
from lia_adapter.generators.stack import DenseStack, dense_stack
from lia_adapter.generators.stylegan1 import StyleGAN1
from lia_adapter.generators.stylegan2 import MappingNetwork, StyleGAN2
from lia_adapter.generators.stylegan3 import StyleGAN3
from lia_adapter.generators.styles import shifted_styles, style_sizes, styles_of
from lia_adapter.generators.wrap import WrappedGenerator, as_generator, wrap

__all__ = [
    "BUILDERS",
    "Affine",
    "DenseStack",
    "Discriminator",
    "Discriminator1",
    "DiscriminatorNetwork",
    "Generator",
    "OfficialLIAEncoder",
    "MappingNetwork",
    "MappingSampler",
    "PublishedEncoder",
    "StyleGAN1",
    "StyleGAN2",
    "StyleGAN3",
    "StyleLayer",
    "WrappedGenerator",
    "as_generator",
    "at_rest",
    "broadcast",
    "build",
    "build_by_script",
    "function_of_script",
    "told_of_script",
    "build_encoder",
    "build_random",
    "dense_stack",
    "device_of",
    "discriminator_for",
    "draw_reduced",
    "filled",
    "fingerprint",
    "fresh_discriminator",
    "graphs_at_once",
    "has_lower_layers",
    "in_chunks",
    "is_script",
    "marks_of",
    "of_class",
    "picture_bytes",
    "pictures_at_once",
    "respond",
    "response_error",
    "sampled_mean",
    "seed_to_z",
    "shifted_styles",
    "style_sizes",
    "styles_of",
    "stylegan2_config",
    "truncate",
    "weights_digest",
    "weights_of",
    "wrap",
]

PublishedEncoder = OfficialLIAEncoder | ALAEEncoder
"""An encoder that came with its generator."""

_MAX_SIDE = 256  # pixels a side, at most, of what a discriminator sees that learns along

DiscriminatorNetwork = Discriminator | Discriminator1
"""The discriminator of a family; its `resolution` is the size of the images that it takes."""

# family -> what builds generator and discriminator from the canonical config of that family, and of no other
BUILDERS: dict[str, tuple[Callable[[Any], Generator], Callable[[Any], DiscriminatorNetwork]]] = {
    "stylegan1": (StyleGAN1, Discriminator1),
    "stylegan2": (StyleGAN2, Discriminator),
    "stylegan3": (StyleGAN3, Discriminator),
}

M = TypeVar("M", bound=nn.Module)


def build(
    family: str, config: NetworksConfig, tensors: Mapping[str, Tensor]
) -> tuple[Generator | None, DiscriminatorNetwork | None]:
    """Builds the generator and the discriminator, where the config has them, in float32, in eval mode, without gradients.

    Args:
        family: A key of `BUILDERS`.
        config: Canonical config; what a LIA file gives for one is refused where it is none.
        tensors: Tensors named `generator.…` and `discriminator.…`; see `filled` for which of them are copied.

    Returns:
        The generator and the discriminator; None for what the config does not have.

    Raises:
        CheckpointError: The family is unknown, or a tensor is missing, left over, or has another shape.
    """
    if family not in BUILDERS:
        raise CheckpointError(f"family {family!r} has no generator here; known: {', '.join(BUILDERS)}.")
    make_generator, make_discriminator = BUILDERS[family]
    generator = _built("generator", make_generator, config.get("generator"), tensors)
    return generator, _built("discriminator", make_discriminator, config.get("discriminator"), tensors)


def _built(
    part: str, make: Callable[[Any], M], config: GeneratorConfig | DiscriminatorConfig | None, tensors: Mapping[str, Tensor]
) -> M | None:
    if config is None:
        return None
    try:
        return filled(partial(make, config), tensors, f"{part}.")
    except RuntimeError as error:
        first = clean(" ".join(str(error).split()), 300)
        raise CheckpointError(f"the {part}'s tensors do not fit its config: {first}") from error


def of_class(config: NetworksConfig, label: Label) -> NetworksConfig:
    """The config of the same networks for one class alone: the generator is then unconditional.

    Args:
        config: Canonical config of a conditional generator.
        label: The class, or the numbers of the label.

    Raises:
        ConfigError: There is no such class, or the label has another number of entries.
    """
    generator, discriminator = copy.deepcopy(config["generator"]), copy.deepcopy(config["discriminator"])
    check_given_label(label, generator["c_dim"] if generator else 0)
    wanted = label if isinstance(label, int) else list(label)
    if generator and "coupling" not in generator["mapping"]:  # couplings take no label in any file
        generator["c_dim"], generator["mapping"]["class"] = 0, wanted
    if discriminator:
        discriminator["class"] = wanted
    return {**config, "generator": generator, "discriminator": discriminator}


def build_encoder(config: NetworksConfig, tensors: Mapping[str, Tensor]) -> PublishedEncoder | None:
    """Builds the encoder that a checkpoint may have beside its generator (the official LIA, ALAE), or alone (idinvert).

    Args:
        config: Canonical config; its "encoder".
        tensors: Tensors named `encoder.…`.
    """
    encoder = config.get("encoder")
    if encoder is None:
        return None
    if encoder["kind"] == "alae":
        return filled(partial(ALAEEncoder, encoder), tensors, "encoder.")
    return filled(partial(OfficialLIAEncoder, encoder), tensors, "encoder.")


def build_random(family: str, config: NetworksConfig) -> tuple[Generator, DiscriminatorNetwork]:
    """Generator and discriminator of a config with random weights, in eval mode, without gradients."""
    make_generator, make_discriminator = BUILDERS[family]
    generator, discriminator = make_generator(config["generator"]), make_discriminator(config["discriminator"])
    return generator.eval().requires_grad_(False), discriminator.eval().requires_grad_(False)


def discriminator_for(
    discriminator: nn.Module | None, resolution: tuple[int, int], channels: int, c_dim: int = 0
) -> DiscriminatorNetwork:
    """A discriminator to learn along with an encoder, for images of at most 256 pixels a side.

    Args:
        discriminator: The checkpoint's, whose weights it begins with as far as they are for images of that size.
        resolution: (H, W) of the generator's images.
        channels: Of the images.
        c_dim: Classes.

    Returns:
        A module of its own; its `resolution` is the size to resize images to.
    """
    if isinstance(discriminator, Discriminator):
        return copy.deepcopy(lower_discriminator(discriminator, _MAX_SIDE))
    if isinstance(discriminator, Discriminator1) and max(discriminator.resolution) <= _MAX_SIDE:
        return copy.deepcopy(discriminator)
    return fresh_discriminator(resolution, channels, c_dim)


def fresh_discriminator(resolution: tuple[int, int], channels: int, c_dim: int = 0) -> Discriminator:
    """A StyleGAN2 discriminator with random weights for images of any size.

    Its own `resolution` is the nearest one, up to 256, that can be halved down to about 4; images are to be resized to it.
    """
    shrink = min(1.0, _MAX_SIDE / max(resolution))
    halvings = max(1, (round(min(resolution) * shrink) // 4).bit_length() - 1)
    h, w = (max(4, round(side * shrink / 2**halvings)) << halvings for side in resolution)
    return Discriminator(discriminator_config((h, w), channels=channels, c_dim=c_dim))
