"""The one training loop: runs a step function, saves, resumes, reports.

A batch is a function of the seed and the number of the step alone, so the state of a run is its weights, Adam's moments and
the losses so far; a run that was killed and resumed ends bit-identical to one that was not.
"""

import contextlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor, nn

from lia_adapter.files import atomic_write

__all__ = ["History", "Progress", "StepFunction", "run_loop", "step_generator"]

StepFunction = Callable[[int], Mapping[str, Tensor]]
"""Number of the step -> losses by name; "loss" is the one that is minimised."""

Progress = Callable[[str, int, int], None]
"""Called with a name of the work, what is done and what there is to do."""

History = dict[str, list[float]]
_WARM_UP = 50  # steps; Adam's second moments are too young before
_FORMAT = "lia-adapter-run"


@dataclass(frozen=True)
class _Run:
    """Where a run stands."""

    step: int = 0
    history: History = field(default_factory=dict)


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """The random numbers of one step: a function of the two numbers, so that a resumed run sees the same batches."""
    return torch.Generator(device).manual_seed((seed << 32) + step)


def run_loop(
    name: str,
    module: nn.Module,
    step: StepFunction,
    *,
    steps: int,
    learning_rate: float,
    state_path: Path | None = None,
    identity: str = "",
    save_seconds: float = 20.0,
    progress: Progress | None = None,
) -> History:
    """Trains `module` with Adam(0.9, 0.99), a short warm-up and a cosine decay to zero.

    Args:
        name: Of the work, for the progress line.
        module: Its parameters that require gradients are trained.
        step: Computes the losses of one step.
        steps: Number of steps in all.
        learning_rate: At its peak.
        state_path: Where the run is saved and resumed from; removed by the caller when the result is safe. None: neither.
        identity: What the run is of; a saved state with another identity is ignored.
        save_seconds: Least time between two saves.
        progress: Is told of every step.

    Returns:
        Losses by name, one number a step.
    """
    parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
    optimizer = torch.optim.Adam(parameters.values(), lr=learning_rate, betas=(0.9, 0.99))
    run = _restore(state_path, identity, module, parameters, optimizer) if state_path else _Run()
    saved_at = time.monotonic()
    with _deferred_signals() as pending:
        for index in range(run.step, steps):
            if progress:
                progress(name, index, steps)
            rate = learning_rate * min(1.0, (index + 1) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * index / steps))
            for group in optimizer.param_groups:
                group["lr"] = rate
            with torch.enable_grad():
                losses = step(index)
                optimizer.zero_grad()
                losses["loss"].backward()
                nn.utils.clip_grad_norm_(parameters.values(), 1.0)
                optimizer.step()
            for key, value in losses.items():
                run.history.setdefault(key, []).append(float(value.detach()))
            run = _Run(index + 1, run.history)
            if state_path and (pending or time.monotonic() - saved_at >= save_seconds):
                _save(state_path, identity, run, module, parameters, optimizer)
                saved_at = time.monotonic()
            if pending:
                break
    if state_path and run.step == steps > 0:
        _save(state_path, identity, run, module, parameters, optimizer)
    if progress:
        progress(name, steps, steps)
    return run.history


@contextlib.contextmanager
def _deferred_signals() -> Iterator[list[int]]:
    """Holds ctrl-C and SIGTERM back until the step is over and saved; they act when the block ends.

    Yields:
        The signals that came: what is in it says that the loop should save and leave.
    """
    pending: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # Python takes signals in the main thread alone
        yield pending
        return
    old = {number: signal.signal(number, lambda n, _: pending.append(n)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield pending
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    if pending:
        signal.raise_signal(pending[0])


def _save(
    path: Path,
    identity: str,
    run: _Run,
    module: nn.Module,
    parameters: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    tensors = {f"value.{name}": tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    for name, parameter in parameters.items():
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment].cpu().contiguous()
    header = json.dumps({"identity": identity, "step": run.step, "history": run.history})
    with atomic_write(path, needs=sum(t.numel() * t.element_size() for t in tensors.values())) as temporary:
        temporary.write_bytes(save(tensors, metadata={_FORMAT: header}))


def _restore(
    path: Path, identity: str, module: nn.Module, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> _Run:
    """Puts a saved state back; a state that is missing, damaged or of another run means a new start."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_FORMAT])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)
        if header["identity"] != identity:
            return _Run()
        run = _Run(int(header["step"]), {key: list(map(float, values)) for key, values in header["history"].items()})
        module.load_state_dict({n.removeprefix("value."): t for n, t in tensors.items() if n.startswith("value.")})
        for name, parameter in parameters.items():
            optimizer.state[parameter] = {
                "step": torch.tensor(float(run.step)),
                **{moment: tensors[f"{moment}.{name}"].to(parameter) for moment in ("exp_avg", "exp_avg_sq")},
            }
        return run
    except (OSError, safetensors.SafetensorError, RuntimeError, ValueError, KeyError, TypeError, AttributeError):
        return _Run()
