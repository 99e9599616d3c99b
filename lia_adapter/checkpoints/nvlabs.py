"""NVlabs' PyTorch checkpoints: StyleGAN2 from stylegan2-ada-pytorch, stylegan3 and their forks.

Such a file is one pickle: `{"G": ..., "D": ..., "G_ema": ..., "augment_pipe": ..., "training_set_kwargs": ...}`.
Each network is a call of `torch_utils.persistence._reconstruct_persistent_obj` whose argument holds the network's
source code (which the ordinary loader executes, and nobody here reads) and its state, an `nn.Module`'s `__dict__`.

All values come from that state. The arguments that the network was once made with are in the file as well, but what
they leave out has other defaults in each repository (conv_clamp, the number of half-precision blocks).

The config that comes out, with a 32x32 example's values::

    generator: z_dim 512, c_dim 0, y_dim 512, num_ws 8, resolution [32, 32], channels 3,
        mapping: z_dim, c_dim, embed_features None, features [512, ...] (the width of each layer), activation "lrelu",
            lr_multiplier 0.01, has_average True
        blocks, from coarse to fine: name "b4", architecture "skip", in_channels 0, out_channels 32, size [4, 4],
            is_last False, conv0 None or like conv1: (kernel 3, activation "lrelu", clamp None, noise True),
            torgb: None or (kernel 1, clamp None), filter [4, 4]
    discriminator: None or c_dim 0, channels 3, resolution [32, 32], mapping None or as above,
        blocks, from fine to coarse: name "b32", architecture "resnet", in_channels 0, mid_channels 32, out_channels 32,
            activation "lrelu", clamp None, fromrgb True, filter [4, 4]
        epilogue: name "b4", architecture "resnet", in_channels 32, size [4, 4], activation "lrelu", clamp None,
            mbstd_group 4 (None: the whole batch), mbstd_channels 1 (0: none), cmap_dim 0, filter [4, 4]
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from torch import Tensor

from lia_adapter.checkpoints.base import Checkpoint
from lia_adapter.checkpoints.decoder import Call, Symbol, clean
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.layout import check_tensors, discriminator_shapes, generator_shapes
from lia_adapter.checkpoints.values import as_mapping, as_number, as_tensor
from lia_adapter.errors import CheckpointError

__all__ = ["NAME", "matches", "read"]

NAME: Final = "stylegan2"

_KNOWN_KEYS: Final = {"G", "D", "G_ema", "augment_pipe", "training_set_kwargs", "progress"}
# Modules in modules: a StyleGAN2 has generator, synthesis, block, layer, affine.
_MAX_MODULES: Final = 8
# Tensors may share their storage, but StyleGAN2's do not: whoever copies them should not need much more than the file.
_MAX_SHARED: Final = 2
_MAX_SIDE: Final = 2**16
_ARCHITECTURES: Final = ("orig", "skip", "resnet")


def matches(document: Document) -> bool:
    """Whether the tree is a network of NVlabs' kind, or a dict with one under G_ema or G.

    Args:
        document: The decoded file.
    """
    return _choose(document)[0] is not None


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
    generator, notes = _choose(document)
    if generator is None:
        raise CheckpointError(f"{document.name} has no generator in it. A dict with G_ema was expected.")
    _refuse_unknown(generator)
    config = _generator(generator)
    tensors = _collect(generator, generator_shapes(config), "generator", notes)
    config_d = None
    mapping = as_mapping(document.tree) or {}
    discriminator = _module(document, mapping.get("D"), "D")
    if discriminator is None:
        notes.append("the file has no discriminator")
    elif discriminator.child("b4") is None or not discriminator.children("conv0"):
        notes.append(f"the discriminator is a {clean(discriminator.kind)}, not StyleGAN2's, and was ignored")
    else:
        config_d = _discriminator(discriminator, config)
        tensors |= _collect(discriminator, discriminator_shapes(config_d), "discriminator", notes)
    if mapping.get("augment_pipe") is not None:
        notes.append("augment_pipe was ignored")
    others = sorted(clean(key, 40) for key in mapping if key not in _KNOWN_KEYS)
    if others:
        notes.append(f"{len(others)} other entries were ignored: {', '.join(others[:8])}")
    return Checkpoint(
        family=NAME,
        config={"generator": config, "discriminator": config_d},
        tensors=tensors,
        sha256=sha256,
        symbols=document.names,
        notes=tuple(notes) + document.notes,
        source=document.name,
    )


@dataclass(frozen=True)
class _Module:
    """A view of one network or layer in the tree.

    Attributes:
        document: What it is from.
        path: Where it is, such as "G_ema.synthesis.b4", for messages.
        kind: Its class's name.
        state: Its attributes.
    """

    document: Document
    path: str
    kind: str
    state: Mapping[Any, Any]

    def fail(self, why: str) -> NoReturn:
        raise CheckpointError(
            f"{self.document.name}: {clean(self.path)} {why}. It is damaged, or a variant of StyleGAN2 that this "
            "version does not know."
        )

    def child(self, name: str) -> "_Module | None":
        node = (as_mapping(self.state.get("_modules")) or {}).get(name)
        return _module(self.document, node, f"{self.path}.{name}")

    def part(self, name: str) -> "_Module":
        child = self.child(name)
        return child if child is not None else self.fail(f"has no {name}")

    def children(self, having: str = "") -> dict[str, "_Module"]:
        """Its parts by name, in order; only those that have this part themselves, if one is named."""
        names = [name for name in as_mapping(self.state.get("_modules")) or {} if isinstance(name, str)]
        found = {name: child for name in names if (child := self.child(name)) is not None}
        return {name: child for name, child in found.items() if not having or child.child(having) is not None}

    def nodes(self) -> dict[str, Any]:
        """Its own tensors' nodes. Layers frozen in training (freeze-D) keep weights among the buffers."""
        groups = [as_mapping(self.state.get(group)) or {} for group in ("_parameters", "_buffers")]
        return {name: node for group in groups for name, node in group.items() if node is not None}

    def tensor(self, name: str) -> Tensor:
        node = self.nodes().get(name)
        if node is None:
            self.fail(f"has no {name}")
        return as_tensor(node, self.document, f"{self.path}.{name}")

    def shape(self, name: str, axes: int) -> list[int]:
        shape = list(self.tensor(name).shape)
        if len(shape) != axes:
            self.fail(f"has a {name} of shape {shape}, and {axes} axes were expected")
        return shape

    def integer(self, name: str) -> int:
        number = as_number(self.state.get(name))
        if number is None or isinstance(number, bool) or number < 0 or not float(number).is_integer():
            self.fail(f"has no valid {name}")
        return int(number)

    def real(self, name: str) -> float:
        number = as_number(self.state.get(name))
        if number is None or not math.isfinite(number):
            self.fail(f"has no valid {name}")
        return float(number)

    def optional(self, name: str) -> float | None:
        return None if self.state.get(name) is None else self.real(name)

    def text(self, name: str) -> str:
        text = self.state.get(name)
        return text if isinstance(text, str) and len(text) < 32 else self.fail(f"has no valid {name}")

    def architecture(self) -> str:
        architecture = self.text("architecture")
        return architecture if architecture in _ARCHITECTURES else self.fail(f"is {clean(architecture)}")


