"""Canonical configs of StyleGAN2 networks that are made rather than read from a file."""

import itertools
from typing import Any

__all__ = ["discriminator_config", "stylegan2_config"]


def stylegan2_config(
    resolution: int,
    *,
    z_dim: int = 512,
    y_dim: int = 512,
    c_dim: int = 0,
    channels: int = 3,
    mapping_layers: int = 8,
    channel_base: int = 32768,
    channel_max: int = 512,
) -> dict[str, Any]:
    """Generator (skip) and discriminator (resnet) of Karras 2020 at a power of two.

    Args:
        resolution: Side of the images, 8 or more.
        z_dim: Entries of z.
        y_dim: Entries of y.
        c_dim: Number of classes, 0 for none.
        channels: Channels of the images.
        mapping_layers: Dense layers of the mapping.
        channel_base: Feature maps at a side r: channel_base / r, ...
        channel_max: ... but no more than this.

    Returns:
        A canonical config, `{"generator": …, "discriminator": …}`.
    """
    sides = [2**i for i in range(2, resolution.bit_length())]
    width = {side: min(channel_base // side, channel_max) for side in sides}
    conv = {"kernel": 3, "activation": "lrelu", "clamp": None, "noise": True}
    blocks = [
        {
            "name": f"b{side}", "architecture": "skip", "in_channels": width.get(side // 2, 0), "out_channels": width[side],
            "size": [side, side], "is_last": side == resolution,
            "conv0": None if side == 4 else dict(conv), "conv1": dict(conv),
            "torgb": {"kernel": 1, "clamp": None}, "filter": [4, 4],
        }
        for side in sides
    ]  # fmt: skip
    mapping = {
        "c_dim": c_dim, "embed_features": y_dim if c_dim else None, "features": [y_dim] * mapping_layers,
        "activation": "lrelu", "lr_multiplier": 0.01,
    }  # fmt: skip
    size = [resolution, resolution]
    return {
        "generator": {
            "z_dim": z_dim, "c_dim": c_dim, "y_dim": y_dim, "num_ws": 2 * len(sides), "resolution": size, "channels": channels,
            "mapping": {**mapping, "z_dim": z_dim, "has_average": True}, "blocks": blocks,
        },
        "discriminator": discriminator_config(
            (resolution, resolution), channels=channels, c_dim=c_dim, mapping_layers=mapping_layers,
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
) -> dict[str, Any]:
    """Discriminator (resnet) of Karras 2020.

    Args:
        resolution: (H, W) of the images; both can be halved until the shorter one is 4 to 7.
        channels: Of the images.
        c_dim: Number of classes, 0 for none.
        mapping_layers: Dense layers of the label's mapping.
        channel_base: As in `stylegan2_config`, by the shorter side.
        channel_max: As there.

    Returns:
        The canonical config.
    """
    halvings = (min(resolution) // 4).bit_length() - 1
    sides = [min(resolution) >> i for i in range(halvings + 1)]
    width = {side: min(channel_base // side, channel_max) for side in sides}
    blocks = [
        {
            "name": f"b{side}", "architecture": "resnet", "in_channels": 0 if side == sides[0] else width[side],
            "mid_channels": width[side], "out_channels": width[next_side], "activation": "lrelu", "clamp": None,
            "fromrgb": side == sides[0], "filter": [4, 4],
        }
        for side, next_side in itertools.pairwise(sides)
    ]  # fmt: skip
    last = sides[-1]
    label_dim = width[last] if c_dim else 0
    epilogue = {
        "name": f"b{last}", "architecture": "resnet", "in_channels": width[last],
        "size": [side >> halvings for side in resolution], "activation": "lrelu", "clamp": None,
        "mbstd_group": 4, "mbstd_channels": 1, "cmap_dim": label_dim, "filter": [4, 4],
    }  # fmt: skip
    mapping = {
        "z_dim": 0, "c_dim": c_dim, "embed_features": label_dim, "features": [label_dim] * mapping_layers,
        "activation": "lrelu", "lr_multiplier": 0.01, "has_average": False,
    }  # fmt: skip
    return {
        "c_dim": c_dim, "channels": channels, "resolution": list(resolution), "mapping": mapping if c_dim else None,
        "blocks": blocks, "epilogue": epilogue,
    }  # fmt: skip
