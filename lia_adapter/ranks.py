"""The processes of a run under torchrun: who am I, and a few sums over all. Without torchrun there is one process."""

import contextlib
import datetime
import os
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lia_adapter.errors import LIAError

__all__ = ["agreed", "any_of", "average", "barrier", "count", "gathered", "merged", "process_group", "rank"]

T = TypeVar("T")

_LET_GO = 0.5  # seconds
_TIMEOUT = datetime.timedelta(minutes=10)  # longer than any step; what takes longer has lost a process


def rank() -> int:
    """Number of this process, 0 alone or for the one that writes files."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def count() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@contextlib.contextmanager
def process_group(device: str | None) -> Iterator[str | None]:
    """Joins the other processes where torchrun started this one (its environment says so), and leaves them at the end.

    Args:
        device: As the user named it.

    Yields:
        The device of this process: under torchrun with CUDA, the GPU of its local rank.

    Raises:
        LIAError: Another process was lost.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device is None and torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    backend = "nccl" if device is not None and device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, timeout=_TIMEOUT)
    try:
        yield device
    except (dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError) as error:
        raise _lost() from error
    except RuntimeError as error:
        if "gloo" not in str(error).lower():  # its own errors are plain RuntimeErrors
            raise
        raise _lost() from error
    finally:
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()
        # gloo's thread drops the tensor of the last sum a little later, for which it needs the interpreter: if that is ending
        # by then, the process aborts. Sleeping lets the thread have it.
        time.sleep(_LET_GO)


def _lost() -> LIAError:
    return LIAError(
        f"process {rank()} lost its connection to the others: one of the {count()} has ended (see its message above). "
        "The same command goes on from the last save."
    )


def average(tensors: Sequence[Tensor]) -> None:
    """Replaces tensors by their means over all processes, in place."""
    if count() == 1 or not tensors:
        return
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    flat /= count()
    for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(mean.reshape(tensor.shape))


def any_of(flag: bool) -> bool:
    """Whether any process says yes."""
    if count() == 1:
        return flag
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    votes = torch.tensor([int(flag)], device=device)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return bool(votes.item())


def gathered(value: T) -> list[T]:
    """What every process says, in their order."""
    everywhere = [value] * count()
    if count() > 1:
        dist.all_gather_object(everywhere, value)
    return everywhere


def merged(found: dict[str, str]) -> dict[str, str]:
    """What any process has found, by name."""
    return dict(sorted(item for part in gathered(found) for item in part.items()))


def agreed(value: T) -> T:
    """What the first process says, where each has a clock and a memory of its own."""
    said = [value]
    if count() > 1:
        dist.broadcast_object_list(said)
    return said[0]


def barrier() -> None:
    """Waits for all processes."""
    any_of(False)
