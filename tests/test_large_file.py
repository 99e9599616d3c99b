"""A file of full size: StyleGAN2 config-f at 1024x1024, with random weights."""

import subprocess
import sys
from pathlib import Path

import torch

from lia_adapter.generators import Discriminator, StyleGAN2, stylegan2_config

_GIGABYTE = 2**30
_SAMPLE = """
import sys
from lia_adapter import load

image = load(sys.argv[1]).sample([0])
assert image.shape == (1, 3, 1024, 1024) and image.isfinite().all() and image.std() > 0
with open("/proc/self/status") as status:
    print(next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024)
"""


def test_is_read_built_and_sampled_in_3_gigabytes(tmp_path: Path) -> None:
    config = stylegan2_config(1024)
    generator, discriminator = StyleGAN2(config["generator"]), Discriminator(config["discriminator"])
    path = tmp_path / "network.pt"
    weights = generator.state_dict()
    torch.save({"G": {k: t.clone() for k, t in weights.items()}, "G_ema": weights, "D": discriminator.state_dict()}, path)
    assert path.stat().st_size > 0.33 * _GIGABYTE
    done = subprocess.run([sys.executable, "-c", _SAMPLE, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 3 * _GIGABYTE
