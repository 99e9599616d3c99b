"""What a StyleGAN2 config implies: every tensor's name and shape.

The names are those of NVlabs' PyTorch code; every family that holds a StyleGAN2 is brought into this one layout. The modules
that take the tensors, in `lia_adapter.generators`, check them once more, by themselves; these tables come before: they name
what is to be read of a file before a number of it is decoded, and they need neither memory nor time, whatever a hostile file
says its sizes are.
"""

from collections.abc import Mapping

from torch import Tensor

from lia_adapter.canonical import Discriminator2Config, Generator2Config, MappingConfig, whole_epilogue, whole_mapping
from lia_adapter.checkpoints.decoder import clean
from lia_adapter.errors import CheckpointError

__all__ = ["check_tensors", "discriminator_shapes", "generator_shapes", "mapping_shapes"]

_Shapes = dict[str, tuple[int, ...]]


def generator_shapes(config: Generator2Config) -> _Shapes:
    """Names and shapes of the generator's tensors."""
    y_dim = config["y_dim"]
    mapping = config["mapping"]
    shapes = {} if "coupling" in mapping else mapping_shapes(mapping)  # a file of StyleGAN2 has no couplings
    for block in config["blocks"]:
        name = f"synthesis.{block['name']}."
        filter_, wide, narrow = tuple(block["filter"]), block["out_channels"], block["in_channels"]
        shapes[f"{name}resample_filter"] = filter_
        if narrow == 0:
            shapes[f"{name}const"] = (wide, *block["size"])
        for layer, conv, channels in (("conv0", block["conv0"], narrow), ("conv1", block["conv1"], wide)):
            if conv is not None:
                shapes[f"{name}{layer}.weight"] = (wide, channels, conv["kernel"], conv["kernel"])
                shapes[f"{name}{layer}.bias"] = (wide,)
                shapes[f"{name}{layer}.resample_filter"] = filter_
                shapes |= _dense(f"{name}{layer}.affine.", channels, y_dim)
                if conv["noise"]:
                    shapes[f"{name}{layer}.noise_const"] = tuple(block["size"])
                    shapes[f"{name}{layer}.noise_strength"] = ()
        if block["torgb"] is not None:
            kernel = block["torgb"]["kernel"]
            shapes[f"{name}torgb.weight"] = (config["channels"], wide, kernel, kernel)
            shapes[f"{name}torgb.bias"] = (config["channels"],)
            shapes |= _dense(f"{name}torgb.affine.", wide, y_dim)
        if block["architecture"] == "resnet" and narrow:
            shapes[f"{name}skip.weight"] = (wide, narrow, 1, 1)
            shapes[f"{name}skip.resample_filter"] = filter_
    return shapes


def discriminator_shapes(config: Discriminator2Config) -> _Shapes:
    """Names and shapes of the discriminator's tensors."""
    shapes = mapping_shapes(config["mapping"]) if config["mapping"] else {}
    for block in config["blocks"]:
        name = f"{block['name']}."
        filter_, middle, out = tuple(block["filter"]), block["mid_channels"], block["out_channels"]
        shapes[f"{name}resample_filter"] = filter_
        if block["fromrgb"]:
            shapes |= _conv(f"{name}fromrgb.", middle, config["channels"], 1, filter_)
        shapes |= _conv(f"{name}conv0.", middle, middle, 3, filter_)
        shapes |= _conv(f"{name}conv1.", out, middle, 3, filter_)
        if block["architecture"] == "resnet":
            shapes[f"{name}skip.weight"] = (out, middle, 1, 1)
            shapes[f"{name}skip.resample_filter"] = filter_
    last = whole_epilogue(config["epilogue"])
    name, channels, filter_ = f"{last['name']}.", last["in_channels"], tuple(last["filter"])
    if last["architecture"] == "skip":
        shapes |= _conv(f"{name}fromrgb.", channels, config["channels"], 1, filter_)
    shapes |= _conv(f"{name}conv.", channels, channels + last["mbstd_channels"], 3, filter_)
    shapes |= _dense(f"{name}fc.", channels, channels * last["size"][0] * last["size"][1])
    shapes |= _dense(f"{name}out.", last["cmap_dim"] or last["outputs"], channels)
    return shapes


def mapping_shapes(config: MappingConfig) -> _Shapes:
    """Names and shapes of a mapping's tensors."""
    config = whole_mapping(config)
    shapes: _Shapes = {}
    width, c_dim, embedded = config["z_dim"], config["c_dim"], config["embed_features"]
    if embedded is not None:
        if config["label"] == "concat":
            shapes["mapping.label_weight"] = (c_dim, embedded)
        elif config["label"] == "table":
            shapes["mapping.table"] = (c_dim, config["table_features"])
            shapes |= _dense("mapping.embed_proj.", embedded, config["table_features"])
        else:
            shapes |= _dense("mapping.embed.", embedded, c_dim)
        width += embedded
    for index, features in enumerate(config["features"]):
        shapes |= _dense(f"mapping.fc{index}.", features, width)
        width = features
    if config["has_average"]:
        shapes["mapping.w_avg"] = (c_dim, width) if config["label"] == "table" else (width,)
    return shapes


def check_tensors(tensors: Mapping[str, Tensor], shapes: _Shapes, name: str, part: str) -> None:
    """Refuse weights that do not fit their own config.

    Args:
        tensors: What was found.
        shapes: What the config implies.
        name: The file's name, for messages.
        part: "generator" or "discriminator", for messages.

    Raises:
        CheckpointError: A tensor is missing or has another shape.
    """
    for key, shape in shapes.items():
        if key not in tensors:
            raise CheckpointError(f"{name}: {part}.{clean(key)} is missing, so this is no whole network. Get the file again.")
        if tuple(tensors[key].shape) != shape:
            raise CheckpointError(
                f"{name}: {part}.{clean(key)} has shape {list(tensors[key].shape)}, and {list(shape)} was expected "
                "from its neighbours. It is damaged, or a variant that this version does not know."
            )


def _dense(name: str, out: int, into: int) -> _Shapes:
    return {f"{name}weight": (out, into), f"{name}bias": (out,)}


def _conv(name: str, out: int, into: int, kernel: int, filter_: tuple[int, ...]) -> _Shapes:
    shapes: _Shapes = {f"{name}weight": (out, into, kernel, kernel), f"{name}bias": (out,)}
    return shapes | {f"{name}resample_filter": filter_}
