"""Bare weights: state dicts in .pt and .safetensors, and what is said of those that do not fit."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lia_adapter.checkpoints import read_checkpoint
from lia_adapter.errors import CheckpointError
from lia_adapter.generators import build
from tests import toys

Weights = dict[str, Tensor]


def weights() -> Weights:
    """Of a generator, in canonical names."""
    lia = toys.stylegan(c_dim=3)
    return {name: tensor.clone() for name, tensor in lia.generator.state_dict().items()}


def write(path: Path, tensors: Weights) -> Path:
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=path.suffix == ".pt")
    return path


@pytest.mark.parametrize("name", ["g.safetensors", "g.pt", "g.pth"])  # .pth: torch's old, unzipped form
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_come_back_bit_for_bit(tmp_path: Path, name: str, prefix: str) -> None:
    stored = weights()
    checkpoint = read_checkpoint(write(tmp_path / name, {prefix + key: tensor for key, tensor in stored.items()}))
    generator, discriminator = build(checkpoint.family, checkpoint.config, checkpoint.tensors)
    assert generator is not None and discriminator is None
    found = generator.state_dict()
    assert found.keys() == stored.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in stored.items())


def test_a_dict_of_state_dicts(tmp_path: Path) -> None:
    lia = toys.stylegan()
    g, d = lia.generator.state_dict(), lia.discriminator.state_dict()  # type: ignore[union-attr]
    torch.save({"G": {key: tensor + 1 for key, tensor in g.items()}, "G_ema": g, "D": d, "step": 3}, tmp_path / "x.pt")
    checkpoint = read_checkpoint(tmp_path / "x.pt")
    assert torch.equal(checkpoint.tensors["generator.synthesis.b4.const"], g["synthesis.b4.const"])
    assert torch.equal(checkpoint.tensors["discriminator.b4.fc.weight"], d["b4.fc.weight"])
    x = torch.rand(4, 3, 8, 8)
    _, discriminator = build(checkpoint.family, checkpoint.config, checkpoint.tensors)
    with torch.no_grad():
        assert discriminator is not None and lia.discriminator is not None
        torch.testing.assert_close(discriminator(x), lia.discriminator(x), rtol=0, atol=1e-6)


def drop(key: str) -> Callable[[Weights], None]:
    return lambda tensors: tensors.__delitem__(key)


def put(key: str, *shape: int) -> Callable[[Weights], None]:
    return lambda tensors: tensors.__setitem__(key, torch.zeros(shape))


@pytest.mark.parametrize("name", ["g.safetensors", "g.pt"])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (drop("synthesis.b8.conv0.weight"), r"synthesis\.b8\.conv0\.weight is missing"),
        (drop("synthesis.b8.conv1.affine.bias"), r"synthesis\.b8\.conv1\.affine\.bias is missing"),
        (drop("mapping.fc1.weight"), "no place in its structure: mapping.fc"),
        (put("synthesis.b8.conv1.gate", 3), r"no place in its structure: synthesis\.b8\.conv1\.gate"),
        (put("synthesis.b8.conv1.bias", 3), r"synthesis\.b8\.conv1\.bias has shape \[3\], and"),
        (put("synthesis.b8.conv0.weight", 8, 5, 3, 3), r"synthesis\.b8\.conv0\.weight has shape"),
        (put("synthesis.b32.conv1.weight", 8, 8, 3, 3), "twice the size"),
        (put("mapping.embed.weight", 99, 3), "fewer than its label's 99"),
        (put("synthesis.b4.const", 0, 4, 4), "has shape"),
        (put("synthesis.b8.conv1.weight", 8, 8), "4 axes were expected"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, name: str, spoil: Callable[[Weights], None], said: str) -> None:
    tensors = weights()
    spoil(tensors)
    with pytest.raises(CheckpointError, match=said) as refusal:
        read_checkpoint(write(tmp_path / name, tensors))
    assert "\n" not in str(refusal.value)


def raw(header: object, numbers: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def entry(first: int, last: int, *shape: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [first, last]}


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"a": entry(0, 8, 2), "b": entry(0, 8, 2)}, "its tensors need 16 bytes"),  # on top of each other
        ({"a": entry(0, 16, 4)}, "do not fit its shape"),
        ({"a": entry(0, 8, 2**61)}, "do not fit its shape"),
        ({"a": entry(8, 0, 2)}, "do not fit its shape"),
        ({"a": entry(0, 8, -2)}, "is not valid"),
        ({"a": entry(0, 8, 2, dtype="F8_E5M2")}, "a is of type F8_E5M2, which is not read"),
        ({"a": 3}, "is not valid"),
        ({"a": entry(0, 4, 1)}, "need 4 bytes"),
        ({"synthesis.b4.const": entry(0, 8, 2), "mapping.fc0.weight": entry(8, 8, 2**50, 0)}, "has no valid shape"),
        ({"a": entry(0, 8, 2), "b": entry(8, 8, 2**70, 0)}, "is not valid"),
        ({"a": entry(0, 8, 2), "__metadata__": {"x": "y" * 2**23}}, "are allowed"),
    ],
)
def test_damaged_safetensors(tmp_path: Path, header: object, said: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(raw(header, bytes(8)))
    with pytest.raises(CheckpointError, match=said):
        read_checkpoint(tmp_path / "x.safetensors")


def test_weights_of_something_else_are_named(tmp_path: Path) -> None:
    save_file({"layer4.1.conv2.weight": torch.zeros(2), "fc.weight": torch.zeros(2)}, tmp_path / "r.safetensors")
    with pytest.raises(CheckpointError, match="holds a classifier, which cannot be converted: it makes no images"):
        read_checkpoint(tmp_path / "r.safetensors")
    save_file({"model.diffusion_model.x": torch.zeros(2)}, tmp_path / "d.safetensors")
    with pytest.raises(CheckpointError, match="a diffusion model"):
        read_checkpoint(tmp_path / "d.safetensors")
