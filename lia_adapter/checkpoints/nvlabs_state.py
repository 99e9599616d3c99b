"""The bare weights of NVlabs' StyleGAN2, `G_ema.state_dict()` in a .pt or .safetensors file.

Their names are the canonical ones. Such a file says nothing of clamps: NVlabs' are at 256, which only networks that were
trained in half precision ever reach.
"""

from typing import Any, Final

from lia_adapter.checkpoints.base import Checkpoint
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.networks import choose, discriminator_of, networks
from lia_adapter.checkpoints.stylegan2 import assemble
from lia_adapter.checkpoints.tables import Table

__all__ = ["NAME", "matches", "read"]

NAME: Final = "stylegan2"

_ASSUMED: Final = "bare weights: leaky ReLU and a learning rate multiplier of 0.01 in the mapping were assumed"
_CLAMP: Final = 256.0


def matches(document: Document) -> bool:
    """Whether there is a StyleGAN2 generator or discriminator with NVlabs' names."""
    return bool(_generators(document) or _discriminators(document))


def read(document: Document, sha256: str) -> Checkpoint:
    """Take the weights as they are; see `lia_adapter.checkpoints.stylegan2.assemble`.

    Args:
        document: The decoded file, for which `matches` is true.
        sha256: Of the file.
    """
    generator, notes = choose(_generators(document))
    discriminator = discriminator_of(generator, _discriminators(document))
    notes = [_ASSUMED, *notes]
    tensors = None if generator is None else generator.tensors(notes)
    checkpoint = assemble(document, sha256, tensors, None if discriminator is None else discriminator.tensors(notes), notes)
    if (
        document.assume("clamp", "none", ("none", "256"), "Whether layers are clamped, as NVlabs' of half precision are.")
        == "256"
    ):
        for part in ("generator", "discriminator"):
            _clamp(checkpoint.config[part])
    return checkpoint


def _clamp(config: Any) -> None:
    """Sets the clamp of all layers of a config."""
    if isinstance(config, dict):
        config |= {"clamp": _CLAMP} if "clamp" in config else {}
        config = list(config.values())
    if isinstance(config, list):
        for part in config:
            _clamp(part)


def _generators(document: Document) -> list[Table]:
    return networks(document, "mapping.fc0.weight", "synthesis.b4.const")


def _discriminators(document: Document) -> list[Table]:
    return networks(document, "b4.fc.weight", "b4.out.weight")
