"""How work that takes long tells how far it is."""

from collections.abc import Callable

__all__ = ["Progress", "duration"]

Progress = Callable[[str, int, int | None], None]
"""Called with a name of the work, what is done and what there is to do (None where nobody knows)."""


def duration(seconds: float) -> str:
    """Seconds in words: "3 min 05 s", from two hours on "5 h 02 min"."""
    minutes, seconds = divmod(round(seconds), 60)
    if minutes >= 120:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
