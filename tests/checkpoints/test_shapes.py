"""Tensors of wrong shapes, one at a time in every fixture: a file is refused in our own words or read, nothing else."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lia_adapter.checkpoints import FAMILIES, tables
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.files import read_document, read_file
from lia_adapter.errors import CheckpointError
from lia_adapter.generators import build, build_encoder

CHECKPOINTS = Path(__file__).parents[3] / "shared" / "checkpoints"
FORMATS = {
    "rosinality-pt", "basicsr-pth", "psp-e4e-pt", "mmagic-pth", "genforce-pth", "idinvert-pth", "idinvert-encoder-pth",
    "huangzh13-pth", "lernapparat-pt", "nvlabs-state-dict-pt",
}  # fmt: skip


def files() -> list[str]:
    manifest = CHECKPOINTS / "MANIFEST.json"
    found = json.loads(manifest.read_text())["fixtures"] if manifest.exists() else {}
    return sorted(f["checkpoint"] for f in found.values() if f["format"] in FORMATS) or ["../shared is absent"]


def other_shapes(tensor: Tensor) -> Iterator[tuple[int, ...]]:
    """Of another number of dimensions, with nothing in them, and of other sizes."""
    shape = tuple(tensor.shape)
    yield from {(), (0,), (*shape, 1), (2, *shape), shape[1:], tuple(0 for _ in shape), shape[::-1]} - {shape}


@pytest.mark.parametrize("name", files())
def test_wrong_shapes(name: str, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = read_document(read_file(shared / "checkpoints" / name))
    family = next(family for family in FAMILIES if family.matches(document))
    asked: dict[str, Tensor] = {}
    real = tables.Table.tensor

    def note(self: tables.Table, key: str) -> Tensor:
        asked[key] = real(self, key)
        return asked[key]

    monkeypatch.setattr(tables.Table, "tensor", note)
    family.read(document, "")
    assert asked
    # Not all: a tensor of each kind is enough, and kinds differ by what is left of their names without the numbers.
    kinds = {"".join(letter for letter in key if not letter.isdigit()): key for key in asked}
    for spoilt in kinds.values():
        for shape in other_shapes(asked[spoilt]):
            _read_with(document, family, spoilt, shape, real, monkeypatch)


def _read_with(
    document: Document, family: object, spoilt: str, shape: tuple[int, ...], real: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(self: tables.Table, key: str) -> Tensor:
        return torch.zeros(shape) if key == spoilt else real(self, key)  # type: ignore[operator]

    monkeypatch.setattr(tables.Table, "tensor", spoil)
    try:
        checkpoint = family.read(document, "")  # type: ignore[attr-defined]
    except CheckpointError as error:
        assert document.name in str(error) and "\n" not in str(error)
    else:  # what is read can be built
        build(checkpoint.family, checkpoint.config, checkpoint.tensors)
        build_encoder(checkpoint.config, checkpoint.tensors)
