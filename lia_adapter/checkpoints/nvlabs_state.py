"""The bare weights of NVlabs' StyleGAN2, `G_ema.state_dict()` in a .pt or .safetensors file.

Their names are the canonical ones. Such a file says nothing of clamps: NVlabs' are at 256, which only networks that were
trained in half precision ever reach.
"""

from typing import Final

from lia_adapter.checkpoints.base import Checkpoint
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.stylegan2 import assemble
from lia_adapter.checkpoints.tables import Table, table

__all__ = ["NAME", "matches", "read"]

NAME: Final = "stylegan2"

_ASSUMED: Final = "bare weights: leaky ReLU, no clamp and a learning rate multiplier of 0.01 in the mapping were assumed"
_PLACES: Final = ((), ("G_ema",), ("g_ema",), ("state_dict",), ("G",))


def matches(document: Document) -> bool:
    """Whether there is a table with a StyleGAN2 generator's or discriminator's names."""
    return _find(document) is not None


def read(document: Document, sha256: str) -> Checkpoint:
    """Take the weights as they are; see `lia_adapter.checkpoints.stylegan2.assemble`.

    Args:
        document: The decoded file, for which `matches` is true.
        sha256: Of the file.
    """
    found = _find(document)
    tensors = {} if found is None else found.tensors()
    if "b4.fc.weight" in tensors:
        return assemble(document, sha256, None, tensors, [_ASSUMED])
    discriminator = table(document, "D")
    return assemble(document, sha256, tensors, None if discriminator is None else discriminator.tensors(), [_ASSUMED])


def _find(document: Document) -> Table | None:
    for place in _PLACES:
        found = table(document, *place)
        if found and (found.has("mapping.fc0.weight", "synthesis.b4.const") or found.has("b4.fc.weight", "b4.out.weight")):
            return found
    return None
