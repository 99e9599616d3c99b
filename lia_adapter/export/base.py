"""What the targets of weights share."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from lia_adapter.errors import LIAError

__all__ = ["ExportedFile", "literal", "refuse", "widths_limit"]


@dataclass(frozen=True)
class ExportedFile:
    """One network as another program has it.

    Attributes:
        tensors: By the program's names.
        code: Lines of Python that load them there; FILE stands for the file's name.
        remarks: What stays behind or has to be changed there, as sentences.
    """

    tensors: Mapping[str, Tensor]
    code: tuple[str, ...]
    remarks: tuple[str, ...] = ()


def refuse(program: str, limits: Iterable[str]) -> None:
    """Raises unless there are no limits.

    Args:
        program: Who cannot hold the generator.
        limits: Phrases that go behind "the generator has".

    Raises:
        LIAError: There is a limit.
    """
    found = "; ".join(limits)
    if found:
        raise LIAError(f"{program} cannot hold this generator. It has {found}. Export it to torch or onnx, which hold all.")


def literal(**values: object) -> str:
    """Arguments of a call, as Python spells them."""
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def widths_limit(widths: Mapping[int, int]) -> str:
    """A sentence for who has to write the widths by hand, {side: feature maps}."""
    return (
        "No argument gives these feature maps (by side), so write them into the program first: "
        + repr(dict(sorted(widths.items())))
        + "."
    )
