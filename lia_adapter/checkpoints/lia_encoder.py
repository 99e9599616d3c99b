"""The shapes of the encoder of LIA's own code and of idinvert: one has norms without a scale, the other many codes."""

from collections.abc import Mapping
from typing import Final

from torch import Tensor

from lia_adapter.canonical import PublishedEncoderConfig, whole_encoder
from lia_adapter.checkpoints.decoder import clean
from lia_adapter.errors import CheckpointError

__all__ = ["check_encoder", "stem_and_widths"]

_STATISTICS: Final = ("bias", "running_mean", "running_var")


def stem_and_widths(tensors: Mapping[str, Tensor], name: str) -> tuple[int, list[int]]:
    """Channels of the images, and feature maps of the stem and of each stage.

    Args:
        tensors: By canonical names, without a prefix.
        name: The file's name, for messages.

    Raises:
        CheckpointError: A convolution is missing, or none.
    """
    stages = sum(key.startswith("stages.") and key.endswith(".conv2.conv.weight") for key in tensors)
    keys = ["stem.conv.weight", *(f"stages.{i}.conv2.conv.weight" for i in range(stages))]
    for key in keys:
        if key not in tensors or tensors[key].ndim != 4 or 0 in tensors[key].shape:
            _fail(name, key, tensors, "a kernel")
    return tensors[keys[0]].shape[1], [tensors[key].shape[0] for key in keys]


def check_encoder(tensors: Mapping[str, Tensor], config: PublishedEncoderConfig, name: str) -> None:
    """Refuse weights that do not fit their own config.

    Args:
        tensors: By canonical names, without a prefix.
        config: `encoder` of a checkpoint.
        name: The file's name, for messages.

    Raises:
        CheckpointError: A tensor is missing, left over, or has another shape.
    """
    shapes = _shapes(config)
    for key in [*shapes, *(key for key in tensors if key not in shapes)]:
        if key not in tensors or list(tensors[key].shape) != shapes.get(key):
            _fail(name, key, tensors, f"{shapes[key]}" if key in shapes else "nothing of that name")


def _shapes(config: PublishedEncoderConfig) -> dict[str, list[int]]:
    widths, outputs = config["widths"], config["y_dim"] * whole_encoder(config)["num_ws"]
    statistics = (*_STATISTICS, "weight") if config["kind"] == "idinvert" else _STATISTICS
    h, w = (side >> len(widths) - 1 for side in config["resolution"])
    layers = {"stem": (config["channels"], widths[0], 3, False)}
    for i, (narrow, wide) in enumerate(zip(widths, widths[1:], strict=False)):
        hidden = min(narrow, wide)
        layers |= {f"stages.{i}.conv1": (narrow, hidden, 3, True), f"stages.{i}.conv2": (hidden, wide, 3, True)}
        if narrow != wide:
            layers[f"stages.{i}.shortcut"] = (narrow, wide, 1, False)
    shapes = {"dense.weight": [outputs, widths[-1] * h * w]} | {f"norm.{statistic}": [outputs] for statistic in statistics}
    for key, (into, out, kernel, bias) in layers.items():
        shapes |= {f"{key}.conv.weight": [out, into, kernel, kernel]} | ({f"{key}.conv.bias": [out]} if bias else {})
        shapes |= {f"{key}.norm.{statistic}": [out] for statistic in statistics}
    return shapes


def _fail(name: str, key: str, tensors: Mapping[str, Tensor], wanted: str) -> None:
    found = list(tensors[key].shape) if key in tensors else "missing"
    raise CheckpointError(
        f"{name}: the encoder's {clean(key, 60)} is {found}, and {wanted} was expected. It is damaged: get the file again."
    )
