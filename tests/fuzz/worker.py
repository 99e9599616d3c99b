"""One target under libFuzzer, in a process of its own: `python -m tests.fuzz.worker TARGET FOLDER SCRATCH RUNS`.

libFuzzer ends the process itself. What it does not tell is written to FOLDER/facts.json: how many inputs were read, the slowest
and the largest execution, and every failure with the input that caused it. A failure does not stop the fuzzing; a hang does.
"""

import gc
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:  # importing it imports the package, which is to be instrumented first
    from tests.fuzz.targets import Target

__all__ = ["MAX_BYTES", "MAX_SECONDS", "Facts", "Watch"]

MAX_SECONDS = 2.0
"""Of the processor's time, an execution: time on the clock would be that of other programs, too."""
MAX_BYTES = 300 * 10**6
"""Of memory, an execution."""
_HANG = 20.0
"""Of the processor's time, after which an execution is broken off."""
_STUCK = 1200
"""Seconds on the clock after which libFuzzer ends the process: in compiled code nothing can be broken off."""
_MOST_FAILURES = 50


@dataclass
class Facts:
    """What is known of the executions so far.

    Attributes:
        runs: How many there were.
        read: How many inputs were read rather than refused.
        seconds: Of the slowest.
        bytes: Of the largest.
        failures: What went wrong and where, and the name of the file with the first input that did it.
    """

    runs: int = 0
    read: int = 0
    seconds: float = 0.0
    bytes: int = 0
    failures: dict[str, str] = field(default_factory=dict)


class _Hang(BaseException):
    """Raised in the midst of an execution; no error that code of ours would take for one of a file's."""


class Watch:
    """Runs inputs and keeps the facts.

    Args:
        target: What is run.
        folder: Where inputs that fail are put.
        scratch: A folder for the files of an execution.
        last: The run after which the facts are written for good, as the process then ends without a word.
    """

    def __init__(self, target: "Target", folder: Path, scratch: Path, last: int) -> None:
        self.target, self.folder, self.scratch, self.last = target, folder, scratch / "input", last
        self.facts = Facts()
        signal.signal(signal.SIGPROF, _break_off)

    def __call__(self, content: bytes) -> None:
        """Runs one input."""
        from tests.fuzz.targets import attempt

        facts, failure = self.facts, None
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir()
        before = _forget_peak()
        start = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, _HANG)
        try:
            facts.read += attempt(self.target, content, self.scratch)
        except (Exception, _Hang) as error:
            failure = _place(error)
        signal.setitimer(signal.ITIMER_PROF, 0)
        seconds, size = time.process_time() - start, _peak() - before
        facts.runs += 1
        facts.seconds, facts.bytes = max(facts.seconds, seconds), max(facts.bytes, size)
        if failure is None and seconds > MAX_SECONDS:
            failure = f"took more than {MAX_SECONDS} s"
        if failure is None and size > MAX_BYTES:
            failure = f"took more than {MAX_BYTES / 1e6:.0f} MB"
        if failure is not None and failure not in facts.failures and len(facts.failures) < _MOST_FAILURES:
            path = self.folder / f"failure-{hashlib.sha256(content).hexdigest()[:12]}"
            path.write_bytes(content)
            facts.failures[failure] = path.name
            print(f"FAILURE: {failure}: {path}", file=sys.stderr, flush=True)
        if failure is not None or facts.runs % 1000 == 0 or facts.runs >= self.last:
            self.write()

    def write(self) -> None:
        """Writes the facts."""
        (self.folder / "facts.json").write_text(json.dumps(asdict(self.facts), indent=1))


def _break_off(number: int, frame: FrameType | None) -> NoReturn:
    raise _Hang


def _place(error: BaseException) -> str:
    """Kind of an error, and the innermost line of ours that it went through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "lia_adapter" in frame.filename] or frames
    return f"{type(error).__name__} at {'/'.join(Path(ours[-1].filename).parts[-2:])}:{ours[-1].lineno}"


def _forget_peak() -> int:
    """Makes Linux measure the peak of the memory anew; its present size in bytes."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _peak() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024


def main(name: str, folder: Path, scratch: Path, runs: int) -> None:
    """Fuzzes one target; does not return."""
    os.environ["LIA_OPS"] = "reference"  # no compiler for a few small networks
    import atheris  # an extra: whoever only reads this file, as pytest does, needs none

    # Before the instrumentation begins: other people's code is not what is looked at.
    import torch
    import torchvision  # noqa: F401

    with atheris.instrument_imports(include=["lia_adapter"]):
        from tests.fuzz.targets import TARGETS
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # they would fill the log
    target, watch = TARGETS[name], Watch(TARGETS[name], folder, scratch, runs)
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    seeds = target.seeds()
    for seed in seeds:
        (corpus / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
        watch(seed)  # whatever is imported or built at first use is no cost of an input
    watch.facts = Facts()
    gc.freeze()

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        mutated = target.mutate(data, random.Random(seed), lambda part: atheris.Mutate(part, len(part) + 64))
        return mutated[:max_size]

    longest = max(len(path.read_bytes()) for path in corpus.iterdir())
    options = {
        "runs": runs, "max_len": 2 * longest + 4096, "len_control": 0, "mutate_depth": 1, "timeout": _STUCK,
        "rss_limit_mb": 4096, "artifact_prefix": f"{folder}/stopped-",
    }  # fmt: skip
    arguments = [f"-{key}={value}" for key, value in options.items()]
    atheris.Setup([sys.argv[0], *arguments, str(corpus)], watch, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
