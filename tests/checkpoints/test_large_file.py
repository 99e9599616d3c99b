"""A file of full size: StyleGAN2 config-f at 1024x1024, with random weights."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lia_adapter.generators import build_random, stylegan2_config
from lia_adapter.lia import LIA

_GIGABYTE, _MEGABYTE = 2**30, 2**20
_MEASURE = """
import json, sys
import torch

def memory():
    # ru_maxrss would begin at the size of the process that started this one.
    with open("/proc/self/status") as status:
        fields = dict(line.split(":") for line in status)
    return {name: int(fields[name].split()[0]) * 1024 for name in ("VmHWM", "VmRSS")}

torch.randn(9)
bare = memory()["VmRSS"]
"""
_SAMPLE = """
from lia_adapter import load

lia = load(sys.argv[1])
loaded = memory()
image = lia.sample([0])
assert image.shape == (1, 3, 1024, 1024) and image.isfinite().all() and image.std() > 0
weights = sum(tensor.nbytes for tensor in lia.state_dict().values())
print(json.dumps([weights, loaded["VmHWM"] - bare, loaded["VmRSS"] - bare, memory()["VmHWM"]]))
"""
_INSPECT = """
from lia_adapter.cli.main import main

sys.argv[:1] = ["lia-adapt", "inspect"]
try:
    main()
finally:
    print(json.dumps(memory()["VmHWM"] - bare))
"""
_SAVE = """
from lia_adapter import load

load(sys.argv[1]).save(sys.argv[1] + ".again.safetensors")
print(json.dumps(memory()["VmHWM"] - bare))
"""


def measured(code: str, path: Path) -> Any:
    done = subprocess.run([sys.executable, "-c", _MEASURE + code, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module", params=["checkpoint", "LIA file"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = stylegan2_config(1024)
    generator, discriminator = build_random("stylegan2", config)
    made = tmp_path_factory.mktemp("large") / "network.safetensors"
    if request.param == "checkpoint":
        weights = generator.state_dict()
        torch.save({"G": {k: t.clone() for k, t in weights.items()}, "G_ema": weights, "D": discriminator.state_dict()}, made)
        assert made.stat().st_size > 0.33 * _GIGABYTE
    else:
        LIA(generator, discriminator=discriminator, family="stylegan2", config=config).save(made)
    return made


def test_is_read_built_and_sampled_in_3_gigabytes(path: Path) -> None:
    weights, most, kept, sampled = measured(_SAMPLE, path)
    size = path.stat().st_size
    assert most < size + 100 * _MEGABYTE
    assert kept < weights + 60 * _MEGABYTE  # what the program itself needs, and nothing else of the file
    assert sampled < 3 * _GIGABYTE


def test_is_inspected_in_its_own_size(path: Path) -> None:
    assert measured(_INSPECT, path) < path.stat().st_size + 100 * _MEGABYTE


def test_is_saved_without_a_second_copy(path: Path) -> None:
    assert measured(_SAVE, path) < path.stat().st_size + 100 * _MEGABYTE