def _module(document: Document, node: Any, path: str) -> _Module | None:
    """A view of a node, if it is a network of NVlabs' or torch's kind."""
    if not isinstance(node, Call) or not isinstance(node.function, Symbol):
        return None
    kind, state = node.function.name, node.state
    if kind == "_reconstruct_persistent_obj":
        meta = as_mapping(node.args[0]) if node.args else None
        if meta is None or not isinstance(meta.get("class_name"), str):
            return None
        kind, state = meta["class_name"], meta.get("state")
    attributes = as_mapping(state)
    return _Module(document, path, kind, attributes) if attributes is not None else None


def _choose(document: Document) -> tuple[_Module | None, list[str]]:
    """The generator to take, and a note if it is not the averaged one."""
    tree = document.tree
    mapping = as_mapping(tree)
    if mapping is None:
        return _persistent(document, tree, "the network"), ["the file is a bare network"]
    averaged = _persistent(document, mapping.get("G_ema"), "G_ema")
    if averaged is not None:
        return averaged, []
    return _persistent(document, mapping.get("G"), "G"), ["G_ema is absent, G was taken: it was not averaged"]


def _persistent(document: Document, node: Any, path: str) -> _Module | None:
    function = node.function if isinstance(node, Call) else None
    is_persistent = isinstance(function, Symbol) and function.name == "_reconstruct_persistent_obj"
    return _module(document, node, path) if is_persistent else None


