"""Fuzzes every entry point, one after the other, and says what was found.

    python -m tests.fuzz [--runs 1000000] [--corpus .fuzz] [TARGET ...]

It needs atheris (pip install 'lia-adapter[fuzz]') and Linux. The inputs that reach new code are kept in the corpus, so that the
next time begins where this one ended. Exit code 1: an input raised another error than one of ours, took more than 2 s of a
processor or 300 MB, or had a message that cannot be shown; the input lies in the corpus as `failure-...`.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.targets import TARGETS
from tests.fuzz.worker import Facts

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    """What came of one target: see `Facts`; and libFuzzer's own counts."""

    facts: Facts
    covered: int
    features: int
    kept: int
    minutes: float


def fuzz(name: str, folder: Path, runs: int) -> Outcome:
    """Fuzzes one target in a process of its own.

    Args:
        name: Of the target.
        folder: For its inputs and its log.
        runs: Executions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "facts.json").unlink(missing_ok=True)
    start, log = time.monotonic(), folder / "log.txt"
    # Files in memory where that can be had, so that no disk is waited for.
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
    with log.open("wb") as file, tempfile.TemporaryDirectory(dir=memory) as scratch:
        command = [sys.executable, "-m", "tests.fuzz.worker", name, str(folder.resolve()), scratch, str(runs)]
        code = subprocess.run(command, cwd=ROOT, stdout=file, stderr=file).returncode
    text = log.read_text("utf-8", "replace")
    facts = Facts(**json.loads((folder / "facts.json").read_text())) if (folder / "facts.json").exists() else Facts()
    if code or facts.runs < runs:
        facts.failures[f"the process ended after {facts.runs:,} runs with exit code {code}: see its log"] = log.name
    counts = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", text)
    covered, features, kept = map(int, counts[-1]) if counts else (0, 0, 0)
    return Outcome(facts, covered, features, kept, (time.monotonic() - start) / 60)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz every entry point.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; default all")
    parser.add_argument("--runs", type=int, default=1_000_000, help="executions, all targets together")
    parser.add_argument("--corpus", type=Path, default=ROOT / ".fuzz", help="folder for inputs and logs, kept between runs")
    args = parser.parse_args()
    if unknown := set(args.targets) - set(TARGETS):
        parser.error(f"there is no target {', '.join(sorted(unknown))}")
    names = args.targets or list(TARGETS)
    shares = sum(TARGETS[name].share for name in names)
    print("| entry point | executions | read | branches | features | kept | slowest, s | largest, MB | failures | minutes |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    outcomes = {}
    for name in names:
        outcomes[name] = found = fuzz(name, args.corpus / name, -(-args.runs * TARGETS[name].share // shares))
        f = found.facts
        print(
            f"| {name} | {f.runs:,} | {f.read / max(f.runs, 1):.1%} | {found.covered:,} | {found.features:,} | {found.kept:,} "
            f"| {f.seconds:.2f} | {f.bytes / 1e6:.0f} | {len(f.failures)} | {found.minutes:.1f} |",
            flush=True,
        )
    facts = [found.facts for found in outcomes.values()]
    print(
        f"| all | {sum(f.runs for f in facts):,} | | | | | {max(f.seconds for f in facts):.2f} "
        f"| {max(f.bytes for f in facts) / 1e6:.0f} | {sum(len(f.failures) for f in facts)} "
        f"| {sum(found.minutes for found in outcomes.values()):.1f} |"
    )
    for name, found in outcomes.items():
        for failure, file in found.facts.failures.items():
            print(f"{name}: {failure}: {args.corpus / name / file}")
    sys.exit(any(f.failures for f in facts))


if __name__ == "__main__":
    main()
