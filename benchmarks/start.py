"""What it costs to ask the command line something: CPU time and memory of whole processes, in turn with another build.

    python benchmarks/start.py --against ../old-build/.venv/bin/lia-adapt

Each row is a process that is run several times, in turn with the other build; ratios are of medians. The targets: help,
version and completion cost at most 1/15 of the CPU time and 1/10 of the memory of build 053c8ec, which imported torch
first, and `import lia_adapter` at most 1.15 x `import torch`.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

COMMANDS = {
    "--help": (["--help"], {}),
    "--version": (["--version"], {}),
    "convert --help": (["convert", "--help"], {}),
    "train-encoder --help": (["train-encoder", "--help"], {}),
    "evaluate --help": (["evaluate", "--help"], {}),
    "completion": ([], {"_LIA_ADAPT_COMPLETE": "bash_complete", "COMP_WORDS": "lia-adapt export --to ", "COMP_CWORD": "3"}),
}


def cost(command: Sequence[str], extra: Mapping[str, str]) -> tuple[float, float]:
    """CPU seconds and megabytes at most of a process."""
    process = subprocess.Popen(  # noqa: S603
        command, env=os.environ | extra, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    megabyte = 2**20 if sys.platform == "darwin" else 2**10
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / megabyte


def compare(rows: Mapping[str, tuple[Sequence[str], Mapping[str, str]]], repeats: int) -> dict[str, tuple[float, float]]:
    """Median costs by name, the processes in turn."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
    for turn in range(repeats + 1):
        for name, (command, extra) in rows.items():
            measured = cost(command, extra)
            if turn:  # the first time reads the files from the disk
                found[name].append(measured)
    return {
        name: (statistics.median(cpu for cpu, _ in runs), statistics.median(memory for _, memory in runs))
        for name, runs in found.items()
    }


def main() -> None:
    """Runs all and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", help="lia-adapt of another build")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    here = str(Path(sys.executable).with_name("lia-adapt"))
    print("process                CPU s this  other  ratio   MB this  other  ratio")
    for name, (words, extra) in COMMANDS.items():
        rows = {"this": ([here, *words], extra)} | ({"other": ([args.against, *words], extra)} if args.against else {})
        costs = compare(rows, args.repeats)
        cpu, memory = costs["this"]
        other_cpu, other_memory = costs.get("other", (float("nan"), float("nan")))
        print(
            f"{name:<22} {cpu:10.2f} {other_cpu:6.2f} {other_cpu / cpu:6.1f} {memory:9.0f} {other_memory:6.0f}"
            f" {other_memory / memory:6.1f}",
            flush=True,
        )
    rows = {name: ([sys.executable, "-c", f"import {name}"], {}) for name in ("torch", "lia_adapter")}
    whole = "import lia_adapter; [getattr(lia_adapter, name) for name in lia_adapter.__all__]"
    costs = compare(rows | {"all of lia_adapter": ([sys.executable, "-c", whole], {})}, args.repeats)
    for name in ("lia_adapter", "all of lia_adapter"):
        cpu, memory = (a / b for a, b in zip(costs[name], costs["torch"], strict=True))
        print(f"import {name}: {cpu:.2f} x import torch in CPU time, {memory:.2f} x in memory")
    print(f"largest process: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10:.0f} MB")


if __name__ == "__main__":
    main()
