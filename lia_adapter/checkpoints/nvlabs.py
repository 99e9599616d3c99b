"""NVlabs' PyTorch checkpoints: StyleGAN2 from stylegan2-ada-pytorch, stylegan3 and their forks, and the one inside an EG3D.

Such a file is one pickle: `{"G": ..., "D": ..., "G_ema": ..., "augment_pipe": ..., "training_set_kwargs": ...}`, whose networks
are read by `modules`. StyleGAN3 comes in the same container: see `nvlabs3`.

All values come from that state. The arguments that the network was once made with are in the file as well, but what
they leave out has other defaults in each repository (conv_clamp, the number of half-precision blocks).
"""

import math
import re
from typing import Final

from torch import Tensor

from lia_adapter.canonical import (
    MAX_SIDE,
    Block2Config,
    Discriminator2Config,
    DiscriminatorBlock2Config,
    Generator2Config,
    GeneratorConfig,
    Layer2Config,
    MappingConfig,
    discriminator_block2,
    epilogue2,
    layer2,
    mapping_config,
    torgb2,
)
from lia_adapter.checkpoints.base import Checkpoint
from lia_adapter.checkpoints.decoder import clean
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.layout import discriminator_shapes, generator_shapes
from lia_adapter.checkpoints.modules import Module, collect
from lia_adapter.checkpoints.persistent import Choice, choose
from lia_adapter.checkpoints.values import as_mapping, as_number
from lia_adapter.errors import CheckpointError

__all__ = ["NAME", "assemble", "is_stylegan3", "matches", "read", "read_mapping"]

NAME: Final = "stylegan2"

_KNOWN_KEYS: Final = {"G", "D", "G_ema", "augment_pipe", "training_set_kwargs", "progress"}


def matches(document: Document) -> bool:
    """Whether the tree is a network of NVlabs' kind, or a dict with one under G_ema or G, and not StyleGAN3's.

    Args:
        document: The decoded file.
    """
    choice = choose(document)
    return choice is not None and not is_stylegan3(choice.generator)


def is_stylegan3(generator: Module) -> bool:
    """Whether it starts from waves and has StyleGAN3's layers, as StyleGAN-XL's does (StyleGAN-T has only the waves)."""
    synthesis = generator.child("synthesis")
    if synthesis is None or synthesis.child("input") is None:
        return False
    return any(re.fullmatch(r"L[0-9]+_[0-9]+_[0-9]+", name) for name in synthesis.children("affine"))


def read(document: Document, sha256: str) -> Checkpoint:
    """Take the averaged generator and the discriminator out of the tree.

    Args:
        document: The decoded file, for which `matches` is true.
        sha256: Of the file.

    Returns:
        The checkpoint, with tensors that lie in the file's memory.

    Raises:
        CheckpointError: The generator is no StyleGAN2, or something in it is missing or does not fit.
    """
    choice = choose(document)
    if choice is None:
        raise CheckpointError(f"{document.name} has no generator in it. A dict with G_ema was expected.")
    generator, notes = choice.generator, list(choice.notes)
    backbone = generator.child("backbone")
    if backbone is None:
        _refuse_unknown(generator)
        config = _generator(generator)
        tensors = collect(generator, generator_shapes(config), "generator", notes)
        return assemble(document, sha256, NAME, choice, config, tensors, notes, coarsest=config["blocks"][0]["size"])
    _refuse_unknown(backbone)
    config = _generator(backbone)
    config["makes"] = "planes"
    tensors = collect(backbone, generator_shapes(config), "generator", notes)
    scale = _camera_scale(generator)
    if config["c_dim"]:
        # A label times the scale is embedded as the label is by weights times the scale.
        name = "generator.mapping.embed.weight"
        tensors[name] = tensors[name] * scale
    notes.append(
        f"an EG3D: its mapping (cameras scaled by {scale:g}) and its planes were read; its renderer, decoder and upscaler "
        "were not, and without them there are no images"
    )
    return assemble(document, sha256, NAME, choice, config, tensors, notes, coarsest=None)


def assemble(
    document: Document,
    sha256: str,
    family: str,
    choice: Choice,
    config: GeneratorConfig,
    tensors: dict[str, Tensor],
    notes: list[str],
    *,
    coarsest: list[int] | None,
) -> Checkpoint:
    """The checkpoint of a generator, with the discriminator that is in the same file.

    Args:
        document: The decoded file.
        sha256: Of the file.
        family: "stylegan2" or "stylegan3".
        choice: The generator, and what it lies among.
        config: The generator's.
        tensors: The generator's, named `generator.…`.
        notes: What was ignored or chosen so far.
        coarsest: [H, W] of the discriminator's coarsest block, which it does not tell itself; None: it judges something other
            than what this generator makes, and is ignored.
    """
    config_d = None
    mapping, discriminator = choice.beside, choice.discriminator
    if discriminator is None:
        notes.append("the file has no discriminator")
    elif coarsest is None or discriminator.child("b4") is None or not discriminator.children("conv0"):
        notes.append(f"the discriminator is a {clean(discriminator.kind)}, not StyleGAN2's, and was ignored")
    else:
        config_d = _discriminator(discriminator, coarsest, config["resolution"])
        tensors |= collect(discriminator, discriminator_shapes(config_d), "discriminator", notes)
    if mapping.get("augment_pipe") is not None:
        notes.append("augment_pipe was ignored")
    others = sorted(clean(key, 40) for key in mapping if key not in _KNOWN_KEYS)
    if others:
        notes.append(f"{len(others)} other entries were ignored: {', '.join(others[:8])}")
    return Checkpoint(
        family=family,
        config={"generator": config, "discriminator": config_d},
        tensors=tensors,
        sha256=sha256,
        symbols=document.names,
        notes=tuple(notes) + document.notes,
        source=document.name,
    )


