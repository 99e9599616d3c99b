"""What the ops run as on a device: compiled kernels, the same through NVRTC, or plain torch; found out at first use.

`using`, and where it is silent the variable `LIA_OPS`, chooses: `auto` (the default) takes the best there is and says once why
it is not the native one; `native` makes an error of plain torch; `reference` takes plain torch.
"""

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast, get_args

import torch

from lia_adapter.errors import BuildError, ConfigError, LIAError
from lia_adapter.ops import build, toolchain

__all__ = ["OPS", "Choice", "Implementation", "as_chosen", "implementation", "report", "status", "using"]

Implementation = Literal["native", "nvrtc", "reference"]
Choice = Literal["auto", "native", "reference"]

F = TypeVar("F", bound=Callable[..., Any])

OPS = ("bias_act", "upfirdn2d", "upfirdn2d_act", "modconv_epilogue", "filtered_lrelu")

_CHOICES: tuple[Choice, ...] = get_args(Choice)
_chosen: ContextVar[Choice | None] = ContextVar("lia_adapter.ops", default=None)
_LOG = logging.getLogger("lia_adapter.ops")


@dataclass(frozen=True)
class _Outcome:
    implementation: Implementation
    why: str  # empty where nothing better was wanted


_outcomes: dict[str, _Outcome] = {}
_lock = threading.RLock()


def _after_fork() -> None:
    # A thread that held the lock is not in the child.
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def using(choice: Choice) -> Iterator[None]:
    """In it, the ops of this thread (or task) run as chosen, whatever LIA_OPS says; other threads go on as they were.

    What is recorded in it (`torch.export`, `make_fx`) stays as it was chosen; what `torch.compile` made is made again for
    another choice.

    Args:
        choice: "reference" is plain torch; "native" makes an error of it where there is nothing better; "auto" takes the best.

    Raises:
        ConfigError: The choice is none of these.

    Example:
        >>> with using("reference"):
        ...     status()["bias_act"]["cpu"]
        'reference'
    """
    if choice not in _CHOICES:
        raise ConfigError(f"ops.using({choice!r}): expected one of {', '.join(_CHOICES)}.")
    token = _chosen.set(choice)
    try:
        yield
    finally:
        _chosen.reset(token)


def as_chosen(function: F) -> F:
    """The function, to run as `using` chose here wherever it is called.

    For what autograd runs a second time (`torch.utils.checkpoint`): that may be later, and is in another thread on a GPU.
    """
    choice = _chosen.get()
    if choice is None:
        return function

    def run(*inputs: Any) -> Any:
        with using(choice):
            return function(*inputs)

    return cast(F, run)


def implementation(device_type: str, op: str = "bias_act") -> Implementation:
    """What an op runs as on tensors of a device; the first call loads, and if need be compiles, the kernels.

    Args:
        device_type: As `Tensor.device.type`: "cpu", "cuda", ...
        op: One of `OPS`. All have the same answer, but that NVRTC compiles `filtered_lrelu` when it is first asked for.

    Raises:
        LIAError: "native" is chosen and there is nothing but plain torch, or LIA_OPS is misspelt.
    """
    return _implementation(device_type, op, _chosen.get())


def _implementation(device_type: str, op: str, here: Choice | None) -> Implementation:
    choice = here or _of_environment()
    outcome = _outcome(device_type, op, choice)
    if outcome.implementation == "reference" and outcome.why and choice == "native":
        asked, instead = ("ops.using chose native", "Choose auto") if here else ("LIA_OPS is native", "Set LIA_OPS=auto")
        raise BuildError(f"{asked}, but {outcome.why}. {instead} to go on with plain torch, which is slower.")
    return outcome.implementation


# Whether there are kernels is settled while torch.compile traces, not in the graph. torch.compiler.assume_constant_result does
# no more than this, and imports the compiler for it: a second and 150 MB, also for who never compiles. The choice is an
# argument, so that a graph is guarded by it.
_implementation._dynamo_marked_constant = True  # type: ignore[attr-defined]


def status() -> dict[str, dict[str, Implementation]]:
    """What runs, by op and device: `status()["bias_act"]["cpu"]` is "native" or "reference"; ["cuda"] is also "nvrtc".

    Loads, and if need be compiles, the kernels of the CPU and, where torch sees a GPU, of CUDA.

    Raises:
        LIAError: LIA_OPS is misspelt.
    """
    return {op: {device: outcome.implementation for device, outcome in _all(op).items()} for op in OPS}


def report() -> dict[str, str]:
    """What runs and why, and what it was built with, each in one line for people.

    Raises:
        LIAError: LIA_OPS is misspelt.
    """
    lines = {}
    for name, look in (
        ("compiler", _about_compiler),
        ("ninja", toolchain.find_ninja),
        ("nvcc", _about_nvcc),
        ("ops cache", build.cache_folders()[0]),
    ):
        try:
            lines[name] = str(look())
        except (BuildError, OSError) as error:
            lines[name] = str(error)
    for device, outcome in _all("bias_act").items():
        lines[f"{device.upper()} ops"] = outcome.implementation + (f": {outcome.why}" if outcome.why else "")
    return lines


