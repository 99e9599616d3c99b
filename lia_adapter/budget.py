"""What a job may spend: how many pictures are worked on at once, and how often work is done that a clock limits.

The one place that decides both. The size of one picture is counted, not known: `held_by` runs the work on one and adds up the
tensors that are alive at once. A processor is busy with little: more pictures at once than about `_USEFUL` bytes' worth only
leave its caches (a 1024² StyleGAN2 takes half as long again for each picture when it draws four at once).
"""

import ctypes
import functools
import logging
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lia_adapter.errors import ConfigError, LIAError, argument

__all__ = [
    "GRADIENT",
    "accumulation",
    "affordable",
    "allowance",
    "at_once",
    "free_memory",
    "held_by",
    "human",
    "in_parts",
    "is_out_of_memory",
    "map_large_tensors",
    "parse_memory",
    "room",
    "seconds_of",
    "used_memory",
]

VARIABLE = "LIA_MEMORY"
"""The environment variable that says what a job may take, as `--memory` does."""

GRADIENT = 4
"""Drawings that a drawing and its gradient take (3.7 at 1024², 2.4 at 256²)."""

_USEFUL = {"cpu": 256 * 2**20}  # bytes of tensors at once, above which nothing gets faster
_USEFUL_ELSEWHERE = 4 * 2**30  # on a GPU, which is busy with more (an estimate: nothing was measured there)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_MAPPED = 8 * 2**20  # bytes of a large tensor
_MOST = 64  # pictures at once, however small
_MARGIN = 1.2  # what convolutions take inside and no count sees
_LEFT = 0.5  # of the free memory is left to others
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_NO_ROOM = re.compile(r"can(no|')t allocate memory|(not enough|out of) memory|bad_alloc|start new thread", re.IGNORECASE)

P = TypeVar("P")
P_co = TypeVar("P_co", covariant=True)
R = TypeVar("R")


def parse_memory(text: str) -> int:
    """Bytes of "6GB", "800M" or "1.5GiB" (all units are binary).

    >>> parse_memory("6GB") == 6 * 2**30
    True

    Raises:
        ConfigError: It is something else, or nothing.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    size = 0 if match is None else int(float(match[1]) * 1024 ** _UNITS[match[2].upper()])
    if not 0 < size < 2**60:
        raise ConfigError(f"cannot read {text!r} as an amount of memory; expected for example 6GB or 800MB.")
    return size


def human(size: float) -> str:
    """Bytes in words.

    >>> human(3 * 2**29), human(5 * 2**20)
    ('1.5 GB', '5 MB')
    """
    return f"{size / 2**30:.1f} GB" if size >= 2**30 else f"{size / 2**20:.0f} MB"


def used_memory(device: torch.device | str = "cpu") -> int:
    """What this process holds, beyond the program itself: bytes in main memory, or of tensors on a GPU."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    _give_back()
    return max(0, _resident() - _PROGRAM)


def free_memory(device: torch.device | str = "cpu") -> int:
    """What this process can still get: what the machine has left, in the limits of cgroups and of `ulimit -v`."""
    device = torch.device(device)
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for new tensors
        return torch.cuda.mem_get_info(device)[0] + kept
    return max(0, min([_available(), *_cgroup_room(), *_ulimit_room()]))


def room(device: torch.device | str = "cpu") -> int:
    """How many bytes a job may still take: what LIA_MEMORY says, or half of what was free when first asked, less what it has.

    Raises:
        ConfigError: LIA_MEMORY cannot be read.
    """
    given = os.environ.get(VARIABLE)
    limit = parse_memory(given) if given else _half_at_start(str(torch.device(device)))
    return max(0, min(limit - used_memory(device), free_memory(device)))