def _camera_scale(generator: Module) -> float:
    """By what EG3D multiplies the camera that conditions its mapping; 0 where the file does not say."""
    options = as_mapping(generator.state.get("rendering_kwargs")) or {}
    if options.get("c_gen_conditioning_zero"):
        return 0.0
    scale = as_number(options.get("c_scale", 0))
    if scale is None or not math.isfinite(scale):
        generator.fail("has no valid c_scale")
    return float(scale)


def _refuse_unknown(generator: Module) -> None:
    """Name the relatives that come in the same container."""
    mapping, synthesis = generator.child("mapping"), generator.child("synthesis")
    if "fastgan" in (synthesis.kind if synthesis else generator.kind).lower():
        what, why = "a FastGAN generator (projected-gan)", "it has no mapping, so there is no y to find"
    elif mapping and (mapping.child("clip") or "x_avg" in mapping.nodes()):
        what, why = (
            "a StyleGAN-T generator",
            "its layers are others; without a text, lia_adapter.wrap takes it in its own program",
        )
    elif synthesis and any(block.child("transformer") for block in synthesis.children().values()):
        what, why = "a GANformer", "it has a code for every part of the image; lia_adapter.wrap takes it in its own program"
    elif mapping is None or synthesis is None or not synthesis.children("conv1"):
        what = f"a network of class {clean(generator.kind, 40)}"
        why = "the parts of a StyleGAN2 or StyleGAN3 generator are missing in it"
    else:
        return
    raise CheckpointError(
        f"{generator.document.name} holds {what}, which cannot be converted: {why}. StyleGAN2, StyleGAN3, StyleGAN-XL and EG3D "
        "are read from such files: pass one of those."
    )


def _generator(generator: Module) -> Generator2Config:
    synthesis = generator.part("synthesis")
    blocks: list[Block2Config] = []
    named = sorted(synthesis.children("conv1").items(), key=lambda item: _number(item[1], item[0]))
    for name, block in named:
        blocks.append(_generator_block(name, block, blocks[-1]["size"] if blocks else None))
    last = blocks[-1]
    # One y for every convolution, and one for the last ToRGB; the other ToRGBs share with the convolution after them.
    num_ws = sum((block["conv0"] is not None) + 1 for block in blocks) + 1
    if generator.integer("num_ws") != num_ws or not last["is_last"] or last["torgb"] is None:
        generator.fail(f"has num_ws {generator.integer('num_ws')}, and its blocks need {num_ws}")
    if max(last["size"]) > MAX_SIDE:
        generator.fail(f"makes images of more than {MAX_SIDE:,} pixels a side")
    mapping = read_mapping(generator.part("mapping"))
    config: Generator2Config = {
        "z_dim": generator.integer("z_dim"),
        "c_dim": generator.integer("c_dim"),
        "y_dim": generator.integer("w_dim"),
        "num_ws": num_ws,
        "resolution": list(last["size"]),
        "channels": generator.integer("img_channels"),
        "mapping": mapping,
        "blocks": blocks,
    }
    if (mapping["z_dim"], mapping["c_dim"], mapping["features"][-1]) != (
        config["z_dim"],
        config["c_dim"],
        config["y_dim"],
    ):
        generator.fail("has a mapping of other sizes than its own")
    return config


def _generator_block(name: str, block: Module, below: list[int] | None) -> Block2Config:
    conv0, torgb = block.child("conv0"), block.child("torgb")
    # The name is not the size: networks that make oblong images keep the names b4, b8, ...
    size = block.shape("const", 3)[1:] if below is None else [2 * side for side in below]
    return {
        "name": name,
        "architecture": block.architecture(),
        "in_channels": block.integer("in_channels"),
        "out_channels": block.part("conv1").shape("weight", 4)[0],
        "size": size,
        "is_last": block.state.get("is_last") is True,
        "conv0": None if conv0 is None else _layer(conv0, up=2),
        "conv1": _layer(block.part("conv1"), up=1),
        "torgb": None if torgb is None else torgb2(torgb.shape("weight", 4)[-1], clamp=torgb.optional("conv_clamp")),
        "filter": list(block.tensor("resample_filter").shape),
    }


