"""StyleGAN3 and StyleGAN-XL in NVlabs' PyTorch checkpoints; the container is that of `nvlabs`.

Sizes, factors and paddings are read from each layer's state, not from the arguments that the network was once made with: a
StyleGAN-XL is cut off and continued after its first training, and only its layers know how.
"""

from dataclasses import replace
from typing import Final

from torch import Tensor

from lia_adapter.canonical import Generator3Config, Layer3Config, MappingConfig
from lia_adapter.checkpoints.base import Checkpoint
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.modules import Module, collect
from lia_adapter.checkpoints.nvlabs import assemble, is_stylegan3, read_mapping
from lia_adapter.checkpoints.persistent import choose
from lia_adapter.checkpoints.stylegan3 import check_layers, stylegan3_shapes
from lia_adapter.checkpoints.values import as_mapping
from lia_adapter.errors import CheckpointError

__all__ = ["NAME", "matches", "read"]

NAME: Final = "stylegan3"


def matches(document: Document) -> bool:
    """Whether the tree is a StyleGAN3 or StyleGAN-XL of NVlabs' kind, or a dict with one under G_ema or G.

    Args:
        document: The decoded file.
    """
    choice = choose(document)
    return choice is not None and is_stylegan3(choice.generator)


def read(document: Document, sha256: str) -> Checkpoint:
    """Take the averaged generator and the discriminator out of the tree.

    Args:
        document: The decoded file, for which `matches` is true.
        sha256: Of the file.

    Returns:
        The checkpoint, with tensors that lie in the file's memory.

    Raises:
        CheckpointError: Something in the generator is missing, or does not fit.
    """
    choice = choose(document)
    if choice is None:
        raise CheckpointError(f"{document.name} has no generator in it. A dict with G_ema was expected.")
    generator, notes = choice.generator, list(choice.notes)
    config = _generator(generator)
    check_layers(config, document.name)
    tensors = _tensors(generator, config, notes)
    return assemble(document, sha256, NAME, choice, config, tensors, notes, coarsest=[4, 4])


def _generator(generator: Module) -> Generator3Config:
    synthesis, mapping = generator.part("synthesis"), _mapping(generator.part("mapping"))
    waves = synthesis.part("input")
    layers = [_layer(layer) for layer in _layers(synthesis)]
    config: Generator3Config = {
        "z_dim": generator.integer("z_dim"),
        "c_dim": generator.integer("c_dim"),
        "y_dim": generator.integer("w_dim"),
        # One y for the waves, and one for every layer.
        "num_ws": len(layers) + 1,
        "resolution": layers[-1]["size"],
        "channels": layers[-1]["out_channels"],
        "output_scale": synthesis.real("output_scale"),
        "mapping": mapping,
        "input": {
            "channels": waves.shape("freqs", 2)[0],
            "size": waves.integers("size", 2)[::-1],
            "sampling_rate": waves.real("sampling_rate"),
            "bandwidth": waves.real("bandwidth"),
        },
        "layers": layers,
    }
    if generator.integer("num_ws") != config["num_ws"]:
        generator.fail(f"has num_ws {generator.integer('num_ws')}, and its layers need {config['num_ws']}")
    if (mapping["z_dim"], mapping["c_dim"], mapping["features"][-1]) != (config["z_dim"], config["c_dim"], config["y_dim"]):
        generator.fail("has a mapping of other sizes than its own")
    return config


def _layers(synthesis: Module) -> list[Module]:
    """The layers in the order in which they run."""
    found = {name: layer for name, layer in synthesis.children("affine").items() if name != "input"}
    names = synthesis.state.get("layer_names")
    if not isinstance(names, list) or not found or sorted(found) != sorted(name for name in names if isinstance(name, str)):
        synthesis.fail("does not name its layers")
    return [found[name] for name in names]


def _layer(layer: Module) -> Layer3Config:
    outputs, inputs, kernel, _ = layer.shape("weight", 4)
    nodes = layer.nodes()
    return {
        "name": layer.path.rpartition(".")[2],
        "in_channels": inputs,
        "out_channels": outputs,
        # The file says width before height.
        "in_size": layer.integers("in_size", 2)[::-1],
        "size": layer.integers("out_size", 2)[::-1],
        "kernel": kernel,
        "up": layer.integer("up_factor"),
        "down": layer.integer("down_factor"),
        "padding": layer.integers("padding", 4),
        "up_filter": list(layer.tensor("up_filter").shape) if "up_filter" in nodes else None,
        "down_filter": list(layer.tensor("down_filter").shape) if "down_filter" in nodes else None,
        "clamp": layer.optional("conv_clamp"),
        "torgb": layer.state.get("is_torgb") is True,
    }


def _mapping(mapping: Module) -> MappingConfig:
    """The config of a mapping, also of StyleGAN-XL's, whose labels choose from a table."""
    projection, embed = mapping.child("embed_proj"), mapping.child("embed")
    if embed is None or embed.kind != "Embedding":
        return read_mapping(mapping)
    # Without its labels it is a StyleGAN3's. An unconditional StyleGAN-XL has the table as well, and no use for it.
    layers = as_mapping(mapping.state.get("_modules")) or {}
    layers = {name: node for name, node in layers.items() if name not in ("embed", "embed_proj")}
    config = read_mapping(replace(mapping, state={**mapping.state, "c_dim": 0, "_modules": layers}))
    if projection is None:
        return config
    projected, features = projection.shape("weight", 2)
    if projection.text("activation") != "lrelu" or not mapping.integer("c_dim"):
        mapping.fail("takes labels in an unknown way")
    return {
        **config, "c_dim": mapping.integer("c_dim"), "label": "table", "table_features": features, "embed_features": projected,
    }  # fmt: skip


def _tensors(generator: Module, config: Generator3Config, notes: list[str]) -> dict[str, Tensor]:
    shapes = stylegan3_shapes(config)
    if shapes.pop("mapping.table", None) is None:
        return collect(generator, shapes, "generator", notes)
    # The table is called embed in the file, where other networks have a dense layer. It may have rows of ImageNet's classes
    # beyond those that the network knows.
    embed = generator.part("mapping").part("embed")
    rows, features = embed.shape("weight", 2)
    c_dim = config["c_dim"]
    if rows < c_dim:
        embed.fail(f"has {rows} classes, and {c_dim} were expected")
    shapes["mapping.embed.weight"] = (rows, features)
    tensors = collect(generator, shapes, "generator", notes)
    tensors["generator.mapping.table"] = tensors.pop("generator.mapping.embed.weight")[:c_dim]
    return tensors
