"""What a generator answers to a few fixed codes: by this an adapter knows the generator that it was made for.

Names and hashes of weights change when a module is compiled, replicated, wrapped as callables or read by another program, and
a generator made of functions may have no weights. What it does stays the same.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lia_adapter.errors import LIAError
from lia_adapter.generators.base import Generator, broadcast

__all__ = ["TOLERANCE", "respond", "response_error", "weights_digest"]

TOLERANCE = 5e-3
"""Relative error up to which answers count as the same: what devices and precisions make of one generator."""

_NUMBERS = 128  # of y, and of each image


@torch.no_grad()
def respond(generator: Generator) -> dict[str, Any]:
    """Answers of mapping and synthesis to fixed codes, as JSON; a few kilobytes.

    Args:
        generator: Three codes are mapped and two images drawn: one of one y, one with another y in each layer.
    """
    device = next((p.device for p in generator.parameters()), torch.device("cpu"))
    random = torch.Generator().manual_seed(0)
    z = torch.randn(3, generator.z_dim, generator=random).to(device)
    c = torch.eye(generator.c_dim, device=device)[torch.arange(3) % generator.c_dim] if generator.c_dim else None
    y = generator.mapping(z, c)
    ys = broadcast(y, generator.num_ws, generator.y_dim)
    mixed = torch.stack([ys[1 + i % 2, i] for i in range(generator.num_ws)])
    x = generator.synthesis(torch.stack([ys[0], mixed]))
    return {
        "tolerance": TOLERANCE,
        "shape": [generator.z_dim, y.shape[1], generator.c_dim, generator.num_ws, *x.shape[1:]],
        "y": _picked(y, random),
        "x": [number for image in x for number in _picked(image, random)],
    }


def _picked(values: Tensor, random: torch.Generator) -> list[float]:
    flat = values.detach().float().cpu().flatten()
    return [float(f"{v:.6g}") for v in flat[torch.randint(len(flat), [_NUMBERS], generator=random)]]


def response_error(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    """How far two answers of `respond` are apart, relative to their spread; infinite where their shapes differ.

    Raises:
        LIAError: They cannot be compared: a file is damaged.
    """
    try:
        if a["shape"] != b["shape"]:
            return float("inf")
        errors = []
        for key in ("y", "x"):
            p, q = (torch.tensor(answer[key], dtype=torch.float64) for answer in (a, b))
            spread = p.std() if float(p.std()) > 0 else p.abs().max() + 1e-12
            errors.append(float((p - q).square().mean().sqrt() / spread))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise LIAError(f"what the file says of its generator's answers is damaged ({error}).") from error
    return max(errors)


def weights_digest(weights: Mapping[str, Tensor]) -> str | None:
    """SHA-256 over shapes and values of tensors, whatever they are called and in whatever order; None of none."""
    digests = []
    for tensor in weights.values():
        digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        digests.append(digest.digest())
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest() if digests else None