def _layer(layer: Module, up: int) -> Layer2Config:
    if layer.integer("up") != up:
        layer.fail(f"scales by {layer.integer('up')}, and {up} was expected")
    noise = layer.state.get("use_noise") is not False
    if noise and "noise_const" not in layer.nodes():
        layer.fail("has no noise_const")
    kernel, clamp = layer.shape("weight", 4)[-1], layer.optional("conv_clamp")
    return layer2(kernel, noise=noise, activation=layer.text("activation"), clamp=clamp)


def read_mapping(mapping: Module) -> MappingConfig:
    """The config of a mapping whose labels, if any, are embedded by a dense layer."""
    layers: list[Module] = []
    while (layer := mapping.child(f"fc{len(layers)}")) is not None:
        layers.append(layer)
    if not layers:
        mapping.fail("has no layers fc0, fc1, ...")
    shapes = [layer.shape("weight", 2) for layer in layers]
    rates = {_lr_multiplier(layer, shape[1]) for layer, shape in zip(layers, shapes, strict=True)}
    activations = {layer.text("activation") for layer in layers}
    if len(rates) != 1 or len(activations) != 1:
        mapping.fail("has layers of different kinds")
    embed = mapping.child("embed")
    if (embed is None) != (mapping.integer("c_dim") == 0):
        mapping.fail("takes labels in an unknown way")
    return mapping_config(
        z_dim=mapping.integer("z_dim"),
        c_dim=mapping.integer("c_dim"),
        embed_features=None if embed is None else embed.shape("weight", 2)[0],
        features=[shape[0] for shape in shapes],
        activation=activations.pop(),
        lr_multiplier=rates.pop(),
        has_average="w_avg" in mapping.nodes(),
    )


def _discriminator(discriminator: Module, size: list[int], expected: list[int]) -> Discriminator2Config:
    last = discriminator.part("b4")
    conv, channels = last.part("conv"), last.integer("in_channels")
    # The generator tells the shape of the coarsest block, the discriminator only its number of pixels.
    if last.part("fc").shape("weight", 2)[1] != channels * size[0] * size[1]:
        last.fail(f"does not fit its generator: a coarsest block of {size[0]}x{size[1]} was expected")
    mbstd, mapping = last.child("mbstd"), discriminator.child("mapping")
    named = sorted(discriminator.children("conv0").items(), key=lambda item: -_number(item[1], item[0]))
    blocks = [_discriminator_block(name, block) for name, block in named]
    if (mapping is None) != (last.integer("cmap_dim") == 0):
        discriminator.fail("takes labels in an unknown way")
    resolution = [side << len(blocks) for side in size]
    if resolution != expected:
        discriminator.fail(f"is for images of {resolution[0]}x{resolution[1]}, which its generator does not make")
    return {
        "c_dim": discriminator.integer("c_dim"),
        "channels": discriminator.integer("img_channels"),
        "resolution": resolution,
        "mapping": None if mapping is None else read_mapping(mapping),
        "blocks": blocks,
        "epilogue": epilogue2(
            "b4",
            architecture=last.architecture(),
            in_channels=channels,
            size=list(size),
            activation=conv.text("activation"),
            clamp=conv.optional("conv_clamp"),
            mbstd_group=None if mbstd is None or mbstd.state.get("group_size") is None else mbstd.integer("group_size"),
            mbstd_channels=0 if mbstd is None else mbstd.integer("num_channels"),
            cmap_dim=last.integer("cmap_dim"),
            filter_=list(conv.tensor("resample_filter").shape),
        ),
    }


def _discriminator_block(name: str, block: Module) -> DiscriminatorBlock2Config:
    conv0, conv1 = block.part("conv0"), block.part("conv1")
    if conv1.integer("down") != 2 or conv0.integer("down") != 1 or conv0.optional("conv_clamp") != conv1.optional("conv_clamp"):
        block.fail("has layers that differ from StyleGAN2's")
    return discriminator_block2(
        name,
        architecture=block.architecture(),
        in_channels=block.integer("in_channels"),
        mid_channels=conv0.shape("weight", 4)[0],
        out_channels=conv1.shape("weight", 4)[0],
        activation=conv0.text("activation"),
        clamp=conv0.optional("conv_clamp"),
        fromrgb=block.child("fromrgb") is not None,
        filter_=list(block.tensor("resample_filter").shape),
    )


def _number(block: Module, name: str) -> int:
    """The resolution in a block's name, which orders the blocks."""
    number = re.fullmatch(r"b([0-9]{1,5})", name)
    return int(number[1]) if number else block.fail("is a block with an unknown name")


def _lr_multiplier(layer: Module, fan_in: int) -> float:
    """The factor on the learning rate, which the equalised weights carry in their gain (Karras 2018, section 4.1)."""
    gain = layer.real("weight_gain") * math.sqrt(fan_in)
    # Six digits: the gain was computed in floating point, sometimes in single precision.
    return float(f"{gain:.6g}")
