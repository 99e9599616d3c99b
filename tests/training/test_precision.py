"""What the key `precision` of a recipe means."""

import pytest
import torch

from lia_adapter.keys import PRECISIONS
from lia_adapter.loop import read_precision


@pytest.mark.parametrize("name", PRECISIONS)
def test_precision_on_a_cpu(name: str) -> None:
    dtype, half = read_precision(name, torch.device("cpu"))
    assert dtype == (torch.float64 if name == "float64" else torch.float32)
    assert half == (name == "bfloat16")


@pytest.mark.parametrize("supported", [True, False])
def test_auto_asks_a_gpu(monkeypatch: pytest.MonkeyPatch, supported: bool) -> None:
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: supported)
    assert read_precision("auto", torch.device("cuda")) == (torch.float32, supported)
    assert read_precision("float32", torch.device("cuda")) == (torch.float32, False)
