"""Generators, discriminators and published encoders in our own code, and `wrap` for anybody's module.

>>> from lia_adapter.generators import BUILDERS
>>> sorted(BUILDERS)
['stylegan1', 'stylegan2', 'stylegan3']
"""

import copy
from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn

from lia_adapter.canonical import NetworksConfig
from lia_adapter.checkpoints.decoder import clean
from lia_adapter.errors import CheckpointError
from lia_adapter.generators.base import Generator, broadcast, filled, truncate
from lia_adapter.generators.binding import respond, response_error, weights_digest
from lia_adapter.generators.discriminator import Discriminator, lower_discriminator
from lia_adapter.generators.discriminator1 import Discriminator1
from lia_adapter.generators.encoder_alae import ALAEEncoder
from lia_adapter.generators.encoder_lia import LIAEncoder
from lia_adapter.generators.guest import at_rest
from lia_adapter.generators.labels import Label, check_given_label
from lia_adapter.generators.original import Original, in_chunks
from lia_adapter.generators.pictures import device_of, graphs_at_once, picture_bytes, pictures_at_once
from lia_adapter.generators.presets import discriminator_config, stylegan2_config
from lia_adapter.generators.reduced import draw_reduced, has_lower_layers
from lia_adapter.generators.script import build_by_script, is_script
from lia_adapter.generators.stack import DenseStack, dense_stack
from lia_adapter.generators.stylegan1 import StyleGAN1
from lia_adapter.generators.stylegan2 import MappingNetwork, StyleGAN2
from lia_adapter.generators.stylegan3 import StyleGAN3
from lia_adapter.generators.wrap import WrappedGenerator, wrap

__all__ = [
    "BUILDERS",
    "DenseStack",
    "Discriminator",
    "Discriminator1",
    "Generator",
    "LIAEncoder",
    "MappingNetwork",
    "Original",
    "PublishedEncoder",
    "StyleGAN1",
    "StyleGAN2",
    "StyleGAN3",
    "WrappedGenerator",
    "at_rest",
    "broadcast",
    "build",
    "build_by_script",
    "build_encoder",
    "build_random",
    "dense_stack",
    "device_of",
    "draw_reduced",
    "filled",
    "fresh_discriminator",
    "graphs_at_once",
    "has_lower_layers",
    "in_chunks",
    "is_script",
    "judge_of",
    "of_class",
    "picture_bytes",
    "pictures_at_once",
    "respond",
    "response_error",
    "stylegan2_config",
    "truncate",
    "weights_digest",
    "wrap",
]

PublishedEncoder = LIAEncoder | ALAEEncoder
"""An encoder that came with its generator."""

_JUDGED = 256  # pixels a side, at most, of what a discriminator sees that learns along

# family -> (generator, discriminator), both built from the canonical config of that family
BUILDERS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "stylegan1": (StyleGAN1, Discriminator1),
    "stylegan2": (StyleGAN2, Discriminator),
    "stylegan3": (StyleGAN3, Discriminator),
}


def build(family: str, config: NetworksConfig, tensors: Mapping[str, Tensor]) -> tuple[nn.Module | None, nn.Module | None]:
    """Builds the generator and the discriminator, where the config has them, in float32, in eval mode, without gradients.

    Args:
        family: A key of `BUILDERS`.
        config: Canonical config; what a LIA file gives for one is refused where it is none.
        tensors: Tensors named `generator.…` and `discriminator.…`; see `filled` for which of them are copied.

    Returns:
        The generator (a `Generator`) and the discriminator; None for what the config does not have.

    Raises:
        CheckpointError: The family is unknown, or a tensor is missing, left over, or has another shape.
    """
    if family not in BUILDERS:
        raise CheckpointError(f"family {family!r} has no generator here; known: {', '.join(BUILDERS)}.")
    built: list[nn.Module | None] = []
    configs = {"generator": config.get("generator"), "discriminator": config.get("discriminator")}
    for (part, part_config), module_type in zip(configs.items(), BUILDERS[family], strict=True):
        if part_config is None:
            built.append(None)
            continue
        try:
            built.append(filled(partial(module_type, part_config), tensors, f"{part}."))
        except RuntimeError as error:
            first = clean(" ".join(str(error).split()), 300)
            raise CheckpointError(f"the {part}'s tensors do not fit its config: {first}") from error
    generator, discriminator = built
    return generator, discriminator


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
    return filled(partial(LIAEncoder, encoder), tensors, "encoder.")


def build_random(family: str, config: NetworksConfig) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator of a config with random weights, in eval mode, without gradients."""
    generator_type, discriminator_type = BUILDERS[family]
    parts = generator_type(config["generator"]), discriminator_type(config["discriminator"])
    return parts[0].eval().requires_grad_(False), parts[1].eval().requires_grad_(False)


def judge_of(discriminator: nn.Module | None, resolution: tuple[int, int], channels: int, c_dim: int = 0) -> nn.Module:
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
        return copy.deepcopy(lower_discriminator(discriminator, _JUDGED))
    if discriminator is not None and max(discriminator.resolution) <= _JUDGED:  # type: ignore[arg-type]
        return copy.deepcopy(discriminator)
    return fresh_discriminator(resolution, channels, c_dim)


def fresh_discriminator(resolution: tuple[int, int], channels: int, c_dim: int = 0) -> Discriminator:
    """A StyleGAN2 discriminator with random weights for images of any size.

    Its own `resolution` is the nearest one, up to 256, that can be halved down to about 4; images are to be resized to it.
    """
    shrink = min(1.0, _JUDGED / max(resolution))
    halvings = max(1, (round(min(resolution) * shrink) // 4).bit_length() - 1)
    h, w = (max(4, round(side * shrink / 2**halvings)) << halvings for side in resolution)
    return Discriminator(discriminator_config((h, w), channels=channels, c_dim=c_dim))
