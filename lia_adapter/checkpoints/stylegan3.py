"""StyleGAN3's canonical form, and the bare weights of NVlabs' StyleGAN3 (a state dict in a .pt or .safetensors file).

The names of tensors are those of NVlabs' PyTorch code. The discriminator is StyleGAN2's.

Bare weights say nothing of paddings, rates and factors. They follow from the names of the layers, the filters' lengths and the
rule by which the paper places cutoffs and stopbands (Karras 2021, sec. 3.2, app. C); weights that contradict it are refused.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, NoReturn

import torch
from torch import Tensor

from lia_adapter.canonical import HALF_CLAMP, LR_MULTIPLIER, MAX_SIDE, Discriminator2Config, Generator3Config, Layer3Config
from lia_adapter.checkpoints.base import Checkpoint
from lia_adapter.checkpoints.decoder import clean
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.layout import check_tensors, discriminator_shapes, mapping_shapes
from lia_adapter.checkpoints.networks import choose, discriminator_of, networks
from lia_adapter.checkpoints.stylegan2 import infer_discriminator, infer_mapping
from lia_adapter.checkpoints.tables import Table
from lia_adapter.errors import CheckpointError

__all__ = ["NAME", "assemble", "check_layers", "matches", "read", "stylegan3_shapes"]

NAME: Final = "stylegan3"

_LAYER: Final = re.compile(r"synthesis\.(L([0-9]{1,3})_([0-9]{1,5})_([0-9]{1,5}))\.weight")
_MOVE: Final = "synthesis.input.transform"

# All published StyleGAN3s share these (Karras 2021, sec. 3.2).
_FIRST_CUTOFF: Final = 2.0
_FIRST_STOPBAND: Final = 2**2.1
_LAST_STOPBAND_REL: Final = 2**0.3
_CRITICAL: Final = 2
_TAPS: Final = 6
_OUTPUT_SCALE: Final = 0.25


def stylegan3_shapes(config: Generator3Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a generator's tensors."""
    y_dim, mapping = config["y_dim"], config["mapping"]
    shapes = {} if "coupling" in mapping else mapping_shapes(mapping)  # a file of StyleGAN3 has no couplings
    waves = config["input"]["channels"]
    shapes |= {
        "synthesis.input.weight": (waves, waves),
        "synthesis.input.affine.weight": (4, y_dim),
        "synthesis.input.affine.bias": (4,),
        "synthesis.input.freqs": (waves, 2),
        "synthesis.input.phases": (waves,),
        "synthesis.input.transform": (3, 3),
    }
    for layer in config["layers"]:
        name, inputs, kernel = f"synthesis.{layer['name']}.", layer["in_channels"], layer["kernel"]
        shapes |= {
            f"{name}weight": (layer["out_channels"], inputs, kernel, kernel),
            f"{name}bias": (layer["out_channels"],),
            f"{name}magnitude_ema": (),
            f"{name}affine.weight": (inputs, y_dim),
            f"{name}affine.bias": (inputs,),
        }
        for filter_, shape in (("up_filter", layer["up_filter"]), ("down_filter", layer["down_filter"])):
            if shape is not None:
                shapes[f"{name}{filter_}"] = tuple(shape)
    return shapes


