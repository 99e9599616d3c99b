"""The one training loop: runs a step function, saves, resumes, averages, reports; on one process or on many.

A batch is a function of the seed and of the numbers of its samples alone, so the state of a run is its weights, the optimiser's
moments and the losses so far; a run that was killed and resumed ends bit-identical to one that was not. Under torchrun every
process runs this loop on its share of each batch, and gradients are averaged: that gives the same run as one process would.
"""

import contextlib
import hashlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lia_adapter import ranks
from lia_adapter.errors import CheckpointError, ConfigError, LIAError
from lia_adapter.progress import Progress
from lia_adapter.tensorfile import read_tensor_file, write_tensor_file

__all__ = [
    "Average",
    "History",
    "Job",
    "Microbatch",
    "StepFunction",
    "adam",
    "cosine",
    "read_precision",
    "run_loop",
    "step_generator",
]


@dataclass(frozen=True)
class Microbatch:
    """The samples that one call of a step function works on.

    Attributes:
        step: Number of the step.
        numbers: Numbers of the samples, counted over the whole run and all processes.
        following: The numbers of the next call, so that their loading can begin; None after the last.
        tell: To be called with how many of the samples are done, by steps that take long.
    """

    step: int
    numbers: range
    following: range | None = None
    tell: Callable[[int], None] = lambda done: None


StepFunction = Callable[[Microbatch], Mapping[str, Tensor]]
"""Losses by name, each a mean over the part's samples; "loss" is the one that is minimised."""

History = dict[str, list[float]]
"""Losses by name, one mean a tick."""

_TICKS = 400  # points of a loss curve
_AGREE = 8  # steps after which processes ask one another whether to save or to stop
_FORMAT = "lia-adapter-run"


@dataclass(frozen=True)
class Average:
    """Weights that follow others as an exponential moving average (Karras 2018, sec. 3).

    Attributes:
        source: What is trained.
        target: What follows it; the same class, without gradients.
        half_life: In samples; shorter at the start of a run, so that the first weights are soon forgotten.
    """

    source: nn.Module
    target: nn.Module
    half_life: float


@dataclass(frozen=True)
class Job:
    """What the loop trains.

    Attributes:
        name: For the progress line.
        module: All that changes: its parameters with gradients are trained, all its tensors are saved.
        step: Computes the losses.
        optimizer: Of those parameters; several players are several groups.
        steps: Number of steps.
        batch: Samples a step, over all processes.
        rate: Factor on every group's learning rate at a step.
        accumulate: Parts that a process cuts its share of a batch into.
        clip: Largest norm of the gradient, or None.
        averages: Moving averages; their targets are inside `module`.
        tick: Called after every `tick_steps` steps, and after the last, with the number of steps done and the mean losses.
        tick_steps: None makes about 400 ticks.
        in_samples: Whether progress counts samples rather than steps.
        renamed: What losses are called in runs that an older build saved -> what they are called now.
    """

    name: str
    module: nn.Module
    step: StepFunction
    optimizer: torch.optim.Optimizer
    steps: int
    batch: int
    rate: Callable[[int], float]
    accumulate: int = 1
    clip: float | None = None
    averages: Sequence[Average] = ()
    tick: Callable[[int, Mapping[str, float]], None] | None = None
    tick_steps: int | None = None
    in_samples: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict)


@dataclass
class _Run:
    """Where a run stands."""

    step: int = 0
    history: History = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)  # of the losses since the last tick, float64 scalars
    count: int = 0  # steps in them


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """The random numbers of one step: a function of the two numbers, so that a resumed run sees the same batches."""
    # Mixed, because torch's generator for the CPU looks at the low 32 bits of its seed alone.
    mixed = hashlib.sha256(f"{seed} {step}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(mixed[:7], "big"))


def read_precision(word: str, device: torch.device) -> tuple[torch.dtype, bool]:
    """What a training computes in.

    Args:
        word: One of `lia_adapter.keys.PRECISIONS`.
        device: Where it runs.

    Returns:
        The dtype of weights and images, and whether what can be computed in bfloat16 is.
    """
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.float64 if word == "float64" else torch.float32, word == "bfloat16" or (word == "auto" and fast)


def adam(module: nn.Module, learning_rate: float) -> torch.optim.Adam:
    """Adam(0.9, 0.99, 1e-8) over the parameters of a module that require gradients (LIA, sec. 5)."""
    return torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=learning_rate, betas=(0.9, 0.99))


