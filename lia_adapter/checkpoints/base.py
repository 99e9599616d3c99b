"""What the checkpoint room hands out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["Checkpoint", "Inspection"]


@dataclass(frozen=True)
class Checkpoint:
    """A generator's numbers and structure, taken out of a file.

    Attributes:
        family: "stylegan2".
        config: The structure, as plain JSON values: "generator", and "discriminator" (None where there is none).
        tensors: The weights by name, with the prefixes "generator." and "discriminator.". They have the dtype and the
            strides of the file and share one block of memory, the file itself: copy what you want to change.
        sha256: Of the file, in hexadecimal.
        symbols: Every class and function that the file names, "module.name", sorted. None of them was looked up.
        notes: What was ignored or chosen on the way, as sentences.
        source: The file's name.
    """

    family: str
    config: dict[str, Any]
    tensors: Mapping[str, Tensor]
    sha256: str
    symbols: tuple[str, ...]
    notes: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Inspection:
    """What can be said about a file, whatever it is.

    Attributes:
        name: The file's name.
        size: Bytes.
        sha256: Of the file, in hexadecimal.
        container: What kind of file it is: "pickle", "torch zip", "torch stream", "web page", ...
        symbols: Every class and function that it names; empty where it could not be decoded.
        family: The family of the generator in it, or None.
        checkpoint: The checkpoint, or None if the file was refused.
        problem: Why it was refused, or None.
    """

    name: str
    size: int
    sha256: str
    container: str
    symbols: tuple[str, ...]
    family: str | None
    checkpoint: Checkpoint | None
    problem: str | None
