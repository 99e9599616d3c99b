"""What programs that know one kind of StyleGAN2 cannot hold of the many that are read here, in words."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["clamps", "discriminator_limits", "generator_limits", "mapping_limits"]

_LR_MULTIPLIER = 0.01
_FILTER = [4, 4]

Config = Mapping[str, Any]


def mapping_limits(config: Config, y_dim: int) -> Iterator[str]:
    """What of a mapping NVlabs' and rosinality's programs do not have.

    Args:
        config: `mapping` of the canonical config.
        y_dim: Entries of y.

    Yields:
        Phrases that go behind "the generator has".
    """
    if "coupling" in config:
        yield "an invertible mapping and no other (it was trained with it)"
        return
    if config.get("label", "embed") != "embed":
        yield f"labels that enter its mapping in another way ({config['label']})"
    if not config.get("normalize", True):
        yield "a mapping that does not normalise z"
    if config["activation"] != "lrelu":
        yield f"the activation {config['activation']} in its mapping"
    if config["lr_multiplier"] != _LR_MULTIPLIER:
        yield f"a learning rate multiplier of {config['lr_multiplier']} in its mapping"
    # Where there are no layers, a discriminator's label is used as it is embedded.
    if [config["embed_features"], *config["features"]][-1] != y_dim or config.get("average_width", y_dim) != y_dim:
        yield "a mapping that gives every layer its own y"
    if len(set(config["features"][:-1])) > 1:
        yield "layers of different widths in its mapping"


def generator_limits(config: Config) -> Iterator[str]:
    """What of a StyleGAN2 generator NVlabs' and rosinality's programs do not have.

    Args:
        config: `generator` of the canonical config of the family "stylegan2".

    Yields:
        As `mapping_limits`.
    """
    yield from mapping_limits(config["mapping"], config["y_dim"])
    blocks = config["blocks"]
    yield from _size_limits(config["resolution"], len(blocks) - 1)
    layers = [block[name] for block in blocks for name in ("conv0", "conv1") if block[name] is not None]
    images = [block["torgb"] is not None for block in blocks]
    if len({block["architecture"] for block in blocks}) > 1:
        yield "blocks of different architectures"
    elif images != ([True] * len(blocks) if blocks[0]["architecture"] == "skip" else [False] * (len(blocks) - 1) + [True]):
        yield "images drawn by other blocks than its architecture says"
    if len({layer["noise"] for layer in layers}) > 1:
        yield "noise in some layers and not in others"
    kernels = {layer["kernel"] for layer in layers}, {block["torgb"]["kernel"] for block in blocks if block["torgb"]}
    if kernels != ({3}, {1}):
        yield "kernels of other sizes than 3, and 1 for images"
    yield from _part_limits(layers, blocks)


def discriminator_limits(config: Config) -> Iterator[str]:
    """What of a StyleGAN2 discriminator NVlabs' and rosinality's programs do not have.

    Args:
        config: `discriminator` of the canonical config of the family "stylegan2".

    Yields:
        As `mapping_limits`.
    """
    blocks, last = config["blocks"], config["epilogue"]
    if config["mapping"]:
        yield from mapping_limits(config["mapping"], last["cmap_dim"])
    yield from _size_limits(config["resolution"], len(blocks))
    if len({part["architecture"] for part in [*blocks, last]}) > 1:
        yield "blocks of different architectures"
    if config["c_dim"] and last.get("label", "project") != "project":
        yield f"labels that act in another way ({last['label']})"
    if last["mbstd_channels"] != 1:
        yield f"{last['mbstd_channels']} maps of the minibatch's standard deviation"
    yield from _part_limits([*blocks, last], [*blocks, last])


def clamps(parts: Iterable[Config | None]) -> set[float | None]:
    """The clamps of all parts that have one to set.

    Args:
        parts: Layers of a config; None is passed over.
    """
    return {None if part["clamp"] is None else float(part["clamp"]) for part in parts if part is not None}


def _size_limits(resolution: list[int], doublings: int) -> Iterator[str]:
    if list(resolution) != [4 << doublings] * 2:
        height, width = resolution
        yield f"images of {width}x{height}; only squares whose sides are powers of two fit"


def _part_limits(activated: Iterable[Config], filtered: Iterable[Config]) -> Iterator[str]:
    others = {part["activation"] for part in activated} - {"lrelu"}
    if others:
        yield f"the activation {', '.join(sorted(others))}"
    filtered = list(filtered)
    if any(part.get("upsample") for part in filtered):
        yield "bilinear up-sampling"
    if any(list(part["filter"]) != _FILTER for part in filtered):
        yield "low-pass filters that are not 4x4"