def cosine(steps: int, warm_up: int = 50) -> Callable[[int], float]:
    """A short warm-up, because Adam's second moments are too young before, and a cosine decay to zero."""
    return lambda step: min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / steps))


def run_loop(
    job: Job,
    *,
    state_path: Path | None = None,
    identity: str = "",
    save_seconds: float = 20.0,
    progress: Progress | None = None,
    resumed: Callable[[int], None] | None = None,
) -> History:
    """Trains a job to its end, from where an earlier run of the same identity left off.

    Args:
        job: What is trained.
        state_path: Where the run is saved and resumed from; removed by the caller when the result is safe. None: neither.
        identity: What the run is of; a saved state with another identity is ignored.
        save_seconds: Least time between two saves.
        progress: Is told of every step.
        resumed: Is told the step at which the run begins.

    Returns:
        Losses by name, one mean a tick.

    Raises:
        LIAError: A loss is no longer a number.
        ConfigError: The batch cannot be shared out evenly.
    """
    parameters = [p for group in job.optimizer.param_groups for p in group["params"]]
    peaks = [group["lr"] for group in job.optimizer.param_groups]
    ticks = job.tick_steps or max(1, job.steps // _TICKS)
    if job.batch % (ranks.count() * job.accumulate):
        raise ConfigError(
            f"batch is {job.batch}; expected a multiple of {ranks.count()} processes × accumulate {job.accumulate}."
        )
    run = (_restore(state_path, identity, job) if state_path else None) or _Run()
    if resumed:
        resumed(run.step)
    saved_at, stop = time.monotonic(), False
    with _deferred_signals() as pending:
        for index in range(run.step, job.steps):
            tell = _teller(job, index, progress)
            tell(0)
            for group, peak in zip(job.optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * job.rate(index)
            losses = _gradients(job, index, parameters, tell)
            if job.clip is not None:
                nn.utils.clip_grad_norm_(parameters, job.clip)
            job.optimizer.step()
            for average in job.averages:
                _follow(average, job.batch, (index + 1) * job.batch)
            for key, value in losses.items():
                run.sums[key] = run.sums.get(key, 0) + value
            run.step, run.count = index + 1, run.count + 1
            if run.step % ticks == 0 or run.step == job.steps:
                _tick(job, run)
            stop, due = _agree(run.step, bool(pending), time.monotonic() - saved_at >= save_seconds)
            if state_path and (stop or due):
                _save(state_path, identity, run, job)
                saved_at = time.monotonic()
            if stop:
                break
    if stop:  # the signal came to another process
        raise SystemExit(128 + signal.SIGTERM)
    if state_path and run.step == job.steps > 0:
        _save(state_path, identity, run, job)
    _teller(job, job.steps, progress)(0)
    return run.history


def _teller(job: Job, index: int, progress: Progress | None) -> Callable[[int], None]:
    """Tells how far the run is when some samples of a step are done; each process speaks for its share of the batch."""

    def tell(done: int) -> None:
        if progress and job.in_samples:
            progress(job.name, index * job.batch + done * ranks.count(), job.steps * job.batch)
        elif progress and not done:
            progress(job.name, index, job.steps)

    return tell


def _gradients(job: Job, index: int, parameters: Sequence[Tensor], tell: Callable[[int], None]) -> dict[str, Tensor]:
    """Gradients of one step, averaged over parts and processes, in the parameters; and the mean losses of this process."""
    job.optimizer.zero_grad()
    totals: dict[str, Tensor] = {}
    for i in range(job.accumulate):
        last = index == job.steps - 1 and i == job.accumulate - 1
        numbers = _numbers(job, index, i)
        before = i * len(numbers)
        following = None if last else _numbers(job, index, i + 1)
        part = Microbatch(index, numbers, following, partial(_tell_more, tell, before))
        with torch.enable_grad():
            losses = job.step(part)
            (losses["loss"] / job.accumulate).backward()
        for key, value in losses.items():
            totals[key] = totals.get(key, 0) + value.detach().double() / job.accumulate
    ranks.average([p.grad for p in parameters if p.grad is not None])
    return totals


def _tell_more(tell: Callable[[int], None], before: int, done: int) -> None:
    tell(before + done)


def _numbers(job: Job, index: int, part: int) -> range:
    """The numbers of a part; process r of R has every R-th one, so that strided groups of samples stay in a process."""
    index, part = index + part // job.accumulate, part % job.accumulate
    share = job.batch // job.accumulate
    start = index * job.batch + part * share
    return range(start + ranks.rank(), start + share, ranks.count())


@torch.no_grad()
def _follow(average: Average, batch: int, seen: int) -> None:
    beta = 0.5 ** (batch / min(average.half_life, 0.05 * seen))
    pairs = zip(average.target.state_dict().values(), average.source.state_dict().values(), strict=True)
    for target, source in pairs:
        if target.is_floating_point():
            target.lerp_(source.to(target), 1 - beta)
        else:
            target.copy_(source)


def _tick(job: Job, run: _Run) -> None:
    """Ends a tick: means of the losses over its steps and the processes."""
    names = sorted(run.sums)
    values = torch.stack([run.sums[name] for name in names]) / run.count
    ranks.average([values])
    means = dict(zip(names, values.tolist(), strict=True))
    for name, value in means.items():
        if not math.isfinite(value):
            raise LIAError(
                f"{job.name}: the loss {name!r} is {value} at step {run.step:,}: the training diverged. "
                "Use a smaller learning_rate, and remove the saved state to begin anew."
            )
        run.history.setdefault(name, []).append(value)
    run.sums, run.count = {}, 0
    if job.tick:
        job.tick(run.step, means)


def _agree(step: int, stop: bool, save: bool) -> tuple[bool, bool]:
    """Whether to stop and whether to save, the same answer on all processes."""
    if ranks.count() == 1:
        return stop, save
    if step % _AGREE:
        return False, False
    # Each has a clock of its own; the first one's counts. Any process may have got the signal.
    return ranks.any_of(stop), ranks.any_of(save and ranks.rank() == 0)


@contextlib.contextmanager
def _deferred_signals() -> Iterator[list[int]]:
    """Holds ctrl-C and SIGTERM back until the step is over and saved; they act when the block ends, a second one at once.

    Yields:
        The signals that came: what is in it says that the loop should save and leave.
    """
    pending: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # Python takes signals in the main thread alone
        yield pending
        return
    old: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in old.items():
            signal.signal(number, handler)

    def hold(number: int, _: object) -> None:
        pending.append(number)
        restore()  # a step may take minutes: who asks twice does not want to wait, and loses what came after the last save

    old |= {number: signal.signal(number, hold) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield pending
    finally:
        restore()
    if pending:
        signal.raise_signal(pending[0])


def _save(path: Path, identity: str, run: _Run, job: Job) -> None:
    names = sorted(run.sums)
    sums = torch.stack([run.sums[name] for name in names]) if names else torch.zeros(0)
    if names:
        ranks.average([sums])
    if ranks.rank():
        return
    tensors = {f"value.{name}": tensor.detach().cpu().contiguous() for name, tensor in job.module.state_dict().items()}
    tensors["sums"] = sums.cpu()
    for i, state in job.optimizer.state_dict()["state"].items():
        for key, value in state.items():
            tensors[f"optimizer.{i}.{key}"] = value.cpu().contiguous()
    header = {"identity": identity, "step": run.step, "history": run.history, "names": names, "count": run.count}
    write_tensor_file(path, _FORMAT, header, tensors)


def _restore(path: Path, identity: str, job: Job) -> _Run | None:
    """Puts a saved state back; one that is missing, damaged or of another run means a new start."""
    try:
        found = read_tensor_file(path, _FORMAT)
        if found is None or found[0]["identity"] != identity:
            return None
        header, tensors = found
        names = job.renamed
        history = {names.get(key, key): list(map(float, values)) for key, values in header["history"].items()}
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimizer":
                i, key = rest.split(".")
                state.setdefault(int(i), {})[key] = tensor
        saved = {name.removeprefix("value."): t for name, t in tensors.items() if name.startswith("value.")}
        if {name: t.shape for name, t in saved.items()} != {name: t.shape for name, t in job.module.state_dict().items()}:
            return None  # before anything is loaded: what is half another run's would not be a new start
        if len({frozenset(entries) for entries in state.values()}) > 1:
            return None
        device = next((p.device for p in job.module.parameters()), torch.device("cpu"))
        sums = dict(zip((names.get(name, name) for name in header["names"]), tensors["sums"].to(device).unbind(), strict=True))
        run = _Run(int(header["step"]), history, sums, int(header["count"]))
        job.module.load_state_dict(saved)
        job.optimizer.load_state_dict({**job.optimizer.state_dict(), "state": state})
        return run
    except (OSError, CheckpointError, RuntimeError, ValueError, KeyError, TypeError, AttributeError):
        return None
