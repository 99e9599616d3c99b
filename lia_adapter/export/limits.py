"""What programs that know one kind of StyleGAN2 cannot hold of the many that are read here, in words."""

from collections.abc import Iterable, Iterator, Sequence

from lia_adapter.canonical import (
    ACTIVATION,
    FILTER,
    LR_MULTIPLIER,
    Block2Config,
    Clamped,
    Discriminator2Config,
    DiscriminatorBlock2Config,
    Epilogue2Config,
    Generator2Config,
    GeneratorConfig,
    InvertibleConfig,
    Layer2Config,
    MappingConfig,
    whole_epilogue,
    whole_mapping,
)

__all__ = ["clamps", "dense_layers", "discriminator_limits", "generator_limits", "mapping_limits"]


def mapping_limits(config: MappingConfig | InvertibleConfig, y_dim: int) -> Iterator[str]:
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
    config = whole_mapping(config)
    if config["label"] != "embed":
        yield f"labels that enter its mapping in another way ({config['label']})"
    if not config["normalize"]:
        yield "a mapping that does not normalise z"
    if config["activation"] != ACTIVATION:
        yield f"the activation {config['activation']} in its mapping"
    if config["lr_multiplier"] != LR_MULTIPLIER:
        yield f"a learning rate multiplier of {config['lr_multiplier']} in its mapping"
    # Where there are no layers, a discriminator's label is used as it is embedded.
    if [config["embed_features"], *config["features"]][-1] != y_dim or config.get("average_width", y_dim) != y_dim:
        yield "a mapping that gives every layer its own y"
    if len(set(config["features"][:-1])) > 1:
        yield "layers of different widths in its mapping"


def generator_limits(config: Generator2Config) -> Iterator[str]:
    """What of a StyleGAN2 generator NVlabs' and rosinality's programs do not have.

    Yields:
        As `mapping_limits`.
    """
    yield from mapping_limits(config["mapping"], config["y_dim"])
    blocks = config["blocks"]
    yield from _size_limits(config["resolution"], len(blocks) - 1)
    layers = [layer for block in blocks for layer in (block["conv0"], block["conv1"]) if layer is not None]
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


def discriminator_limits(config: Discriminator2Config) -> Iterator[str]:
    """What of a StyleGAN2 discriminator NVlabs' and rosinality's programs do not have.

    Yields:
        As `mapping_limits`.
    """
    blocks, last = config["blocks"], whole_epilogue(config["epilogue"])
    if config["mapping"]:
        yield from mapping_limits(config["mapping"], last["cmap_dim"])
    yield from _size_limits(config["resolution"], len(blocks))
    if len({part["architecture"] for part in [*blocks, last]}) > 1:
        yield "blocks of different architectures"
    if config["c_dim"] and last["label"] != "project":
        yield f"labels that act in another way ({last['label']})"
    if last["mbstd_channels"] != 1:
        yield f"{last['mbstd_channels']} maps of the minibatch's standard deviation"
    yield from _part_limits([*blocks, last], [*blocks, last])


def dense_layers(config: GeneratorConfig) -> MappingConfig:
    """The mapping of a generator that has none of `mapping_limits`."""
    mapping = config["mapping"]
    assert "coupling" not in mapping  # noqa: S101  (mapping_limits)
    return mapping


def clamps(parts: Iterable[Clamped]) -> set[float | None]:
    """The clamps of the parts of a network."""
    return {None if part["clamp"] is None else float(part["clamp"]) for part in parts}


def _size_limits(resolution: list[int], doublings: int) -> Iterator[str]:
    if list(resolution) != [4 << doublings] * 2:
        height, width = resolution
        yield f"images of {width}x{height}; only squares whose sides are powers of two fit"


def _part_limits(
    activated: Sequence[Layer2Config | DiscriminatorBlock2Config | Epilogue2Config],
    filtered: Sequence[Block2Config | DiscriminatorBlock2Config | Epilogue2Config],
) -> Iterator[str]:
    others = {part["activation"] for part in activated} - {ACTIVATION}
    if others:
        yield f"the activation {', '.join(sorted(others))}"
    if any("upsample" in part for part in filtered):
        yield "bilinear up-sampling"
    if any(tuple(part["filter"]) != FILTER for part in filtered):
        yield "low-pass filters that are not 4x4"