def _refuse_unknown(generator: _Module) -> None:
    """Name the relatives that come in the same container."""
    mapping, synthesis = generator.child("mapping"), generator.child("synthesis")
    if generator.child("backbone"):
        what = "an EG3D generator"
    elif generator.kind.startswith("Superres") or (mapping and mapping.child("embed_proj")):
        what = "a StyleGAN-XL generator"
    elif synthesis and synthesis.child("input"):
        what = "a StyleGAN3 generator"
    elif mapping is None or synthesis is None or not synthesis.children("conv1"):
        what = f"a network of class {clean(generator.kind, 40)} (a StyleGAN2 generator's parts are missing)"
    else:
        return
    raise CheckpointError(
        f"{generator.document.name} holds {what}, which this version cannot convert yet. It reads StyleGAN2 generators "
        "from such files: pass one of those."
    )


def _generator(generator: _Module) -> dict[str, Any]:
    synthesis = generator.part("synthesis")
    blocks: list[dict[str, Any]] = []
    named = sorted(synthesis.children("conv1").items(), key=lambda item: _number(item[1], item[0]))
    for name, block in named:
        blocks.append(_generator_block(name, block, blocks[-1]["size"] if blocks else None))
    last = blocks[-1]
    # One y for every convolution, and one for the last ToRGB; the other ToRGBs share with the convolution after them.
    num_ws = sum((block["conv0"] is not None) + 1 for block in blocks) + 1
    if generator.integer("num_ws") != num_ws or not last["is_last"] or last["torgb"] is None:
        generator.fail(f"has num_ws {generator.integer('num_ws')}, and its blocks need {num_ws}")
    if max(last["size"]) > _MAX_SIDE:
        generator.fail(f"makes images of more than {_MAX_SIDE:,} pixels a side")
    mapping = _mapping(generator.part("mapping"))
    config = {
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


def _generator_block(name: str, block: _Module, below: list[int] | None) -> dict[str, Any]:
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
        "torgb": None if torgb is None else {"kernel": torgb.shape("weight", 4)[-1], "clamp": torgb.optional("conv_clamp")},
        "filter": list(block.tensor("resample_filter").shape),
    }


def _layer(layer: _Module, up: int) -> dict[str, Any]:
    if layer.integer("up") != up:
        layer.fail(f"scales by {layer.integer('up')}, and {up} was expected")
    noise = layer.state.get("use_noise") is not False
    if noise and "noise_const" not in layer.nodes():
        layer.fail("has no noise_const")
    return {
        "kernel": layer.shape("weight", 4)[-1],
        "activation": layer.text("activation"),
        "clamp": layer.optional("conv_clamp"),
        "noise": noise,
    }


def _mapping(mapping: _Module) -> dict[str, Any]:
    layers: list[_Module] = []
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
    return {
        "z_dim": mapping.integer("z_dim"),
        "c_dim": mapping.integer("c_dim"),
        "embed_features": None if embed is None else embed.shape("weight", 2)[0],
        "features": [shape[0] for shape in shapes],
        "activation": activations.pop(),
        "lr_multiplier": rates.pop(),
        "has_average": "w_avg" in mapping.nodes(),
    }


def _discriminator(discriminator: _Module, generator: Mapping[str, Any]) -> dict[str, Any]:
    last = discriminator.part("b4")
    conv, channels = last.part("conv"), last.integer("in_channels")
    # The generator's coarsest block tells the shape, the discriminator only the number of pixels.
    size = generator["blocks"][0]["size"]
    if last.part("fc").shape("weight", 2)[1] != channels * size[0] * size[1]:
        last.fail(f"does not fit the generator, whose coarsest block is {size[0]}x{size[1]}")
    mbstd, mapping = last.child("mbstd"), discriminator.child("mapping")
    named = sorted(discriminator.children("conv0").items(), key=lambda item: -_number(item[1], item[0]))
    blocks = [_discriminator_block(name, block) for name, block in named]
    if (mapping is None) != (last.integer("cmap_dim") == 0):
        discriminator.fail("takes labels in an unknown way")
    resolution = [side << len(blocks) for side in size]
    if resolution != generator["resolution"]:
        discriminator.fail(f"is for images of {resolution[0]}x{resolution[1]}, which its generator does not make")
    return {
        "c_dim": discriminator.integer("c_dim"),
        "channels": discriminator.integer("img_channels"),
        "resolution": resolution,
        "mapping": None if mapping is None else _mapping(mapping),
        "blocks": blocks,
        "epilogue": {
            "name": "b4",
            "architecture": last.architecture(),
            "in_channels": channels,
            "size": list(size),
            "activation": conv.text("activation"),
            "clamp": conv.optional("conv_clamp"),
            "mbstd_group": None if mbstd is None or mbstd.state.get("group_size") is None else mbstd.integer("group_size"),
            "mbstd_channels": 0 if mbstd is None else mbstd.integer("num_channels"),
            "cmap_dim": last.integer("cmap_dim"),
            "filter": list(conv.tensor("resample_filter").shape),
        },
    }


