"""What a user should know that is no error: told once, in one line, through Python's logging."""

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from lia_adapter.errors import told

__all__ = ["LOGGER", "renamed", "say_once"]

P = ParamSpec("P")
T = TypeVar("T")

LOGGER = logging.getLogger("lia_adapter")


@functools.cache
def say_once(message: str) -> None:
    """Logs a warning; the same one again is not told again, as one command may open its data or recipe several times.

    Args:
        message: May name arguments, see `lia_adapter.errors.argument`; a front finds it unchanged in the record's `message_of`.
    """
    LOGGER.warning(told(message), extra={"message_of": message})


def renamed(old: str, new: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Lets a function take an argument by its name of the last release for one more, and says so."""

    def of(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            if old in kwargs:
                say_once(f"the argument {old} is called {new} now; its old name is read for one more release")
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return of
