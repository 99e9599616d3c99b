"""Which device work runs on."""

import torch

from lia_adapter.errors import ConfigError

__all__ = ["default_device", "device_name"]


def default_device() -> str:
    """The device of jobs that were told none: cuda where there is one, else cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name(name: str | None) -> str:
    """The device that the user named, or the default.

    Raises:
        ConfigError: It can't be used.
    """
    if name is None:
        return default_device()
    kind = name.partition(":")[0]
    if kind not in ("cpu", "cuda", "mps", "xpu"):
        raise ConfigError(f"device {name!r} cannot be used: there is no such kind. Expected cpu, cuda, cuda:1, mps or xpu.")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ConfigError(f"device {name!r} cannot be used: {_why_not(kind)}. lia-adapt doctor tells what there is.") from None
    return name


def _why_not(kind: str) -> str:
    if kind != "cuda" or not torch.version.cuda:
        return f"this torch ({torch.__version__}) has no {kind}, or this machine has none"
    count = torch.cuda.device_count()
    return f"torch sees {count} GPU{'' if count == 1 else 's'}"
