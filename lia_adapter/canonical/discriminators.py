"""Configs of discriminators."""

from typing import Final, Literal, NotRequired, TypedDict, final

from lia_adapter.canonical.generators import Architecture
from lia_adapter.canonical.mappings import ACTIVATION, MappingConfig, OfClass

__all__ = [
    "MBSTD_GROUP",
    "Discriminator1Config",
    "Discriminator2Config",
    "DiscriminatorBlock1Config",
    "DiscriminatorBlock2Config",
    "DiscriminatorLabel",
    "Epilogue1Config",
    "Epilogue2Config",
    "discriminator_block2",
    "epilogue2",
    "whole_epilogue",
]

MBSTD_GROUP: Final = 4
"""Samples in a group of the minibatch's standard deviation (Karras 2018, sec. 3)."""

DiscriminatorLabel = Literal["project", "sum"]
"""How a discriminator uses a label: by a projection (Miyato & Koyama 2018), or to pick one of several outputs."""


class _Discriminator(OfClass):
    """What the discriminators of all families have.

    Attributes:
        c_dim: Entries of the label; 0 for none.
        channels: Of the images.
        resolution: Of the images.
    """

    c_dim: int
    channels: int
    resolution: list[int]


@final
class DiscriminatorBlock1Config(TypedDict):
    """The layers of one resolution of StyleGAN1's discriminator; `fromrgb` tells whether it sees the image."""

    name: str
    in_channels: int
    out_channels: int
    fromrgb: bool


@final
class Epilogue1Config(TypedDict):
    """The last block of StyleGAN1's discriminator.

    Attributes:
        name: "b4".
        size: Of its input.
        in_channels: Of its input.
        out_channels: Of the convolution's output.
        fc_features: Width of the dense layer behind it.
        fromrgb: Whether it sees the image.
        mbstd_group: Samples in a group of the minibatch's standard deviation; None: the whole batch.
        mbstd_channels: Maps of it; 0: none.
        outputs: Of the network.
    """

    name: str
    size: list[int]
    in_channels: int
    out_channels: int
    fc_features: int
    fromrgb: bool
    mbstd_group: int | None
    mbstd_channels: int
    outputs: int


@final
class Discriminator1Config(_Discriminator):
    """StyleGAN1's discriminator.

    Attributes:
        lod: As the generator's.
        fromrgb_activation: What follows the layers that see the image: "linear" in huangzh13's.
        blocks: From fine to coarse.
        epilogue: What follows them.
    """

    lod: float
    fromrgb_activation: Literal["lrelu", "linear"]
    blocks: list[DiscriminatorBlock1Config]
    epilogue: Epilogue1Config


@final
class DiscriminatorBlock2Config(TypedDict):
    """The layers of one resolution of StyleGAN2's discriminator.

    Attributes:
        name: "b32", ...
        architecture: How it is joined to the others.
        in_channels: 0 in the first, which sees nothing but the image.
        mid_channels: Between its convolutions.
        out_channels: Of its output.
        activation: Behind each layer.
        clamp: Largest absolute value of each layer's output; None for none.
        fromrgb: Whether it sees the image.
        filter: Size of its low-pass filters.
    """

    name: str
    architecture: Architecture
    in_channels: int
    mid_channels: int
    out_channels: int
    activation: str
    clamp: float | None
    fromrgb: bool
    filter: list[int]


@final
class Epilogue2Config(TypedDict):
    """The last block of StyleGAN2's discriminator; keys that are not here as in its other blocks and `Epilogue1Config`.

    Attributes:
        cmap_dim: Width of the embedded label; 0 without one.
        label: How a label is used. Absent: "project".
        outputs: Of the network, where no label is embedded. Absent: 1.
    """

    name: str
    architecture: Architecture
    in_channels: int
    size: list[int]
    activation: str
    clamp: float | None
    mbstd_group: int | None
    mbstd_channels: int
    cmap_dim: int
    filter: list[int]
    label: NotRequired[DiscriminatorLabel]
    outputs: NotRequired[int]


@final
class Discriminator2Config(_Discriminator):
    """StyleGAN2's discriminator, which StyleGAN3 has as well.

    Attributes:
        mapping: Of its labels; None without any.
        blocks: From fine to coarse.
        epilogue: What follows them.
    """

    mapping: MappingConfig | None
    blocks: list[DiscriminatorBlock2Config]
    epilogue: Epilogue2Config


def discriminator_block2(
    name: str,
    *,
    architecture: Architecture,
    in_channels: int,
    mid_channels: int,
    out_channels: int,
    fromrgb: bool,
    filter_: list[int],
    activation: str = ACTIVATION,
    clamp: float | None = None,
) -> DiscriminatorBlock2Config:
    """See `DiscriminatorBlock2Config`."""
    return {
        "name": name, "architecture": architecture, "in_channels": in_channels, "mid_channels": mid_channels,
        "out_channels": out_channels, "activation": activation, "clamp": clamp, "fromrgb": fromrgb, "filter": filter_,
    }  # fmt: skip


def epilogue2(
    name: str,
    *,
    architecture: Architecture,
    in_channels: int,
    size: list[int],
    cmap_dim: int,
    filter_: list[int],
    mbstd_group: int | None = MBSTD_GROUP,
    mbstd_channels: int = 1,
    activation: str = ACTIVATION,
    clamp: float | None = None,
) -> Epilogue2Config:
    """See `Epilogue2Config`."""
    return {
        "name": name, "architecture": architecture, "in_channels": in_channels, "size": size, "activation": activation,
        "clamp": clamp, "mbstd_group": mbstd_group, "mbstd_channels": mbstd_channels, "cmap_dim": cmap_dim, "filter": filter_,
    }  # fmt: skip


def whole_epilogue(config: Epilogue2Config) -> Epilogue2Config:
    """The same with the keys that may be absent."""
    return {"label": "project", "outputs": 1, **config}