def _discriminator_block(name: str, block: _Module) -> dict[str, Any]:
    conv0, conv1 = block.part("conv0"), block.part("conv1")
    if conv1.integer("down") != 2 or conv0.integer("down") != 1 or conv0.optional("conv_clamp") != conv1.optional("conv_clamp"):
        block.fail("has layers that differ from StyleGAN2's")
    return {
        "name": name,
        "architecture": block.architecture(),
        "in_channels": block.integer("in_channels"),
        "mid_channels": conv0.shape("weight", 4)[0],
        "out_channels": conv1.shape("weight", 4)[0],
        "activation": conv0.text("activation"),
        "clamp": conv0.optional("conv_clamp"),
        "fromrgb": block.child("fromrgb") is not None,
        "filter": list(block.tensor("resample_filter").shape),
    }


def _number(block: _Module, name: str) -> int:
    """The resolution in a block's name, which orders the blocks."""
    number = re.fullmatch(r"b([0-9]{1,5})", name)
    return int(number[1]) if number else block.fail("is a block with an unknown name")


def _lr_multiplier(layer: _Module, fan_in: int) -> float:
    """The factor on the learning rate, which the equalised weights carry in their gain (Karras 2018, section 4.1)."""
    gain = layer.real("weight_gain") * math.sqrt(fan_in)
    # Six digits: the gain was computed in floating point, sometimes in single precision.
    return float(f"{gain:.6g}")


def _collect(module: _Module, shapes: dict[str, tuple[int, ...]], part: str, notes: list[str]) -> dict[str, Tensor]:
    """The tensors that the config implies, checked, with the part's name in front."""
    tensors: dict[str, Tensor] = {}
    extra: list[str] = []
    for name, owner, node in _walk(module):
        if name in shapes:
            tensors[name] = as_tensor(node, module.document, f"{part}.{name}")
            if name.endswith(".weight") and not re.match(r"mapping\.fc", name):
                _check_gain(owner, tensors[name])
        else:
            extra.append(name)
    check_tensors(tensors, shapes, module.document.name, part)
    if sum(tensor.numel() for tensor in tensors.values()) > _MAX_SHARED * _distinct(tensors):
        module.fail("has tensors that share their numbers")
    if extra:
        shown = ", ".join(clean(name, 60) for name in extra[:5])
        notes.append(f"{len(extra)} tensors of the {part} that no StyleGAN2 has were ignored: {shown}")
    return {f"{part}.{name}": tensors[name] for name in shapes}


def _walk(module: _Module) -> Iterator[tuple[str, _Module, Any]]:
    """Name, owner and node of every tensor below a module."""
    waiting = [("", module, 0)]
    seen: set[int] = set()
    while waiting:
        prefix, owner, depth = waiting.pop()
        # Modules that contain or share each other would go on for ever.
        if depth > _MAX_MODULES or id(owner.state) in seen:
            owner.fail("occurs twice or too deep")
        seen.add(id(owner.state))
        for name, node in owner.nodes().items():
            yield f"{prefix}{name}", owner, node
        waiting += [(f"{prefix}{name}.", child, depth + 1) for name, child in owner.children().items()]


def _check_gain(layer: _Module, weight: Tensor) -> None:
    """The layout has no place for gains other than equalised learning rate's, 1 / sqrt(fan_in)."""
    if layer.state.get("weight_gain") is not None:
        gain = layer.real("weight_gain") * math.sqrt(math.prod(weight.shape[1:]))
        if not math.isclose(gain, 1, rel_tol=1e-3):
            layer.fail(f"multiplies its weights by {gain:.4g} times the usual gain")


def _distinct(tensors: Mapping[str, Tensor]) -> int:
    """How many numbers lie in the storages of these tensors."""
    storages = {tensor.untyped_storage().data_ptr(): tensor for tensor in tensors.values()}
    return sum(tensor.untyped_storage().nbytes() // tensor.itemsize for tensor in storages.values())
