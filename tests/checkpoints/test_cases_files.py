"""The collected files that went wrong once: checkpoints. What each of them is stands in its README."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lia_adapter.canonical import generator2
from lia_adapter.checkpoints import Checkpoint, inspect_file, read_checkpoint
from lia_adapter.errors import CheckpointError
from lia_adapter.generators import build

ROSINALITY, NVLABS, TENSORFLOW = "ros_train.pt", "sg2ada_state_dict.pt", "sg2_tf_uncond.pkl"
# The file, and the one whose generator it holds.
EQUAL = {
    "fsdp2-dtensor/dtensor.pt": ROSINALITY,
    "harmless-builtins/len.pt": ROSINALITY,
    "harmless-builtins/partial-max.pt": ROSINALITY,
    "lightning-called-mmagic/lightning.ckpt": ROSINALITY,
    "noise-silently-dropped/attribute.pt": ROSINALITY,
    "noise-silently-dropped/numpy.pt": ROSINALITY,
    "numpy-protocol5/sg2_tf_uncond-p5.pkl": TENSORFLOW,
    "prefixes/compiled-nv.pt": NVLABS,
    "prefixes/compiled.pt": ROSINALITY,
    "prefixes/lightning.ckpt": ROSINALITY,
    "prefixes/prefix.safetensors": ROSINALITY,
    "prefixes/swa.pt": ROSINALITY,
    "valid-called-damaged/rezipped.pt": ROSINALITY,
    "wrapper-keys/nv-model_state_dict.pt": NVLABS,
    "wrapper-keys/nv-params_ema.pt": NVLABS,
    "wrapper-keys/ros-generator.pt": ROSINALITY,
    "wrapper-keys/ros-model.pt": ROSINALITY,
    "wrapper-keys/ros-state_dict.pt": ROSINALITY,
    "wrong-average/ros_compiled.pt": ROSINALITY,
}
SAID = {
    "nan-weights/nan.pt": "convs.2.conv.weight holds values that are not finite",
    "tar/ckpt.tar": "a tar archive with ckpt.pt in it",
    "tar/ckpt.tar.gz": "a tar archive packed with gzip, with ckpt.pt in it",
    "valid-called-damaged/float8.safetensors": "is of type F8_E4M3, which is not read",
    "valid-called-damaged/torchscript.pt": "a TorchScript archive",
}


def generator(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in checkpoint.tensors.items() if name.startswith("generator.")}


def case(shared: Path, name: str) -> Path:
    path = shared / "cases" / name
    if not path.exists():
        pytest.skip(f"needs {name} of ../shared/cases, which is not part of the project")
    return path


@pytest.mark.parametrize("name", EQUAL)
def test_read_as_what_it_is(shared: Path, name: str) -> None:
    found, expected = read_checkpoint(case(shared, name)), read_checkpoint(shared / "checkpoints" / EQUAL[name])
    tensors = generator(expected)
    assert generator(found).keys() == tensors.keys()
    assert all(torch.equal(generator(found)[name], tensor) for name, tensor in tensors.items())
    assert not any("mmagic" in note or "no noise image" in note for note in found.notes)


def test_the_average_of_a_compiled_basicsr(shared: Path) -> None:
    found = read_checkpoint(case(shared, "wrong-average/basicsr_compiled.pth"))
    stored = torch.load(case(shared, "wrong-average/basicsr_compiled.pth"), weights_only=True)
    const = {name: tensor for name, tensor in stored["params_ema"].items() if name.endswith("constant_input.weight")}
    assert torch.equal(found.tensors["generator.synthesis.b4.const"], *[tensor[0] for tensor in const.values()])
    assert not torch.equal(found.tensors["generator.synthesis.b4.const"], stored["params"]["constant_input.weight"][0])


@pytest.mark.parametrize("name", SAID)
def test_named_for_what_it_is(shared: Path, name: str) -> None:
    problem = inspect_file(case(shared, name)).problem
    assert problem is not None and SAID[name] in problem
    assert "damaged" not in problem and "attack" not in problem and "Delete" not in problem


def test_a_folder_of_torch_distributed_checkpoint(tmp_path: Path) -> None:
    make = (
        "import sys, torch, torch.distributed.checkpoint as checkpoint;"
        "checkpoint.save({x: torch.ones(3) for x in 'ab'}, checkpoint_id=sys.argv[1])"
    )
    folder = tmp_path / "dcp"
    subprocess.run([sys.executable, "-W", "ignore", "-c", make, str(folder)], check=True, capture_output=True)
    shutil.copy(folder / "__0_0.distcp", tmp_path / "renamed.pt")
    for path in (folder, folder / ".metadata", folder / "__0_0.distcp", tmp_path / "renamed.pt"):
        with pytest.raises(CheckpointError, match="format_utils dcp_to_torch FOLDER FILE") as caught:
            read_checkpoint(path)
        assert "damaged" not in str(caught.value) and "attack" not in str(caught.value)


def test_the_pickle_of_an_unpacked_file(shared: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(shared / "checkpoints" / ROSINALITY, tmp_path / "x", "zip")
    (path,) = (tmp_path / "x").rglob("data.pkl")
    with pytest.raises(CheckpointError, match=r"without the numbers .* Pass the whole \.pt file"):
        read_checkpoint(path)


def test_four_channels(shared: Path) -> None:
    found = read_checkpoint(case(shared, "alpha-dropped/rgba.pt"))
    drawn, _ = build(found.family, found.config, found.tensors)
    assert drawn is not None and generator2(found.config)["channels"] == 4
