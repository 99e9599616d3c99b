"""What all commands share: a line of progress, and the choice of the device."""

import sys
import time

from lia_adapter.errors import ConfigError

__all__ = ["ProgressLine", "device_name", "duration"]


class ProgressLine:
    """Progress with an estimate of the time left on stderr: one line that is rewritten, or now and then a new one in a log."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.name, self.first, self.start, self.told = "", 0, 0.0, 0.0

    def __call__(self, name: str, done: int, total: int | None) -> None:
        """Tells that `done` of `total` of the work `name` is done."""
        now = time.monotonic()
        if name != self.name:
            self.name, self.first, self.start, self.told = name, done, now, -1e9
        finished = total is not None and done >= total
        if now - self.told < (0.2 if self.live else 10) and not finished:
            return
        self.told = now
        line = f"{name} {done:,}" if total is None else f"{name} {done:,}/{total:,}"
        if total and self.first < done < total:
            left = (now - self.start) / (done - self.first) * (total - done)
            line += f", {duration(left)} left"
        elif finished:
            line += f", {duration(now - self.start)}"
        print(
            f"\r\033[K{line}" if self.live else line,
            end="\n" if finished or not self.live else "",
            file=sys.stderr,
            flush=True,
        )


def duration(seconds: float) -> str:
    """Seconds in words: "3 min 05 s"."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def device_name(name: str | None) -> str:
    """The device that the user named, or cuda where there is one, else cpu.

    Raises:
        ConfigError: It can't be used.
    """
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}. See lia-adapt doctor.") from error
    return name
