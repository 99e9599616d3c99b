"""Configs of all networks of a file together."""

from collections.abc import Iterator
from typing import Literal, NotRequired, TypedDict, final

from lia_adapter.canonical.discriminators import (
    Discriminator1Config,
    Discriminator2Config,
    DiscriminatorBlock2Config,
    Epilogue2Config,
)
from lia_adapter.canonical.generators import (
    Generator1Config,
    Generator2Config,
    Generator3Config,
    Layer2Config,
    Layer3Config,
    Torgb2Config,
)
from lia_adapter.errors import LIAError

__all__ = [
    "Clamped",
    "DiscriminatorConfig",
    "GeneratorConfig",
    "NetworksConfig",
    "PublishedEncoderConfig",
    "clamped_parts",
    "discriminator2",
    "generator2",
    "generator3",
    "whole_encoder",
]


@final
class PublishedEncoderConfig(TypedDict):
    """An encoder that was published with its generator.

    Attributes:
        kind: Of ALAE, of LIA's own code, or idinvert's.
        resolution: Of the images.
        channels: Of the images.
        y_dim: Entries of y.
        widths: Feature maps behind the first layer and behind each block.
        num_ws: How many ys idinvert's gives. Absent: one.
    """

    kind: Literal["alae", "lia", "idinvert"]
    resolution: list[int]
    channels: int
    y_dim: int
    widths: list[int]
    num_ws: NotRequired[int]


GeneratorConfig = Generator1Config | Generator2Config | Generator3Config
DiscriminatorConfig = Discriminator1Config | Discriminator2Config


@final
class NetworksConfig(TypedDict, total=False):
    """The networks of a file. Nothing is there for a wrapped generator, which only its own program can build.

    Attributes:
        generator: None where the file has none.
        discriminator: As well.
        encoder: Absent or None where the file has none that is known.
    """

    generator: GeneratorConfig | None
    discriminator: DiscriminatorConfig | None
    encoder: PublishedEncoderConfig | None


def whole_encoder(config: PublishedEncoderConfig) -> PublishedEncoderConfig:
    """The same with the key that may be absent."""
    return {"num_ws": 1, **config}


Clamped = Layer2Config | Torgb2Config | Layer3Config | DiscriminatorBlock2Config | Epilogue2Config
"""What has a clamp."""


def clamped_parts(config: Generator2Config | Generator3Config | Discriminator2Config) -> Iterator[Clamped]:
    """The parts of a network that have a clamp: the very dicts, so that it can be set."""
    if "epilogue" in config:
        yield from config["blocks"]
        yield config["epilogue"]
    elif "layers" in config:
        yield from config["layers"]
    else:
        for block in config["blocks"]:
            yield from (part for part in (block["conv0"], block["conv1"], block["torgb"]) if part is not None)


def generator2(networks: NetworksConfig) -> Generator2Config:
    """The generator's config of networks of the family "stylegan2".

    Raises:
        LIAError: They have none.
    """
    config = networks.get("generator")
    if config is None or "lod" in config or "layers" in config:
        raise LIAError("a StyleGAN2 generator was expected here. Pass a checkpoint of that family.")
    return config


def generator3(networks: NetworksConfig) -> Generator3Config:
    """The generator's config of networks of the family "stylegan3".

    Raises:
        LIAError: They have none.
    """
    config = networks.get("generator")
    if config is None or "blocks" in config:
        raise LIAError("a StyleGAN3 generator was expected here. Pass a checkpoint of that family.")
    return config


def discriminator2(networks: NetworksConfig) -> Discriminator2Config | None:
    """The discriminator's config of networks of the family "stylegan2" or "stylegan3"; None where they have none.

    Raises:
        LIAError: It is another one.
    """
    config = networks.get("discriminator")
    if config is not None and "lod" in config:
        raise LIAError("a StyleGAN2 discriminator was expected here. Pass a checkpoint of that family, or of StyleGAN3.")
    return config
