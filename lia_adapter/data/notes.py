"""What a user should know of a data set that is no error: told once, in one line, through Python's logging."""

import functools
import logging

__all__ = ["LOGGER", "say_once"]

LOGGER = logging.getLogger("lia_adapter.data")


@functools.cache
def say_once(message: str) -> None:
    """Logs a warning; the same one again is not told again, as one command may open its data several times."""
    LOGGER.warning(message)
