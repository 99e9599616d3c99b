"""Configs of generators."""

from typing import Final, Literal, NotRequired, TypedDict, final

from lia_adapter.canonical.mappings import ACTIVATION, InvertibleConfig, MappingConfig

__all__ = [
    "ARCHITECTURES",
    "FILTER",
    "HALF_CLAMP",
    "MAX_SIDE",
    "NORM_EPS",
    "TAPS",
    "Architecture",
    "Block1Config",
    "Block2Config",
    "Generator1Config",
    "Generator2Config",
    "Generator3Config",
    "InputConfig",
    "Layer2Config",
    "Layer3Config",
    "Torgb2Config",
    "layer2",
    "torgb2",
]

TAPS: Final = (1.0, 3.0, 3.0, 1.0)
"""Of StyleGAN2's low-pass filter in one direction, to be divided by their sum."""
FILTER: Final = (len(TAPS), len(TAPS))
HALF_CLAMP: Final = 256.0
"""Largest absolute value of a layer's output in NVlabs' networks that were trained in half precision."""
NORM_EPS: Final = 1e-8
"""Of StyleGAN1's instance norm."""
MAX_SIDE: Final = 2**16
"""More pixels a side than any generator's image has."""

Architecture = Literal["orig", "skip", "resnet"]
"""How blocks are joined (Karras 2020, fig. 7)."""
ARCHITECTURES: Final[tuple[Architecture, ...]] = ("orig", "skip", "resnet")


class _Generator(TypedDict):
    """What the generators of all families have.

    Attributes:
        z_dim: Entries of z.
        c_dim: Entries of the label; 0 for none.
        y_dim: Entries of y.
        num_ws: How many ys an image takes.
        resolution: Of the images.
        channels: Of the images.
        mapping: z -> y.
    """

    z_dim: int
    c_dim: int
    y_dim: int
    num_ws: int
    resolution: list[int]
    channels: int
    mapping: MappingConfig | InvertibleConfig


@final
class Block1Config(TypedDict):
    """The layers of one resolution of a StyleGAN1.

    Attributes:
        name: "b4", ...
        size: Of its output.
        in_channels: 0 in the first, which starts from a constant.
        out_channels: Of its output.
        noise: Whether its layers have noise images.
        torgb: Whether an image is drawn from it.
    """

    name: str
    size: list[int]
    in_channels: int
    out_channels: int
    noise: bool
    torgb: bool


@final
class Generator1Config(_Generator):
    """A StyleGAN1.

    Attributes:
        norm_eps: Of the instance norm.
        final: What comes behind the last layer.
        lod: Doublings of the resolution that were still to come, in a network that still grows.
        blocks: From coarse to fine.
    """

    norm_eps: float
    final: Literal["tanh"] | None
    lod: float
    blocks: list[Block1Config]


@final
class Layer2Config(TypedDict):
    """A modulated convolution of a StyleGAN2.

    Attributes:
        kernel: Its side.
        activation: Behind it.
        clamp: Largest absolute value of its output; None for none.
        noise: Whether it has a noise image.
    """

    kernel: int
    activation: str
    clamp: float | None
    noise: bool


@final
class Torgb2Config(TypedDict):
    """The layer of a StyleGAN2 that draws a block's image; keys as in `Layer2Config`."""

    kernel: int
    clamp: float | None


@final
class Block2Config(TypedDict):
    """The layers of one resolution of a StyleGAN2.

    Attributes:
        name: "b4", ...
        architecture: How it is joined to the others.
        in_channels: 0 in the first, which starts from a constant.
        out_channels: Of its output.
        size: Of its output.
        is_last: Whether it is the finest.
        conv0: Doubles the size; None in the first.
        conv1: The one behind it.
        torgb: Draws its image; None where it has none.
        filter: Size of its low-pass filters.
        upsample: How the size is doubled in a GFPGAN. Absent: by the filter.
    """

    name: str
    architecture: Architecture
    in_channels: int
    out_channels: int
    size: list[int]
    is_last: bool
    conv0: Layer2Config | None
    conv1: Layer2Config
    torgb: Torgb2Config | None
    filter: list[int]
    upsample: NotRequired[Literal["bilinear"]]


@final
class Generator2Config(_Generator):
    """A StyleGAN2.

    Attributes:
        blocks: From coarse to fine.
        makes: "planes" in an EG3D, which makes no images of them here. Absent: images.
    """

    blocks: list[Block2Config]
    makes: NotRequired[Literal["planes"]]


@final
class InputConfig(TypedDict):
    """The waves that a StyleGAN3 starts from.

    Attributes:
        channels: How many there are.
        size: Of the picture, with its margin.
        sampling_rate: In samples a picture's width.
        bandwidth: Of the waves, in cycles a picture's width.
    """

    channels: int
    size: list[int]
    sampling_rate: float
    bandwidth: float


@final
class Layer3Config(TypedDict):
    """A layer of a StyleGAN3.

    Attributes:
        name: "L0_24_16": its number, size and channels.
        in_channels: Of its input.
        out_channels: Of its output.
        in_size: Of its input.
        size: Of its output.
        kernel: Side of the convolution's.
        up: By what the resolution is multiplied before the nonlinearity.
        down: By what it is divided behind it.
        padding: Left, right, top and bottom, when upsampled.
        up_filter: Shape, [n] or [n, n]; None for none.
        down_filter: Shape, as of `up_filter`.
        clamp: Largest absolute value of its output; None for none.
        torgb: Whether it draws the image, and has no nonlinearity.
    """

    name: str
    in_channels: int
    out_channels: int
    in_size: list[int]
    size: list[int]
    kernel: int
    up: int
    down: int
    padding: list[int]
    up_filter: list[int] | None
    down_filter: list[int] | None
    clamp: float | None
    torgb: bool


@final
class Generator3Config(_Generator):
    """A StyleGAN3 or StyleGAN-XL. Its discriminator is StyleGAN2's.

    Attributes:
        output_scale: Factor of its image.
        input: What it starts from.
        layers: From coarse to fine.
    """

    output_scale: float
    input: InputConfig
    layers: list[Layer3Config]


def layer2(kernel: int = 3, *, noise: bool = True, activation: str = ACTIVATION, clamp: float | None = None) -> Layer2Config:
    """See `Layer2Config`."""
    return {"kernel": kernel, "activation": activation, "clamp": clamp, "noise": noise}


def torgb2(kernel: int = 1, *, clamp: float | None = None) -> Torgb2Config:
    """See `Torgb2Config`."""
    return {"kernel": kernel, "clamp": clamp}
