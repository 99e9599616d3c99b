"""Which generator is this: a hash of its weights by name."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lia_adapter.generators.base import Generator
from lia_adapter.generators.binding import respond, weights_digest
from lia_adapter.generators.wrap import WrappedGenerator

__all__ = ["fingerprint", "marks_of", "weights_of"]


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over names, shapes and values of all parameters and buffers: the same for the same weights, however stored.

    Of a wrapped generator, those of the user's modules; where functions have none, what they answer.
    """
    digest = hashlib.sha256()
    weights = weights_of(module)
    if not weights and isinstance(module, WrappedGenerator):
        digest.update(json.dumps(respond(module)).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def weights_of(module: nn.Module) -> Mapping[str, Tensor]:
    """Parameters and buffers by name; of a wrapped generator, those of the user's modules."""
    return module.weights() if isinstance(module, WrappedGenerator) else module.state_dict()


def marks_of(generator: Generator, *, answers: bool) -> dict[str, Any]:
    """What a file says of its generator, as JSON: a hash of it, and with `answers` also by what else it is known again."""
    return {
        "generator_sha256": fingerprint(generator),
        "weights_sha256": weights_digest(weights_of(generator)) if answers else None,
        "response": respond(generator) if answers else None,
    }
