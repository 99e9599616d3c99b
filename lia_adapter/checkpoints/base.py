"""What the checkpoint room hands out."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from lia_adapter.canonical import NetworksConfig
from lia_adapter.checkpoints.document import Assumption
from lia_adapter.errors import CheckpointError

__all__ = ["Checkpoint", "Inspection"]


@dataclass(frozen=True)
class Checkpoint:
    """A generator's numbers and structure, taken out of a file.

    Attributes:
        family: "stylegan1", "stylegan2" or "stylegan3".
        config: The structure, as plain JSON values, see `lia_adapter.canonical`.
        tensors: The weights by name, with the prefixes "generator.", "discriminator." and "encoder.". They have the dtype of
            the file. Those of an `Inspection` mostly share one block of memory, the file itself.
        sha256: Of the file, in hexadecimal.
        symbols: Every class and function that the file names, "module.name", sorted. None of them was looked up.
        notes: What was ignored or chosen on the way, as sentences.
        source: The file's name.
        assumptions: What the file does not say and was assumed.
    """

    family: str
    config: NetworksConfig
    tensors: Mapping[str, Tensor]
    sha256: str
    symbols: tuple[str, ...]
    notes: tuple[str, ...]
    source: str
    assumptions: tuple[Assumption, ...] = ()

    def content(self) -> str:
        """The networks in it, in words: "a discriminator and an encoder"."""
        parts = [part for part in ("generator", "discriminator", "encoder") if self.config.get(part)]
        words = [f"an {part}" if part.startswith("e") else f"a {part}" for part in parts]
        return " and ".join([", ".join(words[:-1]), *words[-1:]] if len(words) > 1 else words) or "nothing"

    def from_bgr(self) -> "Checkpoint":
        """The same networks with the channels of images turned round: RGB of one that draws and judges BGR.

        Raises:
            CheckpointError: It has no layers to or from three channels.
        """
        axes = {".torgb.weight": 0, ".torgb.bias": 0, ".fromrgb.weight": 1}
        turned = {
            name: tensor.flip(axis)
            for name, tensor in self.tensors.items()
            for ending, axis in axes.items()
            if name.endswith(ending) and tensor.shape[axis] == 3
        }
        if not turned:
            raise CheckpointError(f"{self.source} has no layers to or from three channels: it cannot be in BGR.")
        return replace(self, tensors={**self.tensors, **turned})


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
        spoiled: Whether it was refused for its numbers alone: a network that is known and of no use.
        error: What the problem was told by.
    """

    name: str
    size: int
    sha256: str
    container: str
    symbols: tuple[str, ...]
    family: str | None
    checkpoint: Checkpoint | None
    problem: str | None
    spoiled: bool = False
    error: CheckpointError | None = None