def check_layers(config: Generator3Config, name: str) -> None:
    """Refuse layers that do not fit each other, and images larger than any.

    Args:
        config: The generator's.
        name: The file's name, for messages.

    Raises:
        CheckpointError: A layer takes another size, or other channels, than the one before makes.
    """
    channels, size = config["input"]["channels"], config["input"]["size"]
    if not all(0 < side <= MAX_SIDE for side in size):
        _fail(name, f"its input has {size[0]}x{size[1]} pixels")
    if config["input"]["sampling_rate"] <= 2 * config["input"]["bandwidth"]:
        _fail(name, "its input's bandwidth is more than half its sampling rate")
    for layer in config["layers"]:
        called = f"layer {clean(layer['name'], 40)}"
        filters = [layer["up_filter"], layer["down_filter"]]
        if any(shape is not None and (len(shape) not in (1, 2) or 0 in shape) for shape in filters):
            _fail(name, f"{called} has filters of the shapes {filters}")
        if layer["in_channels"] != channels or layer["in_size"] != size:
            _fail(name, f"{called} takes {layer['in_channels']} channels of {layer['in_size']}, and gets {channels} of {size}")
        if not 0 < layer["up"] <= MAX_SIDE or not 0 < layer["down"] <= MAX_SIDE:
            _fail(name, f"{called} resamples by {layer['up']} and {layer['down']}")
        left, right, top, bottom = layer["padding"]
        made = [
            (side + layer["kernel"] - 1) * layer["up"]
            + pad
            - _reach(layer["up_filter"], axis)
            - _reach(layer["down_filter"], axis)
            for axis, (side, pad) in enumerate(zip(size, (top + bottom, left + right), strict=True))
        ]
        made = [(side - 1) // layer["down"] + 1 for side in made]
        channels, size = layer["out_channels"], layer["size"]
        if made != size or not all(0 < side <= MAX_SIDE for side in size):
            _fail(name, f"{called} makes {made[0]}x{made[1]} pixels, and {size[0]}x{size[1]} were expected")
    if config["channels"] != channels or config["resolution"] != size:
        _fail(name, f"its last layer makes {channels} channels of {size}, not its own resolution")


def matches(document: Document) -> bool:
    """Whether there is a table with a StyleGAN3 generator's names.

    Args:
        document: The decoded file.
    """
    return bool(_generators(document))


def read(document: Document, sha256: str) -> Checkpoint:
    """Take the weights, and derive the sizes of the layers from their names.

    Args:
        document: The decoded file, for which `matches` is true.
        sha256: Of the file.

    Raises:
        CheckpointError: The layers are not those of a published StyleGAN3, or a tensor is missing or does not fit.
    """
    weights, notes = choose(_generators(document))
    if weights is None:
        raise CheckpointError(f"{document.name} has no StyleGAN3 generator in it.")
    if weights.place.endswith("decoder"):
        # stylegan3-editing's encoders: the picture's own move is left behind by the last one that they aligned.
        weights = replace(weights, nodes={name: node for name, node in weights.nodes.items() if name != _MOVE})
        notes.append("the generator of an encoder's file was taken; the encoder and the stored move of the picture were not")
    tensors = weights.tensors(notes)
    discriminator = discriminator_of(weights, networks(document, "b4.fc.weight", "b4.out.weight"))
    return assemble(document, sha256, tensors, None if discriminator is None else discriminator.tensors(notes), notes)


def assemble(
    document: Document,
    sha256: str,
    generator: dict[str, Tensor],
    discriminator: dict[str, Tensor] | None,
    notes: list[str],
) -> Checkpoint:
    """A checkpoint from weights in canonical names.

    Args:
        document: What they are from.
        sha256: Of the file.
        generator: The generator's, without a prefix.
        discriminator: The discriminator's.
        notes: What was ignored or chosen so far.

    Raises:
        CheckpointError: The layers are not those of a published StyleGAN3, or a tensor is missing or does not fit.
    """
    notes = [
        *notes,
        f"bare weights: leaky ReLU, a clamp of {HALF_CLAMP:g}, an output scale of {_OUTPUT_SCALE:g} and a learning rate "
        f"multiplier of {LR_MULTIPLIER:g} in the mapping were assumed",
    ]
    config = _infer(generator, document.name)
    chosen = _fitting(generator, stylegan3_shapes(config), document.name, "generator")
    config_d: Discriminator2Config | None = None
    if discriminator is None:
        notes.append("the file has no discriminator")
    else:
        config_d = infer_discriminator(discriminator, document.name, coarsest=[4, 4])
        chosen |= _fitting(discriminator, discriminator_shapes(config_d), document.name, "discriminator")
    return Checkpoint(
        family=NAME, config={"generator": config, "discriminator": config_d}, tensors=chosen, sha256=sha256,
        symbols=document.names, notes=tuple(notes) + document.notes, source=document.name,
    )  # fmt: skip


def _generators(document: Document) -> list[Table]:
    return networks(document, "mapping.fc0.weight", "synthesis.input.freqs")


def _fitting(tensors: Mapping[str, Tensor], shapes: dict[str, tuple[int, ...]], name: str, part: str) -> dict[str, Tensor]:
    """The tensors that the config implies, checked, with the part's name in front."""
    unknown = [key for key in tensors if key not in shapes]
    if unknown:
        _fail(name, f"{len(unknown)} tensors of the {part} are not known: {', '.join(clean(key, 60) for key in unknown[:5])}")
    check_tensors(tensors, shapes, name, part)
    return {f"{part}.{key}": tensors[key] for key in shapes}


def _infer(tensors: dict[str, Tensor], name: str) -> Generator3Config:
    """The config of bare weights; the picture's move is added where it is not stored."""
    if "mapping.embed_proj.weight" in tensors:
        _fail(name, "it is a StyleGAN-XL, whose weights do not tell the sizes of its layers. Pass its .pkl", advice=False)
    tensors.setdefault("synthesis.input.transform", torch.eye(3))
    mapping = infer_mapping(tensors, name)
    named = sorted((match for key in tensors if (match := _LAYER.fullmatch(key))), key=lambda match: int(match[2]))
    if [int(match[2]) for match in named] != list(range(len(named))) or len(named) <= _CRITICAL:
        _fail(name, f"it has the layers {', '.join(match[1] for match in named[:20])}, and L0, L1, ... were expected")
    sizes = [int(match[3]) for match in named]
    margin, rates = _margin_and_rates(sizes, name)
    layers: list[Layer3Config] = []
    for index, match in enumerate(named):
        called, last = f"synthesis.{match[1]}", index == len(named) - 1
        weight = tensors[f"{called}.weight"]
        if weight.ndim != 4 or weight.shape[0] != int(match[4]) or weight.shape[2] != weight.shape[3]:
            _fail(name, f"{called}.weight has shape {list(weight.shape)}, which does not fit its name")
        before = max(index - 1, 0)
        rate = max(rates[before], rates[index]) * (1 if last else 2)
        up, down = rate // rates[before], rate // rates[index]
        up_filter = _filter(tensors, f"{called}.up_filter", 1 if last else up, name)
        down_filter = _filter(tensors, f"{called}.down_filter", 1 if last else down, name)
        # What is missing to the size is padded, half on each side (Karras 2021, app. C).
        total = (sizes[index] - 1) * down + 1 - (sizes[before] + weight.shape[2] - 1) * up
        total += _reach(up_filter) + _reach(down_filter)
        low = (total + up) // 2
        layers.append({
            "name": match[1], "in_channels": weight.shape[1], "out_channels": weight.shape[0],
            "in_size": [sizes[before]] * 2, "size": [sizes[index]] * 2, "kernel": weight.shape[2], "up": up, "down": down,
            "padding": [low, total - low] * 2, "up_filter": up_filter, "down_filter": down_filter, "clamp": HALF_CLAMP,
            "torgb": last,
        })  # fmt: skip
    config: Generator3Config = {
        "z_dim": mapping["z_dim"],
        "c_dim": mapping["c_dim"],
        "y_dim": mapping["features"][-1],
        "num_ws": len(layers) + 1,
        "resolution": [sizes[-1]] * 2,
        "channels": layers[-1]["out_channels"],
        "output_scale": _OUTPUT_SCALE,
        "mapping": mapping,
        "input": {
            "channels": layers[0]["in_channels"],
            "size": [sizes[0]] * 2,
            "sampling_rate": float(rates[0]),
            "bandwidth": _FIRST_CUTOFF,
        },
        "layers": layers,
    }
    check_layers(config, name)
    return config


def _margin_and_rates(sizes: list[int], name: str) -> tuple[int, list[int]]:
    """Pixels around the picture, and the sampling rate of each layer.

    Stopbands grow geometrically, and a rate is the power of two that holds the stopband (Karras 2021, sec. 3.2).
    """
    resolution, last = sizes[-1], len(sizes) - 1
    if not 0 < resolution <= MAX_SIDE:
        _fail(name, f"its images have {resolution:,} pixels a side")
    rates = []
    for index in range(len(sizes)):
        progress = min(index / (last - _CRITICAL), 1)
        stopband = _FIRST_STOPBAND * (resolution / 2 * _LAST_STOPBAND_REL / _FIRST_STOPBAND) ** progress
        rates.append(2 ** math.ceil(math.log2(min(stopband * 2, resolution))))
    margin = (sizes[0] - rates[0]) // 2
    expected = [rate + 2 * margin for rate in rates[:-_CRITICAL]] + [resolution] * _CRITICAL
    if sizes != expected or margin < 0:
        _fail(
            name,
            f"its layers have the sizes {sizes}, and a StyleGAN3 of {resolution} pixels has {expected}; bare weights do not "
            "tell more. Pass the .pkl that they are from",
            advice=False,
        )
    return margin, rates


def _filter(tensors: Mapping[str, Tensor], key: str, factor: int, name: str) -> list[int] | None:
    """Shape of a layer's filter, which has six taps for each step of its factor (and is none where nothing is resampled)."""
    shape = list(tensors[key].shape) if key in tensors else None
    taps = _TAPS * factor
    if shape not in ([None] if factor == 1 else [[taps], [taps, taps]]):
        _fail(name, f"{clean(key)} has shape {shape}, and {taps if factor > 1 else 'no'} taps were expected")
    return shape


def _reach(filter_: list[int] | None, axis: int = 0) -> int:
    """By how much a filter of this shape shrinks a picture."""
    return 0 if filter_ is None else filter_[axis if len(filter_) > 1 else 0] - 1


def _fail(name: str, why: str, *, advice: bool = True) -> NoReturn:
    more = ". It is damaged, or a variant of StyleGAN3 that this version does not know" if advice else ""
    raise CheckpointError(f"{name}: {why}{more}.")