def _all(op: str) -> dict[str, _Outcome]:
    choice = _chosen.get() or _of_environment()
    gpu = _outcome("cuda", op, choice) if torch.cuda.is_available() else _Outcome("reference", "torch sees no GPU")
    return {"cpu": _outcome("cpu", op, choice), "cuda": gpu}


def _outcome(device_type: str, op: str, choice: Choice) -> _Outcome:
    if choice == "reference":
        return _Outcome("reference", "")
    outcome = _outcomes.get(device_type) or _settle(device_type, f"{device_type.upper()} ops", _load, choice)
    if outcome.implementation == "nvrtc" and op == "filtered_lrelu":
        return _outcomes.get(op) or _settle(op, "filtered_lrelu on CUDA", _load_filtered, choice)
    return outcome


def _of_environment() -> Choice:
    choice = os.environ.get("LIA_OPS") or "auto"
    for known in _CHOICES:
        if choice == known:
            return known
    raise ConfigError(f"LIA_OPS is {choice!r}; expected one of {', '.join(_CHOICES)}.")


def _settle(key: str, what: str, load: Callable[[str], _Outcome], choice: Choice) -> _Outcome:
    with _lock:
        if key in _outcomes:  # another thread was first
            return _outcomes[key]
        outcome = load(key)
        if outcome.why and choice == "auto":
            # A log record and not a warning: it must not become an error in the user's tests, and it is one line.
            shown = {"native": "native", "nvrtc": "compiled through NVRTC", "reference": "plain torch, slower"}
            _LOG.warning("%s: %s, because %s.", what, shown[outcome.implementation], outcome.why)
        _outcomes[key] = outcome
        return outcome


def _load(device_type: str) -> _Outcome:
    if device_type not in ("cpu", "cuda"):
        return _Outcome("reference", "" if device_type == "meta" else f"there are no kernels for {device_type}")
    try:
        if sys.platform != "linux":
            raise BuildError("the kernels are built on Linux only")
        _load_library(_cpu_plan() if device_type == "cpu" else _cuda_plan())
        return _Outcome("native", "")
    except LIAError as error:
        why = str(error)
    if device_type == "cuda":
        try:
            from lia_adapter.ops import nvrtc

            nvrtc.register()
            return _Outcome("nvrtc", why)
        except (LIAError, ImportError) as error:
            why += f"; and NVRTC cannot be used: {error}"
    return _Outcome("reference", why)


def _load_filtered(_op: str) -> _Outcome:
    from lia_adapter.ops import nvrtc_driver

    try:
        nvrtc_driver.load("filtered")
        return _Outcome("nvrtc", "")
    except LIAError as error:
        return _Outcome("reference", f"NVRTC cannot be used: {error}")


def _cpu_plan() -> build.Plan:
    return build.cpu_plan(build.read_sources(), toolchain.find_compiler(), toolchain.find_ninja())


def _cuda_plan() -> build.Plan:
    if torch.version.cuda is None:
        raise BuildError("torch is built without CUDA")
    nvcc = toolchain.find_nvcc()
    targets = toolchain.gencode(nvcc, toolchain.gpus())
    toolchain.check_driver(nvcc, targets)
    return build.cuda_plan(build.read_sources(), toolchain.find_compiler(), nvcc, targets, toolchain.find_ninja())


def _load_library(plan: build.Plan) -> None:
    """Builds a library and loads it, twice at most.

    Raises:
        BuildError: It cannot be built, or what was built cannot be loaded.
    """
    library = build.build(plan)
    try:
        torch.ops.load_library(library.path)
    except OSError:
        library = build.build(plan, rejected=library)
        try:
            torch.ops.load_library(library.path)
        except OSError as error:
            raise BuildError(f"{library.path} cannot be loaded: {error.__cause__ or error}") from error


def _about_compiler() -> str:
    compiler = toolchain.find_compiler()
    return f"{compiler.version}, {' '.join(compiler.command)}"


def _about_nvcc() -> str:
    nvcc = toolchain.find_nvcc()
    return f"{nvcc.version[0]}.{nvcc.version[1]}, toolkit {nvcc.root}{_ignored()}"


def _ignored() -> str:
    """The variables that name no toolkit, in words."""
    names = [name for name in ("CUDA_HOME", "CUDA_PATH") if (root := os.environ.get(name)) and not _has_nvcc(root)]
    return f" ({' and '.join(names)} ignored: no bin/nvcc there)" if names else ""


def _has_nvcc(root: str) -> bool:
    return os.access(os.path.join(root, "bin", "nvcc"), os.X_OK)
