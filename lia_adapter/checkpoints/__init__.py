"""Checkpoints: from a file that nobody should trust to numbers that anybody can use.

A checkpoint of the StyleGAN family is a pickle, that is, a program. Nothing here runs it. A file goes through three
steps, and each is one module that can be read alone:

1. `files` reads the bytes once, hashes them, and knows by the first few whether they are a checkpoint at all.
2. `decoder` turns a pickle into an inert tree: dicts, lists, numbers, and two kinds of nodes, `Symbol` for a name and
   `Call` for what the file would have called. `document` and `zips` find the torch storages that belong to it, and
   `denied` refuses trees that name a shell or the like.
3. A family module (`nvlabs`, `rosinality`, ...) finds its networks in the tree and gives a `Checkpoint`: a config in plain
   JSON, and tensors that still lie in the bytes of step 1, from where `read_checkpoint` lifts them. `values` and `tables` help
   with the few spellings of numbers, tensors and tables of them. All end in one canonical form for each of StyleGAN 1, 2 and 3,
   whose configs `lia_adapter.canonical` describes.

A new family is one new file with `NAME`, `matches(document)` and `read(document, sha256)`, and one line in `FAMILIES`.

    >>> from lia_adapter.checkpoints import read_checkpoint
    >>> read_checkpoint("no-such-file.pkl")
    Traceback (most recent call last):
        ...
    lia_adapter.errors.CheckpointError: no-such-file.pkl does not exist. Check the path.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Protocol

from lia_adapter.checkpoints import (
    alae,
    genforce,
    genforce1,
    gfpgan,
    hammer,
    idinvert_encoder,
    nvlabs,
    nvlabs3,
    nvlabs_state,
    rosinality,
    stylegan3,
    tensorflow,
    tf_lia,
    tf_stylegan1,
    tf_stylegan2,
    torch_stylegan1,
)
from lia_adapter.checkpoints.base import Checkpoint, Inspection
from lia_adapter.checkpoints.decoder import clean
from lia_adapter.checkpoints.denied import mentions, refuse_denied
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.files import CheckpointFile, container, lift, read_document, read_file
from lia_adapter.checkpoints.foreign_networks import explain
from lia_adapter.errors import CheckpointError, ValuesError

__all__ = ["FAMILIES", "Checkpoint", "Inspection", "inspect_file", "read_checkpoint"]


class Family(Protocol):
    """What a family's module offers."""

    NAME: str

    def matches(self, document: Document) -> bool:
        """Whether the tree has this family's shape."""

    def read(self, document: Document, sha256: str) -> Checkpoint:
        """Take the generator out of the tree."""


FAMILIES: Final[tuple[Family, ...]] = (
    nvlabs, nvlabs3, nvlabs_state, stylegan3, rosinality, gfpgan, alae, hammer, genforce, genforce1, idinvert_encoder,
    torch_stylegan1, tf_lia, tf_stylegan1, tf_stylegan2,
    tensorflow,  # whatever other networks of TensorFlow there are, to be refused by name
)  # fmt: skip


def read_checkpoint(path: str | os.PathLike[str], *, assume: Mapping[str, str] | None = None) -> Checkpoint:
    """Read a generator from a file without running anything that is in the file.

    Args:
        path: A checkpoint of any program of the StyleGAN family; `lia-adapt inspect` tells what a file is.
        assume: What the file itself does not say, where the usual is wrong: {"fused_scale": "all"}. `lia-adapt inspect` tells
            what was assumed.

    Returns:
        Structure and weights of the networks in it: mostly a generator, and often a discriminator.

    Raises:
        CheckpointError: The file is missing, damaged, hostile, or of a kind that is not known. The message says which,
            and what to do.
    """
    file = read_file(path)
    checkpoint = _read(read_document(file), file, assume or {})
    return replace(checkpoint, tensors=lift(checkpoint.tensors, file))


def inspect_file(path: str | os.PathLike[str], *, assume: Mapping[str, str] | None = None) -> Inspection:
    """Say what a file is and what it names, also if it is damaged or hostile.

    Args:
        path: Any file.
        assume: See `read_checkpoint`.

    Returns:
        What could be found out. A refusal is its `problem`, not an exception.

    Raises:
        CheckpointError: The file cannot be read from disk.
    """
    file = read_file(path)
    symbols: tuple[str, ...] = ()
    checkpoint = refusal = None
    spoiled = False
    try:
        document = read_document(file)
        symbols = document.names
        checkpoint = _read(document, file, assume or {})
    except CheckpointError as error:
        refusal, spoiled = error, isinstance(error, ValuesError)
    return Inspection(
        name=file.name,
        size=len(file.data),
        sha256=file.sha256,
        container=container(file),
        symbols=symbols,
        family=checkpoint.family if checkpoint else None,
        checkpoint=checkpoint,
        problem=None if refusal is None else str(refusal),
        spoiled=spoiled,
        error=refusal,
    )


def _read(document: Document, file: CheckpointFile, wanted: Mapping[str, str]) -> Checkpoint:
    refuse_denied(document)
    document = replace(document, wanted=wanted)
    for family in FAMILIES:
        if family.matches(document):
            checkpoint = family.read(document, file.sha256)
            assumed = tuple(document.assumptions)
            if unused := sorted(set(wanted) - {assumption.key for assumption in assumed}):
                known = ", ".join(f"{a.key} ({' or '.join(a.options)})" for a in assumed) or "nothing"
                raise CheckpointError(
                    f"{document.name} does not depend on {', '.join(clean(key, 40) for key in unused)}. What it does not say "
                    f"itself, and can be assumed of it: {known}."
                )
            return replace(checkpoint, notes=checkpoint.notes + mentions(document), assumptions=assumed)
    raise CheckpointError(explain(document))
