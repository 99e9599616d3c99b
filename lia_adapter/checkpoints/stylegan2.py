"""From bare weights in StyleGAN2's canonical names to a whole checkpoint: their names and shapes tell the structure.

The names are those of NVlabs' PyTorch state dicts. What weights cannot tell is assumed to be as published, see
`lia_adapter.canonical`: leaky ReLU, no clamp, a learning rate multiplier of 0.01 in the mapping.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final, NoReturn

import torch
from torch import Tensor

from lia_adapter.canonical import (
    MAX_SIDE,
    MBSTD_GROUP,
    TAPS,
    Architecture,
    Block2Config,
    Discriminator2Config,
    DiscriminatorBlock2Config,
    DiscriminatorLabel,
    Generator2Config,
    Layer2Config,
    MappingConfig,
    MappingLabel,
    Torgb2Config,
    discriminator_block2,
    epilogue2,
    layer2,
    mapping_config,
    torgb2,
)
from lia_adapter.checkpoints.base import Checkpoint
from lia_adapter.checkpoints.decoder import clean
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.layout import check_tensors, discriminator_shapes, generator_shapes
from lia_adapter.errors import CheckpointError

__all__ = ["Settle", "assemble", "infer_discriminator", "infer_generator", "infer_mapping"]

_FAMILY: Final = "stylegan2"
_MAX_TAPS: Final = 64  # of a low-pass filter

Settle = Callable[[Generator2Config | None, Discriminator2Config | None], None]
"""Sets in the configs what weights do not tell."""


class _Shapes:
    """Shapes of tensors by name, with the errors that a person can use."""

    def __init__(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        self.name, self.tensors = name, tensors

    def fail(self, why: str) -> NoReturn:
        raise CheckpointError(f"{self.name}: {why}. It is damaged, or a variant of StyleGAN2 that this version does not know.")

    def __contains__(self, key: str) -> bool:
        return key in self.tensors

    def of(self, key: str, axes: int) -> list[int]:
        if key not in self.tensors:
            raise CheckpointError(f"{self.name}: {clean(key)} is missing, so this is no whole StyleGAN2. Get the file again.")
        shape = list(self.tensors[key].shape)
        if len(shape) != axes or 0 in shape:
            self.fail(f"{clean(key)} has shape {shape}, and {axes} axes were expected")
        return shape

    def blocks(self, prefix: str, part: str) -> list[str]:
        """Names of the blocks that have such a part, from coarse to fine."""
        found = {match[1] for key in self.tensors if (match := re.fullmatch(rf"{prefix}(b[0-9]{{1,5}})\.{part}", key))}
        return sorted(found, key=lambda name: int(name[1:]))


def assemble(
    document: Document,
    sha256: str,
    generator: dict[str, Tensor] | None,
    discriminator: dict[str, Tensor] | None = None,
    notes: list[str] | None = None,
    *,
    mbstd_group: int | None = MBSTD_GROUP,
    label: DiscriminatorLabel = "project",
    settle: Settle | None = None,
) -> Checkpoint:
    """A checkpoint from weights in canonical names.

    Low-pass filters that a file does not store are StyleGAN2's [1, 3, 3, 1]; noise images that it does not store are zero.

    Args:
        document: What they are from.
        sha256: Of the file.
        generator: The generator's, without a prefix; None where there is none.
        discriminator: The discriminator's.
        notes: What was ignored or chosen so far.
        mbstd_group: Group size of the discriminator's minibatch standard deviation; None: the whole batch.
        label: How the discriminator uses a label.
        settle: Sets in the configs what weights do not tell.

    Raises:
        CheckpointError: A tensor is missing, left over, or contradicts its neighbours.
    """
    notes = list(notes or [])
    config: Generator2Config | None = None
    config_d: Discriminator2Config | None = None
    tensors: dict[str, Tensor] = {}
    if generator is not None:
        generator = dict(generator)
        _add_noise(generator, notes)
        config = infer_generator(generator, document.name)
        tensors |= _fitting(generator, generator_shapes(config), document.name, "generator")
    else:
        notes.append("the file has no generator")
    if discriminator is not None:
        size = None if config is None else config["blocks"][0]["size"]
        config_d = infer_discriminator(discriminator, document.name, coarsest=size, mbstd_group=mbstd_group, label=label)
        tensors |= _fitting(discriminator, discriminator_shapes(config_d), document.name, "discriminator")
    else:
        notes.append("the file has no discriminator")
    if settle is not None:
        settle(config, config_d)
    return Checkpoint(
        family=_FAMILY, config={"generator": config, "discriminator": config_d}, tensors=tensors, sha256=sha256,
        symbols=document.names, notes=tuple(notes) + document.notes, source=document.name,
    )  # fmt: skip


def infer_mapping(tensors: Mapping[str, Tensor], name: str) -> MappingConfig:
    """The config of a mapping.

    Args:
        tensors: With names `mapping.…`.
        name: The file's name, for messages.
    """
    shapes = _Shapes(name, tensors)
    features: list[int] = []
    inputs = 0
    while (key := f"mapping.fc{len(features)}.weight") in shapes:
        out, fan_in = shapes.of(key, 2)
        inputs = inputs if features else fan_in
        features.append(out)
    embed, c_dim = None, 0
    label: MappingLabel = "embed"
    if "mapping.label_weight" in shapes:
        label = "concat"
        c_dim, embed = shapes.of("mapping.label_weight", 2)
    elif "mapping.embed.weight" in shapes:
        embed, c_dim = shapes.of("mapping.embed.weight", 2)
    if not features:
        if embed is None:
            shapes.of("mapping.fc0.weight", 2)
        inputs = embed or 0
    z_dim = inputs - (embed or 0)
    if z_dim < 0:
        shapes.fail(f"the mapping's first layer takes {inputs} numbers, fewer than its label's {embed}")
    has_average = "mapping.w_avg" in shapes
    config = mapping_config(z_dim=z_dim, c_dim=c_dim, embed_features=embed, features=features, has_average=has_average)
    return {**config, "label": label, "normalize": True}


def infer_generator(tensors: dict[str, Tensor], name: str) -> Generator2Config:
    """The config of a generator; its low-pass filters are added to the tensors where they are not stored.

    Args:
        tensors: By canonical names; gains new ones.
        name: The file's name, for messages.

    Raises:
        CheckpointError: They are no StyleGAN2.
    """
    shapes = _Shapes(name, tensors)
    names = shapes.blocks("synthesis.", r"conv1\.weight") or ["b4"]
    if [int(block[1:]) for block in names] != [int(names[0][1:]) << i for i in range(len(names))]:
        shapes.fail(f"its blocks are {', '.join(names)}, and each was expected to have twice the size of the one before")
    size = shapes.of(f"synthesis.{names[0]}.const", 3)[1:]
    if max(size) << len(names) - 1 > MAX_SIDE:
        shapes.fail(f"its images have more than {MAX_SIDE:,} pixels a side")
    last = f"synthesis.{names[-1]}.torgb.weight"
    channels = shapes.of(last, 4)[0]
    with_image = [block for block in names if f"synthesis.{block}.torgb.weight" in shapes]
    architecture: Architecture
    if any(f"synthesis.{block}.skip.weight" in shapes for block in names):
        architecture = "resnet"
    else:
        architecture = "skip" if with_image == names and len(names) > 1 else "orig"
    blocks: list[Block2Config] = []
    for i, block in enumerate(names):
        key = f"synthesis.{block}"
        out = shapes.of(f"{key}.conv1.weight", 4)[0]
        layers = ["conv1"] if i == 0 else ["conv0", "conv1"]
        holders = [f"{key}.resample_filter", *(f"{key}.{layer}.resample_filter" for layer in layers)]
        holders += [f"{key}.skip.resample_filter"] if architecture == "resnet" and i else []
        blocks.append(
            {
                "name": block, "architecture": architecture, "in_channels": blocks[-1]["out_channels"] if blocks else 0,
                "out_channels": out, "size": [side << i for side in size], "is_last": i == len(names) - 1,
                "conv0": _layer(shapes, f"{key}.conv0") if i else None, "conv1": _layer(shapes, f"{key}.conv1"),
                "torgb": _torgb(shapes, f"{key}.torgb") if block in with_image else None,
                "filter": _fill_filters(tensors, holders, shapes),
            }
        )  # fmt: skip
    mapping, y_dim = infer_mapping(tensors, name), shapes.of(f"synthesis.{names[0]}.conv1.affine.weight", 2)[1]
    return {
        "z_dim": mapping["z_dim"], "c_dim": mapping["c_dim"], "y_dim": y_dim,
        "num_ws": 2 * len(names), "resolution": list(blocks[-1]["size"]), "channels": channels,
        "mapping": mapping, "blocks": blocks,
    }  # fmt: skip


def infer_discriminator(
    tensors: dict[str, Tensor],
    name: str,
    *,
    coarsest: list[int] | None = None,
    mbstd_group: int | None = MBSTD_GROUP,
    label: DiscriminatorLabel = "project",
) -> Discriminator2Config:
    """The config of a discriminator; its low-pass filters are added to the tensors where they are not stored.

    Args:
        tensors: By canonical names; gains new ones.
        name: The file's name, for messages.
        coarsest: (H, W) of its last block; None: square.
        mbstd_group: Group size of the minibatch standard deviation; None: the whole batch.
        label: How it uses a label.

    Raises:
        CheckpointError: They are no StyleGAN2 discriminator.
    """
    shapes = _Shapes(name, tensors)
    names = shapes.blocks("", r"conv0\.weight")[::-1]
    last = shapes.blocks("", r"fc\.weight")
    if not last:
        shapes.of("b4.fc.weight", 2)
    end = last[0]
    width, wider = shapes.of(f"{end}.conv.weight", 4)[:2]
    inputs = shapes.of(f"{end}.fc.weight", 2)[1]
    side = round((inputs / width) ** 0.5)
    size = coarsest or [side, side]
    if width * size[0] * size[1] != inputs:
        shapes.fail(f"{end}.fc takes {inputs} numbers, and {width} maps of {size[0]}x{size[1]} were expected")
    architecture: Architecture
    if any(f"{block}.skip.weight" in shapes for block in names):
        architecture = "resnet"
    else:
        architecture = "skip" if f"{end}.fromrgb.weight" in shapes else "orig"
    blocks: list[DiscriminatorBlock2Config] = []
    for i, block in enumerate(names):
        fromrgb = f"{block}.fromrgb.weight" in shapes
        parts = ["conv0", "conv1"] + ["fromrgb"] * fromrgb + ["skip"] * (architecture == "resnet")
        middle, out = shapes.of(f"{block}.conv0.weight", 4)[0], shapes.of(f"{block}.conv1.weight", 4)[0]
        holders = [f"{block}.resample_filter", *(f"{block}.{part}.resample_filter" for part in parts)]
        blocks.append(
            discriminator_block2(
                block, architecture=architecture, in_channels=blocks[-1]["out_channels"] if i else 0, mid_channels=middle,
                out_channels=out, fromrgb=fromrgb, filter_=_fill_filters(tensors, holders, shapes),
            )
        )  # fmt: skip
    conditional = "mapping.embed.weight" in shapes
    outputs = shapes.of(f"{end}.out.weight", 2)[0]
    holders = [f"{end}.conv.resample_filter"] + [f"{end}.fromrgb.resample_filter"] * (architecture == "skip")
    mapping = infer_mapping(tensors, name) if conditional else None
    first = names[0] if names else end
    epilogue = epilogue2(
        end, architecture=architecture, in_channels=width, size=list(size), mbstd_group=mbstd_group,
        mbstd_channels=wider - width, cmap_dim=outputs if conditional else 0, filter_=_fill_filters(tensors, holders, shapes),
    )  # fmt: skip
    return {
        "c_dim": mapping["c_dim"] if mapping else (outputs if label == "sum" and outputs > 1 else 0),
        "channels": shapes.of(f"{first}.fromrgb.weight", 4)[1],
        "resolution": [side << len(names) for side in size], "mapping": mapping, "blocks": blocks,
        "epilogue": {**epilogue, "label": label, "outputs": outputs},
    }  # fmt: skip


def _layer(shapes: _Shapes, key: str) -> Layer2Config:
    return layer2(shapes.of(f"{key}.weight", 4)[-1], noise=f"{key}.noise_strength" in shapes)


def _torgb(shapes: _Shapes, key: str) -> Torgb2Config:
    return torgb2(shapes.of(f"{key}.weight", 4)[-1])


def _fill_filters(tensors: dict[str, Tensor], holders: list[str], shapes: _Shapes) -> list[int]:
    """Gives one block's layers the filter that any of them has, and returns its shape."""
    stored = next((tensors[key] for key in holders if key in tensors), None)
    if stored is None:
        taps = torch.tensor(TAPS)
        stored = torch.outer(taps, taps) / sum(TAPS) ** 2
    if stored.ndim != 2 or not 0 < min(stored.shape) <= max(stored.shape) <= _MAX_TAPS:
        shapes.fail(f"a low-pass filter has shape {list(stored.shape)}")
    for key in holders:
        tensors.setdefault(key, stored)
    return list(stored.shape)


