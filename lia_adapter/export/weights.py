"""Bare weights for another program: one .safetensors file for each network, and a note that shows how to load them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from safetensors.torch import save
from torch import Tensor

from lia_adapter.errors import LIAError, argument
from lia_adapter.export import nvlabs, rosinality
from lia_adapter.export.base import ExportedFile
from lia_adapter.files import atomic_write, check_writable
from lia_adapter.lia import LIA
from lia_adapter.tensorfile import check_replaced

__all__ = ["WEIGHTS", "Exported", "export_weights"]

Networks = Callable[[LIA, Tensor], tuple[ExportedFile, ExportedFile | str | None]]

WEIGHTS: Final[Mapping[str, tuple[str, Networks]]] = {
    "nvlabs": (nvlabs.PROGRAM, nvlabs.export), "rosinality": (rosinality.PROGRAM, rosinality.export),
}  # fmt: skip
"""The program, and (LIA, average y) -> its generator and its discriminator, or why that stays behind."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        files: Their paths; the note comes last.
        left: What had to stay behind and what was changed, as sentences.
    """

    files: tuple[Path, ...]
    left: tuple[str, ...]


def export_weights(lia: LIA, target: str, out: str | Path) -> Exported:
    """Writes the weights of generator and discriminator with the names and shapes of another program.

    The mapping that goes out is the ORIGINAL one: no other program has an invertible one.

    Args:
        lia: What `lia_adapter.load` gives.
        target: A key of `WEIGHTS`.
        out: The generator's file, .safetensors. The discriminator's goes beside it, as `<stem>.discriminator.safetensors`,
            and a note on both, `<stem>.md`.

    Raises:
        LIAError: The program cannot hold the generator; the message says why. Or a file cannot be written.
    """
    out = Path(out)
    if target not in WEIGHTS:
        raise LIAError(f"there is no export to {target!r}; expected one of {', '.join(WEIGHTS)}.")
    if out.suffix != ".safetensors":
        raise LIAError(f"{argument('out')} {out} must end in .safetensors; expected for example {out.name}.safetensors.")
    if lia.family is None:
        raise LIAError("this is a wrapped generator, whose weights nobody else knows. Save it with its own program.")
    average, left = _average(lia)
    program, networks = WEIGHTS[target]
    generator, discriminator = networks(lia, average)
    left = [*left, *generator.remarks, *_parts_left(lia)]
    parts = {out: generator}
    if isinstance(discriminator, ExportedFile):
        parts[out.with_suffix(".discriminator.safetensors")] = discriminator
        left += discriminator.remarks
    elif discriminator is not None:
        left.append(f"The discriminator stays behind: {discriminator}.")
    left = list(dict.fromkeys(left))  # both networks may say the same
    note = out.with_suffix(".md")
    for path in (*parts, note):
        check_writable(path)
    for path in parts:
        check_replaced(path, None)
    for path, part in parts.items():
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in part.tensors.items()}
        with atomic_write(path, needs=sum(t.numel() * t.element_size() for t in tensors.values())) as temporary:
            temporary.write_bytes(save(tensors, metadata={"format": "pt"}))
    with atomic_write(note) as temporary:
        temporary.write_text(_note(lia, program, parts, left), encoding="utf-8")
    return Exported((*parts, note), tuple(left))


def _average(lia: LIA) -> tuple[Tensor, list[str]]:
    """The centre of truncation, measured where the file has none: both programs want one."""
    if lia.generator.y_mean is not None:
        return lia.generator.y_mean, []
    average = lia.whitening()[0] if lia.generator.c_dim else lia.y_mean
    return average, ["The file has no average y, so one was measured: psi moves towards that."]


def _parts_left(lia: LIA) -> list[str]:
    left = []
    if lia.mapping is not None:
        left.append("The invertible mapping stays behind: the original one is here, so a seed gives the original's image.")
    if lia.encoder is not None:
        left.append("The encoder stays behind; lia-adapt export --to torch or onnx takes it along.")
    return left


def _note(lia: LIA, program: str, parts: Mapping[Path, ExportedFile], left: Sequence[str]) -> str:
    source = lia.provenance.get("source", "a generator")
    first = next(iter(parts))
    lines = [
        f"# {first.name}", "", f"The weights of {source} for {program}, written by lia-adapt export.", "", "```python",
        "from safetensors.torch import load_file",
    ]  # fmt: skip
    for path, part in parts.items():
        lines += ["", *(line.replace("FILE", path.name) for line in part.code)]
    lines.append("```")
    if left:
        lines += ["", *(f"- {sentence}" for sentence in left)]
    return "\n".join(lines) + "\n"