def at_once(each: int, device: torch.device | str = "cpu", *, most: int | None = None, what: str = "picture") -> int:
    """How many pictures to work on at once, at least 1.

    Args:
        each: Bytes that one takes: see `held_by`.
        device: Where.
        most: No more than this.
        what: What one is, for the message.

    Raises:
        LIAError: Not even one fits into what was given, or into the machine.
    """
    device, each = torch.device(device), max(each, 1)
    there = room(device)
    # Half of what is free is a courtesy to others, and no reason to refuse what the other half can do.
    if each > (there if os.environ.get(VARIABLE) else free_memory(device)):
        raise LIAError(_too_small(each, there, device, what))
    useful = _USEFUL.get(device.type, _USEFUL_ELSEWHERE)
    return max(1, min(min(there, useful) // each, _MOST if most is None else most))


def _too_small(each: int, there: int, device: torch.device, what: str) -> str:
    given = os.environ.get(VARIABLE)
    if given:
        more = human(1.1 * (each + parse_memory(given) - there))
        memory = argument(VARIABLE)
        return f"one {what} takes about {human(each)}, of which {memory} {given} leaves {human(there)}. Give {memory} {more}."
    other = "Close other programs, or lift the limit of ulimit or of the container"
    other = other if device.type == "cpu" else f"Use a GPU with more memory, or {argument('device')} cpu"
    return f"one {what} takes about {human(each)}, but only {human(free_memory(device))} are free on {device}. {other}."


class Parts(Protocol[P_co]):
    """What can be cut: a tensor, a range, a list, a batch of a data set."""

    def __len__(self) -> int: ...  # noqa: D105

    def __getitem__(self, part: slice, /) -> P_co: ...  # noqa: D105


def in_parts(function: Callable[[P], R], items: Parts[P], n: int) -> Iterator[R]:
    """function of n items at a time; where there is no room for so many after all, of half as many from there on.

    Args:
        function: Of some of the items; it must not keep what it made when it fails.
        items: To work on.
        n: From `at_once`.

    Yields:
        The answers, in order.
    """
    first = 0
    while first < len(items):
        answer = _attempt(function, items[first : first + n], alone=n == 1)
        if isinstance(answer, _NoRoom):
            n = max(1, min(n, len(items) - first) // 2)
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
            print(f"lia-adapt: no memory for so many pictures at once; going on with {n}", file=sys.stderr)
            continue
        yield answer
        first += n


class _NoRoom:
    """The answer of a part for which there was no memory."""


def _attempt(function: Callable[[P], R], part: P, *, alone: bool) -> R | _NoRoom:
    """In a function of its own, so that an error's traceback, which holds all tensors of the attempt, is gone with it."""
    try:
        return function(part)
    except (RuntimeError, MemoryError) as error:
        if alone or not is_out_of_memory(error):
            raise
    return _NoRoom()


def accumulation(share: int, whole: int, device: torch.device | str = "cpu") -> int:
    """Into how many equal parts a training batch must be cut to fit.

    Args:
        share: Samples of the batch that this process works on.
        whole: Bytes that they take together.
        device: Where.

    Raises:
        LIAError: Not even one sample at a time fits.
    """
    there = room(device)
    for parts in range(1, share + 1):
        if share % parts == 0 and whole / parts <= there:
            return parts
    raise LIAError(_too_small(whole // share, there, torch.device(device), "training image"))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator had no memory left, which torch and its libraries say in many ways."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and _NO_ROOM.search(str(error)) is not None
    )


def held_by(work: Callable[[], object], *, pretend: bool = False) -> int:
    """About how many bytes work takes: the most that was in tensors at once, and a margin.

    Args:
        work: The work on one picture; it makes its own input.
        pretend: Follow the sizes without computing anything, where the work allows that: it needs no memory, and for a large
            picture less time. For a small one the start of torch's machinery for it takes longer than the work.
    """
    if pretend:
        from torch._subclasses.fake_tensor import FakeTensorMode

        # What it cannot follow it also tells to a log, with a traceback.
        quiet = logging.getLogger("torch._subclasses.fake_tensor")
        with FakeTensorMode(allow_non_fake_inputs=True), _Count() as count:
            quiet.disabled = True
            try:
                work()
                return int(_MARGIN * count.peak)
            except Exception:  # noqa: S110  (a stranger's module may do anything: then the work itself has to tell)
                pass
            finally:
                quiet.disabled = False
    with _Count() as count:
        work()
    return int(_MARGIN * count.peak)


class _Count(TorchDispatchMode):
    """Adds up the bytes of all tensors that were made since and are alive.

    Attributes:
        peak: The largest sum.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch gives this one method no types
        self.peak = 0
        self._alive: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        given = {StorageWeakRef(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for t in tree_leaves(answer):
            if isinstance(t, Tensor) and (storage := StorageWeakRef(t.untyped_storage())) not in given:
                self._alive[storage] = t.untyped_storage().nbytes()
        self._alive = {storage: size for storage, size in self._alive.items() if not storage.expired()}
        self.peak = max(self.peak, sum(self._alive.values()))
        return answer


def seconds_of(work: Callable[[], object]) -> float:
    """How long work takes, which has been done before (the first time is slower)."""
    start = time.monotonic()
    work()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return max(time.monotonic() - start, 1e-6)


def allowance(seconds: float, most: float = 300.0) -> float:
    """How long measuring beside work of so many seconds may take: a tenth, but no less than small pictures take anyhow.

    >>> allowance(10), allowance(1000), allowance(1e6), allowance(1e6, most=5)
    (20.0, 100.0, 300.0, 5)
    """
    return min(max(0.1 * seconds, 20.0), most)


def affordable(seconds: float, each: float, *, least: int, most: int) -> int:
    """How often work of `each` seconds is done in `seconds`, but at least and at most so often.

    >>> affordable(60, 0.5, least=10, most=100), affordable(1, 0.5, least=10, most=100)
    (100, 10)
    """
    return max(least, min(most, int(seconds / each)))


def map_large_tensors() -> None:
    """Has glibc take memory for large tensors from the system, and give it back, one by one; for a process of our own.

    By itself it soon puts those of up to 32 MB on the heap, where each small tensor that is kept, such as a code, holds on to
    what lies below it: encoding 1024² pictures grew by 20 MB with each of them.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED)
        libc.mallopt(_M_TRIM_THRESHOLD, 8 * _MAPPED)  # else the heap of smaller ones would shrink and grow with each
    except (OSError, AttributeError):
        pass  # no glibc


# -- what the machine says


def _give_back() -> None:
    """Gives the system what glibc keeps of memory that was freed."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        pass  # no glibc


def _resident() -> int:
    """Bytes of this process in main memory."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):  # no Linux: the most there ever was
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


_PROGRAM = _resident()  # Python and torch: there before any work


@functools.lru_cache
def _half_at_start(device: str) -> int:
    return used_memory(device) + int(_LEFT * free_memory(device))


def _available() -> int:
    """What the machine could give to programs without swapping."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        return os.sysconf("SC_PHYS_PAGES") * resource.getpagesize() // 2


_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")
_V2 = ("memory.max", "memory.current")


def _cgroup_room(root: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")) -> list[int]:
    """What the cgroups of this process, which containers and batch systems set, and those above them have left."""
    try:
        lines = [line.split(":", 2) for line in process.read_text().splitlines()]
    except OSError:
        return []
    found = []
    for _, controllers, path in lines:
        if controllers not in ("", "memory"):
            continue
        base, names = (root / "memory", _V1) if controllers else (root, _V2)
        folder = base / path.strip("/")
        # In a container the path may be that of the host, and only the root be there.
        for place in {base, folder, *(above for above in folder.parents if above.is_relative_to(base))}:
            try:
                limit, usage = (int((place / name).read_text()) for name in names)
                stat = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):  # none, or "max"
                continue
            # Pages of files that nobody has used for a while are given back at once.
            found.append(limit - usage + int(stat.get("inactive_file", 0)))
    return found


def _ulimit_room() -> list[int]:
    found = []
    for kind, place in ((resource.RLIMIT_AS, 0), (resource.RLIMIT_DATA, 5)):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY:
            try:
                found.append(limit - int(Path("/proc/self/statm").read_text().split()[place]) * resource.getpagesize())
            except (OSError, ValueError, IndexError):
                found.append(limit)
    return found
