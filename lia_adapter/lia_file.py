"""The one file that holds a LIA: .safetensors with a JSON header."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lia_adapter.checkpoints.decoder import clean
from lia_adapter.checkpoints.safetensor import MAX_HEADER
from lia_adapter.encoder import Encoder
from lia_adapter.errors import CheckpointError, LIAError
from lia_adapter.generators import Generator, PublishedEncoder, marks_of
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.metrics.typicality import Typicality
from lia_adapter.tensorfile import LIA_FILE, finite, read_tensor_file, write_tensor_file
from lia_adapter.tensorfile import read_header as read_any_header

__all__ = ["is_lia_file", "read_header", "read_lia_file", "reason", "versions", "write_lia_file", "write_networks"]

_VERSION = 1


class HasNetworks(Protocol):
    """A `LIA`, as far as its file goes."""

    generator: Generator
    mapping: InvertibleMapping | None
    discriminator: nn.Module | None
    encoder: Encoder | PublishedEncoder | None
    typicality: Typicality | None
    family: str | None
    config: Any
    provenance: dict[str, Any]
    metrics: dict[str, Any]

    @property
    def mapping_is_own(self) -> bool:
        """Whether the generator brought it along."""


def versions() -> dict[str, str]:
    """Versions of what made a file."""
    packages = ("lia-adapter", "torch", "torchvision", "numpy", "safetensors")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def is_lia_file(path: str | Path) -> bool:
    """Whether lia-adapt wrote this file: a .safetensors file that says so in its header."""
    try:
        with open(path, "rb") as file:
            start = file.read(9)
            size = int.from_bytes(start[:8], "little")
            if len(start) < 9 or start[8:] != b"{" or size > MAX_HEADER:
                return False
            header = json.loads(b"{" + file.read(size - 1))
    except (OSError, ValueError, RecursionError):
        return False
    metadata = header.get("__metadata__")
    return isinstance(metadata, dict) and LIA_FILE in metadata


def write_lia_file(path: str | Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Writes a LIA file, whole or not at all.

    Args:
        path: The file.
        header: What `read_header` gives back, with None for numbers that are not finite; format and version are added.
        tensors: Of the networks, named `generator.…`, `mapping.…` and so on.

    Raises:
        LIAError: The file cannot be written.
    """
    write_tensor_file(path, LIA_FILE, finite({"format": LIA_FILE, "version": _VERSION, **header}), tensors)


def write_networks(lia: HasNetworks, path: str | Path, *, adapter_only: bool, half: bool) -> None:
    """Writes what `LIA.save` says; see there.

    Raises:
        LIAError: There is nothing to save, the name ends in another way, or the file cannot be written.
    """
    if not str(path).endswith(".safetensors"):
        raise LIAError(f"{path} must end in .safetensors, the format of the file; expected for example {path}.safetensors.")
    adapter_only = adapter_only or lia.family is None
    # A mapping that the generator brought along is saved as a part of it.
    mapping = None if lia.mapping_is_own else lia.mapping
    parts: dict[str, nn.Module] = {} if mapping is None else {"mapping": mapping}
    parts |= {name: part for name in ("encoder", "typicality") if isinstance(part := getattr(lia, name), nn.Module)}
    if adapter_only and not parts:
        raise LIAError("there is no adapter to save: the checkpoint was not converted. Run lia-adapt convert first.")
    if not adapter_only:
        parts["generator"] = lia.generator
        if lia.discriminator is not None:
            parts["discriminator"] = lia.discriminator
    tensors = {f"{part}.{name}": tensor for part, module in parts.items() for name, tensor in module.state_dict().items()}
    if half:
        networks = ("generator.", "discriminator.")
        tensors |= {n: t.half() for n, t in tensors.items() if n.startswith(networks) and t.dtype == torch.float32}
    header = {
        "adapter_only": adapter_only,
        "family": lia.family,
        "config": {} if adapter_only else lia.config,
        "mapping": None if mapping is None else mapping.config(),
        "encoder": None if lia.encoder is None else lia.encoder.config(),
        **marks_of(lia.generator, answers=adapter_only),
        "provenance": lia.provenance,
        "metrics": lia.metrics,
    }
    write_lia_file(path, header, tensors)


def read_lia_file(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header, checked as `read_header` checks it, and the tensors.

    Raises:
        CheckpointError: The file is damaged, newer than this program, or a .safetensors file of another kind.
    """
    try:
        found = read_tensor_file(path, LIA_FILE)
    except OSError as error:
        raise _unreadable(path, error) from error
    header = _checked(path, None if found is None else found[0])
    return header, {} if found is None else found[1]


def read_header(path: Path) -> dict[str, Any]:
    """The JSON of a LIA file, checked as far as it is needed to go on; no weights are read.

    Raises:
        CheckpointError: It is damaged, newer than this program, or a .safetensors file of another kind.
    """
    try:
        return _checked(path, read_any_header(path, LIA_FILE))
    except OSError as error:
        raise _unreadable(path, error) from error


def reason(error: Exception) -> str:
    """An error of other people's code as one short line: it may quote the file."""
    return clean(" ".join(str(error).split()), 200)


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{path.name} cannot be read: {reason(error)}. Check the path and its permissions.")


def _checked(path: Path, header: dict[str, Any] | None) -> dict[str, Any]:
    if header is None:
        raise CheckpointError(
            f"{path.name} is a .safetensors file, but not one that lia-adapt wrote. lia-adapt inspect tells what it holds."
        )
    expected = {
        "adapter_only": bool, "config": dict, "generator_sha256": str, "mapping": dict | None, "metrics": dict,
        "provenance": dict, "version": int,
    }  # fmt: skip
    if missing := [key for key in expected if key not in header]:
        raise CheckpointError(f"{path.name} is damaged: its header cannot be read ({missing[0]!r} is missing).")
    if bad := [key for key, kind in expected.items() if not isinstance(header[key], kind)]:
        raise CheckpointError(f"{path.name} is damaged: {', '.join(bad)} in its header is of the wrong kind.")
    if header["version"] > _VERSION:
        raise CheckpointError(
            f"{path.name} has format version {clean(header['version'], 20)}; this program reads up to {_VERSION}. "
            "Run pip install -U lia-adapter."
        )
    return header
