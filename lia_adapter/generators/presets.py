"""Canonical configs of StyleGAN2 networks that are made rather than read from a file."""

import itertools

from lia_adapter.canonical import (
    FILTER,
    Block2Config,
    Discriminator2Config,
    DiscriminatorBlock2Config,
    InvertibleConfig,
    NetworksConfig,
    discriminator_block2,
    epilogue2,
    layer2,
    mapping_config,
    torgb2,
)
from lia_adapter.errors import ConfigError

__all__ = ["discriminator_config", "stylegan2_config"]


def stylegan2_config(
    resolution: int | tuple[int, int],
    *,
    z_dim: int = 512,
    y_dim: int = 512,
    c_dim: int = 0,
    channels: int = 3,
    mapping_layers: int = 8,
    invertible: InvertibleConfig | None = None,
    noise: bool = True,
    channel_base: int = 32768,
    channel_max: int = 512,
) -> NetworksConfig:
    """Generator (skip) and discriminator (resnet) of Karras 2020.

    Args:
        resolution: Side of the images or their (H, W); both are halved until the shorter one is 4 to 7.
        z_dim: Entries of z.
        y_dim: Entries of y.
        c_dim: Number of classes, 0 for none.
        channels: Channels of the images.
        mapping_layers: Dense layers of the mapping, and of the discriminator's for labels.
        invertible: `InvertibleMapping.config()` of a mapping that takes the place of the dense layers (LIA, stage 1).
        noise: Whether layers add noise: for what differs between images without a reason, such as the fall of hair.
        channel_base: Feature maps at a shorter side r: channel_base / r, ...
        channel_max: ... but no more than this.

    Returns:
        A canonical config, `{"generator": …, "discriminator": …}`.

    Raises:
        ConfigError: The sides cannot be halved so.
    """
    size = (resolution, resolution) if isinstance(resolution, int) else resolution
    halvings, sides = _halvings(size)
    width = {side: min(channel_base // side, channel_max) for side in sides}
    blocks: list[Block2Config] = [
        {
            "name": f"b{side}", "architecture": "skip", "in_channels": width.get(side // 2, 0), "out_channels": width[side],
            "size": [whole >> halvings - i for whole in size], "is_last": i == halvings,
            "conv0": layer2(noise=noise) if i else None, "conv1": layer2(noise=noise), "torgb": torgb2(),
            "filter": list(FILTER),
        }
        for i, side in enumerate(sides)
    ]  # fmt: skip
    mapping = mapping_config(
        z_dim=z_dim, c_dim=c_dim, embed_features=y_dim if c_dim else None, features=[y_dim] * mapping_layers, has_average=True
    )
    return {
        "generator": {
            "z_dim": z_dim, "c_dim": c_dim, "y_dim": y_dim, "num_ws": 2 * len(sides), "resolution": list(size),
            "channels": channels, "mapping": mapping if invertible is None else invertible, "blocks": blocks,
        },
        "discriminator": discriminator_config(
            size, channels=channels, c_dim=c_dim, mapping_layers=mapping_layers,
            channel_base=channel_base, channel_max=channel_max,
        ),
    }  # fmt: skip


def discriminator_config(
    resolution: tuple[int, int],
    *,
    channels: int = 3,
    c_dim: int = 0,
    mapping_layers: int = 8,
    channel_base: int = 32768,
    channel_max: int = 512,
) -> Discriminator2Config:
    """Discriminator (resnet) of Karras 2020.

    Args:
        resolution: (H, W) of the images; both can be halved until the shorter one is 4 to 7.
        channels: Of the images.
        c_dim: Number of classes, 0 for none.
        mapping_layers: Dense layers of the label's mapping.
        channel_base: As in `stylegan2_config`, by the shorter side.
        channel_max: Feature maps of a layer, at most.

    Returns:
        The canonical config.

    Raises:
        ConfigError: The sides cannot be halved so.
    """
    halvings, sides = _halvings(resolution)
    sides.reverse()
    width = {side: min(channel_base // side, channel_max) for side in sides}
    blocks: list[DiscriminatorBlock2Config] = [
        discriminator_block2(
            f"b{side}", architecture="resnet", in_channels=0 if side == sides[0] else width[side], mid_channels=width[side],
            out_channels=width[next_side], fromrgb=side == sides[0], filter_=list(FILTER),
        )
        for side, next_side in itertools.pairwise(sides)
    ]  # fmt: skip
    last = sides[-1]
    label_dim = width[last] if c_dim else 0
    epilogue = epilogue2(
        f"b{last}", architecture="resnet", in_channels=width[last], size=[side >> halvings for side in resolution],
        cmap_dim=label_dim, filter_=list(FILTER),
    )  # fmt: skip
    mapping = mapping_config(
        z_dim=0, c_dim=c_dim, embed_features=label_dim, features=[label_dim] * mapping_layers, has_average=False
    )
    return {
        "c_dim": c_dim, "channels": channels, "resolution": list(resolution), "mapping": mapping if c_dim else None,
        "blocks": blocks, "epilogue": epilogue,
    }  # fmt: skip


def _halvings(size: tuple[int, int]) -> tuple[int, list[int]]:
    """How often (H, W) is halved until the shorter side is 4 to 7, and the shorter sides, ascending."""
    halvings = (min(size) // 4).bit_length() - 1
    if halvings < 1 or any(side % 2**halvings for side in size):
        raise ConfigError(
            f"images of {size[1]}x{size[0]} cannot be halved until the shorter side is 4 to 7; expected at least 8 pixels, and "
            f"multiples of {2 ** max(halvings, 1)}."
        )
    return halvings, [min(size) >> halvings - i for i in range(halvings + 1)]