def _add_noise(tensors: dict[str, Tensor], notes: list[str]) -> None:
    """Zero images where a layer has a strength of noise and no image of it, as the first rosinality files have."""
    missing = []
    for name in [name for name in tensors if name.endswith(".noise_strength")]:
        key = name.removesuffix("strength") + "const"
        if key not in tensors and (match := re.search(r"\.b([0-9]{1,5})\.", name)) and int(match[1]) <= MAX_SIDE:
            tensors[key] = torch.zeros(1, 1).expand(int(match[1]), int(match[1]))
            missing.append(name)
    if missing:
        notes.append(f"{len(missing)} layers have no noise image in the file: const noise is none for them, random noise works")


def _fitting(tensors: Mapping[str, Tensor], shapes: dict[str, tuple[int, ...]], name: str, part: str) -> dict[str, Tensor]:
    """The tensors that the config implies, checked; what is left over would change the images in an unknown way."""
    left = [key for key in tensors if key not in shapes]
    if left:
        shown = ", ".join(clean(key, 60) for key in left[:5])
        raise CheckpointError(
            f"{name}: {len(left)} tensors of the {part} have no place in its structure: {shown}. It is damaged, or a variant "
            "of StyleGAN2 that this version does not know."
        )
    check_tensors(tensors, shapes, name, part)
    return {f"{part}.{key}": tensors[key] for key in shapes}
