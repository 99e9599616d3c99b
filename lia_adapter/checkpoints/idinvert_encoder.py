"""idinvert's encoder (bare weights in a .pth): LIA's architecture with a code for every layer."""

import math
import re
from typing import Final

from lia_adapter.canonical import PublishedEncoderConfig
from lia_adapter.checkpoints.base import Checkpoint
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.lia_encoder import check_encoder, stem_and_widths
from lia_adapter.checkpoints.networks import choose, networks
from lia_adapter.checkpoints.tables import Rule, Table, rename
from lia_adapter.errors import CheckpointError

__all__ = ["NAME", "matches", "read"]

NAME: Final = "idinvert's encoder"

_N: Final = r"block([0-9]{1,2})"


def matches(document: Document) -> bool:
    """Whether there is a table with its names."""
    return bool(_encoders(document))


def _encoders(document: Document) -> list[Table]:
    return networks(document, "block0.conv.weight", "block0.bn.bn.running_mean", "block1.conv1.weight")


def _rules(last: int) -> tuple[Rule, ...]:
    def stage(m: re.Match[str], part: str, name: str) -> str:
        return f"stages.{int(m[1]) - 1}.{part}.{name}"

    return (
        Rule(r"block[0-9]{1,2}\.bn[12]?\.bn\.num_batches_tracked", None),
        Rule(r"block0\.conv\.weight", "stem.conv.weight"),
        Rule(r"block0\.bn\.bn\.(\w+)", r"stem.norm.\1"),
        Rule(rf"block{last}\.fc\.weight", "dense.weight"),
        Rule(rf"block{last}\.bn\.bn\.(\w+)", r"norm.\1"),
        Rule(rf"{_N}\.conv\.weight", lambda m: stage(m, "shortcut", "conv.weight")),
        Rule(rf"{_N}\.bn\.bn\.(\w+)", lambda m: stage(m, "shortcut", f"norm.{m[2]}")),
        Rule(rf"{_N}\.conv([12])\.weight", lambda m: stage(m, f"conv{m[2]}", "conv.weight")),
        Rule(rf"{_N}\.wscale([12])\.bias", lambda m: stage(m, f"conv{m[2]}", "conv.bias")),
        Rule(rf"{_N}\.bn([12])\.bn\.(\w+)", lambda m: stage(m, f"conv{m[2]}", f"norm.{m[3]}")),
    )


def read(document: Document, sha256: str) -> Checkpoint:
    """Take the encoder.

    Args:
        document: The decoded file, for which `matches` is true.
        sha256: Of the file.

    Raises:
        CheckpointError: Something in it is missing, unknown, or does not fit.
    """
    found, notes = choose(_encoders(document), "encoder")
    blocks = [int(m[1]) for name in (found.nodes if found else ()) if (m := re.fullmatch(rf"{_N}\.fc\.weight", name))]
    if found is None or len(blocks) != 1:
        raise CheckpointError(f"{document.name}: the dense layer of idinvert's encoder is missing. Get the file again.")
    tensors = rename(found, _rules(blocks[0]), notes)
    channels, widths = stem_and_widths(tensors, document.name)
    matrix = tensors["dense.weight"]
    if matrix.ndim != 2:
        raise CheckpointError(f"{document.name}: the encoder's dense layer has no matrix. It is damaged: get the file again.")
    outputs, inputs = matrix.shape
    side = math.isqrt(inputs // widths[-1])
    resolution = side << len(widths) - 1
    num_ws = 2 * (resolution.bit_length() - 2)  # two for each size from 4x4 on
    if side * side * widths[-1] != inputs or num_ws < 1 or outputs % num_ws:
        raise CheckpointError(
            f"{document.name}: its dense layer turns {inputs} numbers into {outputs}, which does not fit {widths[-1]} feature "
            f"maps and images of {resolution}x{resolution}. It is damaged: get the file again."
        )
    config: PublishedEncoderConfig = {
        "kind": "idinvert", "resolution": [resolution] * 2, "channels": channels, "y_dim": outputs // num_ws, "num_ws": num_ws,
        "widths": widths,
    }  # fmt: skip
    check_encoder(tensors, config, document.name)
    tensors["dense.weight"] = matrix / math.sqrt(inputs)  # equalised learning rate
    return Checkpoint(
        family="stylegan1", config={"generator": None, "discriminator": None, "encoder": config},
        tensors={f"encoder.{key}": tensor for key, tensor in tensors.items()}, sha256=sha256, symbols=document.names,
        notes=("an encoder alone: it belongs to a generator of idinvert", *notes, *document.notes), source=document.name,
    )  # fmt: skip
