"""How long does reading a checkpoint take, and how much memory, next to reading and hashing its bytes?

    python benchmarks/read_checkpoint.py [--megabytes 380] [--repeats 5]

A file of the size and shape of NVlabs' ffhq.pkl (StyleGAN2, 1024x1024: G, D and G_ema) is written to a temporary
folder. Each measurement runs in a fresh process, floor and reader in turn. Aims: at most 2 times the floor's time, and
a peak memory of at most 1.3 times the file above an interpreter that has only imported torch. Linux only.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from lia_adapter.checkpoints.decoder import Call  # noqa: E402
from tests import pickles  # noqa: E402

_MEASURE = """
import hashlib, json, sys, time
import torch
from lia_adapter.checkpoints import read_checkpoint

def peak():
    # ru_maxrss would begin at the size of the process that started this one.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024

path, what = sys.argv[1:]
bare = peak()
start = time.perf_counter()
if what == "floor":
    with open(path, "rb") as stream:
        hashlib.sha256(stream.read()).hexdigest()
else:
    checkpoint = read_checkpoint(path)
print(json.dumps({"seconds": time.perf_counter() - start, "bytes": peak() - bare}))
"""


class _Weights(pickles.Networks):
    """Networks of StyleGAN2's real depth; all weights of one shape share their bytes until they are written."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.made: dict[tuple[int, ...], torch.Tensor] = {}

    def tensor(self, name: str, *shape: int) -> torch.Tensor:
        return self.made.setdefault(shape, torch.randn(shape, generator=self.random))

    def big_generator(self, levels: int) -> Call:
        blocks = {}
        for index in range(levels):
            name, width, size = f"b{4 << index}", self._width(index), (4 << index, 4 << index)
            into = self._width(index - 1) if index else 0
            tensors = {"resample_filter": self.tensor("", 4, 4)}
            modules = {"conv1": self.layer("", width, width, size, up=1)}
            if index:
                modules["conv0"] = self.layer("", width, into, size, up=2)
            else:
                tensors["const"] = self.tensor("", width, *size)
            torgb = {"weight": self.tensor("", 3, width, 1, 1), "bias": self.tensor("", 3)}
            modules["torgb"] = self.module("ToRGBLayer", torgb, {"affine": self.dense("", width, 8)}, conv_clamp=None)
            state = {"architecture": "skip", "in_channels": into, "is_last": index == levels - 1}
            blocks[name] = self.module("SynthesisBlock", tensors, modules, **state)
        parts = {
            "synthesis": self.module("SynthesisNetwork", {}, blocks),
            "mapping": self.mapping("", 6, 0, average=True),
        }
        return self.module("Generator", {}, parts, z_dim=6, c_dim=0, w_dim=8, num_ws=2 * levels, img_channels=3)

    def big_discriminator(self, levels: int) -> Call:
        blocks = {}
        for index in range(levels - 1, 0, -1):
            wide, narrow = self._width(index - 1), self._width(index)
            modules = {
                "conv0": self.conv("", narrow, narrow, 3),
                "conv1": self.conv("", wide, narrow, 3, down=2),
                "skip": self.conv("", wide, narrow, 1, down=2, bias=False),
            }
            if index == levels - 1:
                modules["fromrgb"] = self.conv("", narrow, 3, 1)
            state = {"architecture": "resnet", "in_channels": narrow if index < levels - 1 else 0}
            filters = {"resample_filter": self.tensor("", 4, 4)}
            blocks[f"b{4 << index}"] = self.module("DiscriminatorBlock", filters, modules, **state)
        width = self._width(0)
        last = {
            "mbstd": self.module("MinibatchStdLayer", {}, {}, group_size=4, num_channels=1),
            "conv": self.conv("", width, width + 1, 3),
            "fc": self.dense("", width, 16 * width, activation="lrelu"),
            "out": self.dense("", 1, width),
        }
        state = {"architecture": "resnet", "in_channels": width, "cmap_dim": 0}
        blocks["b4"] = self.module("DiscriminatorEpilogue", {}, last, **state)
        return self.module("Discriminator", {}, blocks, c_dim=0, img_channels=3)

    def _width(self, index: int) -> int:
        return max(8, min(self.width, self.width * 16 >> index))


def write(path: Path, megabytes: int) -> None:
    """Write a file of roughly this size, network by network.

    Args:
        path: Where to.
        megabytes: Its size; the networks' width is chosen for it.
    """
    # The 512 channels of the original make 331 MB; the size grows with the square.
    networks = _Weights(int(512 * (megabytes / 331) ** 0.5) // 8 * 8)
    makers: dict[str, Callable[[int], Call]] = {
        "G": networks.big_generator,
        "D": networks.big_discriminator,
        "G_ema": networks.big_generator,
    }

    def parts() -> Iterator[bytes]:
        yield b"\x80\x04}"
        for key, make in makers.items():
            # One network at a time, each with its own memo: they share nothing.
            yield pickles.dumps(key)[2:-1] + pickles.dumps(make(9))[2:-1] + b"s"
        yield b"."

    with path.open("wb") as stream:
        stream.writelines(parts())


def measure(path: Path, what: str) -> dict[str, float]:
    """Time and peak memory of one run in a fresh process.

    Args:
        path: The checkpoint.
        what: "floor" or "reader".
    """
    command = [sys.executable, "-c", _MEASURE, str(path), what]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def main() -> None:
    """Measure, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--megabytes", type=int, default=380)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "synthetic.pkl"
        write(path, options.megabytes)
        size = path.stat().st_size
        measure(path, "floor")  # the file is in the system's cache from here on
        runs: dict[str, list[dict[str, float]]] = {"floor": [], "reader": []}
        for _ in range(options.repeats):
            for what, results in runs.items():
                results.append(measure(path, what))
    seconds = {what: statistics.median(run["seconds"] for run in results) for what, results in runs.items()}
    peak = max(run["bytes"] for run in runs["reader"])
    print(f"file     {size / 1e6:.0f} MB")
    print(f"floor    {seconds['floor']:.3f} s (read and sha256)")
    print(f"reader   {seconds['reader']:.3f} s, {seconds['reader'] / seconds['floor']:.2f} times the floor (aim: 2)")
    print(f"memory   {peak / size:.2f} times the file (aim: 1.3)")


if __name__ == "__main__":
    main()
