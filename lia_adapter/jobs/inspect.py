"""`inspect`: what a file is, what it names, and what can be done with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lia_adapter.checkpoints import Inspection, inspect_file
from lia_adapter.download import fetch
from lia_adapter.jobs.convert import obstacle
from lia_adapter.lia import LIA
from lia_adapter.lia_file import is_lia_file, read_header
from lia_adapter.loading import from_checkpoint

__all__ = ["Seen", "inspect"]


@dataclass(frozen=True)
class Seen:
    """What `inspect` found.

    Attributes:
        name: Of the file.
        verdict: What can be done with it, in a sentence without its subject.
        header: Of a LIA file; None of another.
        file: What a file of another kind is; None of a LIA file.
        lia: Its networks, where it holds a generator that can be read.
    """

    name: str
    verdict: str
    header: Mapping[str, Any] | None = None
    file: Inspection | None = None
    lia: LIA | None = None


def inspect(file: str, *, assume: Mapping[str, str] | None = None) -> Seen:
    """Looks at a file, or an HTTPS address; safe on hostile ones: nothing of it is run.

    Args:
        file: Any file.
        assume: See `lia_adapter.checkpoints.read_checkpoint`.

    Raises:
        LIAError: The file cannot be had or read, or is a damaged LIA file.
    """
    path = fetch(file)
    if is_lia_file(path):
        return Seen(path.name, "is a LIA file", read_header(path))
    found = inspect_file(path, assume=assume)
    checkpoint = found.checkpoint
    if checkpoint is None:
        return Seen(path.name, f"refused: {found.problem}", file=found)
    if checkpoint.config["generator"] is None:
        return Seen(path.name, f"cannot be converted: it holds {checkpoint.content()}, and no generator", file=found)
    lia = from_checkpoint(checkpoint)
    why = None if lia.mapping is not None else obstacle(lia.generator)
    verdict = f"cannot be converted: it {why}" if why else f"can be converted: lia-adapt convert {file}"
    if lia.mapping is not None:
        verdict = f"is a LIA, with an invertible mapping: lia-adapt convert {file} writes it as one file"
    return Seen(path.name, verdict, file=found, lia=lia)
