"""The main jobs on a 512² generator, each in a process whose memory is limited."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from lia_adapter.data import open_images
from tests import toys

GB = 2**30
MAPPED = "import torch, lia_adapter.cli; print(open('/proc/self/statm').read().split()[0])"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits what a process maps, as Linux counts it"),
]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a StyleGAN2 of 512² and usual widths, and photographs."""
    folder = tmp_path_factory.mktemp("sizes")
    lia = toys.stylegan(resolution=512, z_dim=512, y_dim=512, channel_base=32768)
    lia.save(folder / "g.safetensors")
    photographs = folder / "photographs"
    photographs.mkdir()
    faces = open_images("toyfaces", (512, 512), 3)
    for i in range(10):  # the least that evaluate takes
        faces.original(i).save(photographs / f"{i}.jpg")
    return folder


@pytest.fixture(scope="module")
def base() -> int:
    """Bytes that a process maps when all is imported: libraries for the most part."""
    pages = subprocess.run([sys.executable, "-c", MAPPED], check=True, capture_output=True, text=True).stdout
    return int(pages) * resource.getpagesize()


def limited(work: Path, limit: int, *args: str) -> subprocess.CompletedProcess[str]:
    """A command of lia-adapt that may map so many bytes."""
    return subprocess.run(
        [sys.executable, "-m", "lia_adapter", *args], cwd=work, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        env=os.environ | {"MALLOC_ARENA_MAX": "2"},  # each arena maps memory that it does not use
    )  # fmt: skip


CONVERT = ("steps=5", "eval_seeds=1", "eval_samples=1000", "statistics_samples=5000", "image_seconds=1")


@pytest.mark.timeout(1800)
def test_each_job_within_its_memory(work: Path, base: int) -> None:
    """In a build that draws 32 or 50 of such pictures at once (635e070), sample and convert end in errors of the allocator."""
    jobs: dict[str, tuple[float, tuple[str, ...]]] = {
        "inspect": (0.5, ("inspect", "g.safetensors")),
        "sample": (1.5, ("sample", "g.safetensors", "--seeds", "0-15", "-o", "s.png")),
        "convert": (2.5, ("convert", "g.safetensors", "-o", "c.safetensors", *CONVERT)),
        "train-encoder": (
            3.5, ("train-encoder", "c.safetensors", "--data", "photographs", "--recipe", "encoder-cpu", "-o", "e.safetensors",
                  "images=16", "batch=8", "statistics_samples=5000", "check_seconds=10"),
        ),
        "encode": (2.0, ("encode", "e.safetensors", "photographs", "-o", "codes.safetensors")),
        "reconstruct": (2.0, ("reconstruct", "e.safetensors", "photographs", "-o", "drawn")),
        "evaluate": (2.5, ("evaluate", "e.safetensors", "--data", "photographs", "-o", "figures.json")),
        "invert": (2.5, ("invert", "e.safetensors", "photographs", "--steps", "2", "-o", "i.safetensors")),
    }  # fmt: skip
    for name, (gigabytes, args) in jobs.items():
        done = limited(work, base + int(gigabytes * GB), *args)
        assert done.returncode == 0, (name, done.stderr[-2000:])
    assert Image.open(work / "s.png").size == (4 * 512, 4 * 512)
    assert len(list((work / "drawn").glob("?.png"))) == 10


@pytest.mark.timeout(600)
def test_where_memory_does_not_do_it_ends_in_one_line(work: Path, base: int) -> None:
    for limit in (base + GB // 8, base + GB // 3):
        done = limited(work, limit, "sample", "g.safetensors", "--seeds", "0-3", "-o", "small.png")
        assert done.returncode == 2, done.stderr[-2000:]
        *told, last = done.stderr.strip().splitlines()
        assert last.startswith("lia-adapt: ") and ("memory" in last or " are free on cpu" in last), done.stderr[-2000:]
        assert "Traceback" not in done.stderr and not (work / "small.png").exists()
    done = limited(work, resource.RLIM_INFINITY, "sample", "g.safetensors", "-o", "small.png", "--memory", "100MB")
    assert done.returncode == 2 and "Give --memory" in done.stderr
