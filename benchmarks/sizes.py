"""The main jobs at real sizes: memory and time of whole processes, on a generator with random weights.

    python benchmarks/sizes.py --work sizes/ --side 1024
    python benchmarks/sizes.py --work sizes/ --side 1024 --family stylegan3 --jobs inspect,sample
    python benchmarks/sizes.py --work sizes/ --side 1024 --jobs invert-tune,invert-features,invert-ladder
    python benchmarks/sizes.py --work sizes/ --side 1024 --against ../old-build/.venv/bin/lia-adapt --jobs sample

Each job is a command of lia-adapt, in a process of its own. "memory" is its peak less that of a process that imports torch
alone; "first" is when it says something first. With --against another build runs the same commands, in turn with this one. With
--limit each process may map so much memory at most (`ulimit -v`), beyond what importing torch maps. What convert and
train-encoder made is kept in the folder and used by the jobs after them.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lia_adapter.budget import parse_memory
from lia_adapter.data import open_images
from lia_adapter.generators import build_random, stylegan2_config
from lia_adapter.keys import METHODS
from lia_adapter.lia import LIA

JOBS = ("inspect", "sample", "convert", "train-encoder", "encode", "reconstruct", "evaluate", "invert", "bare")
_METHODS = tuple(f"invert-{method}" for method in METHODS if method != "search")
_PHOTOGRAPHS, _FEW, _FOUR = 100, 24, 4
_BARE = """
import sys, torch
from lia_adapter.lia import load
lia = load(sys.argv[1])
x = torch.zeros(1, 3, *lia.generator.resolution)
with torch.no_grad():
    for _ in range(int(sys.argv[2])):
        lia.synthesize(lia.encode(x))
"""


@dataclass(frozen=True)
class Run:
    """What a process took.

    Attributes:
        seconds: From its start to its end.
        cpu: Seconds of all its threads together.
        first: To the first thing that it said.
        peak: Bytes in memory at most.
        code: Its exit code; negative for a signal.
        last: The last line that it said.
    """

    seconds: float
    cpu: float
    first: float
    peak: int
    code: int
    last: str


def run(command: Sequence[str], limit: int | None = None) -> Run:
    """Runs a command to its end."""

    def bounded() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    start, first, last = time.monotonic(), 0.0, ""
    process = subprocess.Popen(  # noqa: PLW1509
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=bounded
    )
    assert process.stdout is not None
    for line in process.stdout:
        first = first or time.monotonic() - start
        last = line.strip() or last
    _, status, usage = os.wait4(process.pid, 0)
    seconds, cpu = time.monotonic() - start, usage.ru_utime + usage.ru_stime
    return Run(seconds, cpu, first, usage.ru_maxrss * 1024, os.waitstatus_to_exitcode(status), last)


def generator_file(folder: Path, family: str, side: int) -> Path:
    """A LIA file that is not converted yet, of NVlabs' usual widths, with random weights."""
    path = folder / f"{family}-{side}.safetensors"
    if path.exists():
        return path
    torch.manual_seed(0)
    if family == "stylegan2":
        config = stylegan2_config(side)
        generator, discriminator = build_random(family, config)
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.1)
        made = LIA(generator, discriminator=discriminator, family=family, config=config)
    else:
        raise SystemExit(f"no way to make a {family} of random weights: give --file")
    made.provenance = {"source": path.name}
    made.save(path)
    return path


def photographs(folder: Path, n: int, side: int) -> Path:
    """Drawn faces as JPEG files of the generator's size."""
    out = folder / f"photographs-{side}-{n}"
    if not out.exists():
        images = open_images("toyfaces", (side, side), 3)
        out.mkdir(parents=True)
        for i in range(n):
            images.original(i).save(out / f"{i:04d}.jpg", quality=92)
    return out


def commands(cli: str, python: str, file: Path, work: Path, side: int) -> dict[str, list[str]]:
    """The command of each job."""
    lia, encoder, few = work / "c.safetensors", work / "e.safetensors", photographs(work, _FEW, side)
    found = str(work / "found.safetensors")
    many, four = photographs(work, _PHOTOGRAPHS, side), photographs(work, _FOUR, side)
    return {
        "inspect": [cli, "inspect", str(file)],
        "sample": [cli, "sample", str(file), "--seeds", "0-31", "-o", str(work / "s.png")],
        "convert": [cli, "convert", str(file), "-o", str(lia)],
        "train-encoder": [
            cli, "train-encoder", str(lia), "--data", str(few), "--recipe", "encoder-cpu", "-o", str(encoder), "images=64",
        ],
        "encode": [cli, "encode", str(encoder), str(many), "-o", str(work / "codes.safetensors")],
        "reconstruct": [cli, "reconstruct", str(encoder), str(many), "-o", str(work / "drawn")],
        "evaluate": [cli, "evaluate", str(encoder), "--data", str(many), "-o", str(work / "figures.json")],
        "invert": [cli, "invert", str(encoder), str(four), "--steps", "20", "-o", str(work / "better.safetensors")],
        **{
            recipe: [cli, "invert", str(encoder), str(few / "0000.jpg"), "--recipe", recipe, "steps=20", "-o", found]
            for recipe in _METHODS
        },
        "bare": [python, "-c", _BARE, str(encoder), str(_PHOTOGRAPHS)],
    }  # fmt: skip


def main() -> None:
    """Runs the jobs and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--family", default="stylegan2")
    parser.add_argument("--file", type=Path)
    parser.add_argument("--jobs", default=",".join(JOBS))
    parser.add_argument("--against", help="lia-adapt of another build")
    parser.add_argument("--limit", type=parse_memory, help="such as 3GB")
    parser.add_argument("--memory", help="given to every job as LIA_MEMORY")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.memory:
        os.environ["LIA_MEMORY"] = args.memory
    file = args.file or generator_file(args.work, args.family, args.side)
    here = str(Path(sys.executable).with_name("lia-adapt"))
    mapped = "import torch; print(open('/proc/self/statm').read().split()[0])"
    torch_alone = run([sys.executable, "-c", "import torch"])
    start = run([sys.executable, "-c", mapped])
    limit = None if args.limit is None else args.limit + int(start.last) * resource.getpagesize()
    print(f"import torch: {torch_alone.seconds:.1f} s, {torch_alone.peak / 2**20:.0f} MB")
    print("job  build  seconds  CPU seconds  first line, s  memory, MB  exit  last line")
    builds = {"this": here} | ({"other": args.against} if args.against else {})
    for job in args.jobs.split(","):
        for name, cli in builds.items():
            work = args.work if name == "this" else args.work / "other"
            work.mkdir(exist_ok=True)
            found = run(commands(cli, str(Path(cli).with_name("python")), file, work, args.side)[job], limit)
            peak = (found.peak - torch_alone.peak) / 2**20
            figures = f"{found.seconds:.1f}  {found.cpu:.1f}  {found.first:.1f}  {peak:.0f}  {found.code}  {found.last[:90]}"
            print(f"{job}  {name}  {figures}", flush=True)


if __name__ == "__main__":
    main()
