"""What a user should know that is no error: told once, in one line, through Python's logging."""

import functools
import logging

__all__ = ["LOGGER", "say_once"]

LOGGER = logging.getLogger("lia_adapter")


@functools.cache
def say_once(message: str) -> None:
    """Logs a warning; the same one again is not told again, as one command may open its data or recipe several times."""
    LOGGER.warning(message)
