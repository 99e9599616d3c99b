"""The bare weights of NVlabs' StyleGAN2, `G_ema.state_dict()` in a .pt or .safetensors file.

Their names are the canonical ones. Such a file says nothing of clamps: NVlabs' are at 256, which only networks that were
trained in half precision ever reach.
"""

from typing import Final

from lia_adapter.canonical import HALF_CLAMP, LR_MULTIPLIER, Discriminator2Config, Generator2Config, clamped_parts
from lia_adapter.checkpoints.base import Checkpoint
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.networks import choose, discriminator_of, networks
from lia_adapter.checkpoints.stylegan2 import assemble
from lia_adapter.checkpoints.tables import Table

__all__ = ["NAME", "matches", "read"]

NAME: Final = "stylegan2"

_ASSUMED: Final = f"bare weights: leaky ReLU and a learning rate multiplier of {LR_MULTIPLIER:g} in the mapping were assumed"


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
    clamp = document.assume("clamp", "none", ("none", "256"), "Whether layers are clamped, as NVlabs' of half precision are.")
    return assemble(
        document, sha256, tensors, None if discriminator is None else discriminator.tensors(notes), notes,
        settle=_clamp if clamp == "256" else None,
    )  # fmt: skip


def _clamp(generator: Generator2Config | None, discriminator: Discriminator2Config | None) -> None:
    """Sets the clamp of all layers."""
    for network in (generator, discriminator):
        for part in () if network is None else clamped_parts(network):
            part["clamp"] = HALF_CLAMP


def _generators(document: Document) -> list[Table]:
    return networks(document, "mapping.fc0.weight", "synthesis.b4.const")


def _discriminators(document: Document) -> list[Table]:
    return networks(document, "b4.fc.weight", "b4.out.weight")
