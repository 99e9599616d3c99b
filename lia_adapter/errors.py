"""The few exceptions that a user can meet.

Every message says what was found, what was expected, and what to do next. The command line prints the message alone and
exits with code 2; anything that is not a `LIAError` is a bug of ours.
"""

import re
from collections.abc import Callable, Sequence

__all__ = [
    "BuildError",
    "CheckpointError",
    "ConfigError",
    "DownloadError",
    "LIAError",
    "ValuesError",
    "WrapError",
    "argument",
    "check_choice",
    "told",
]


_MARK = "\x1f"  # around the name of an argument; never shown


def argument(name: str, front: str = "") -> str:
    """The name of an argument of the Python API in a message, which a front tells by its own name: `out`, or `-o`.

    Args:
        name: Of the argument.
        front: By what a front finds its own name, where it has several for one argument.
    """
    return f"{_MARK}{name}|{front or name}{_MARK}"


def told(message: str, name_of: Callable[[str], str] | None = None) -> str:
    """A message with the names of arguments that whoever is told knows; None: those of the Python API."""
    return re.sub(f"{_MARK}(.*?)[|](.*?){_MARK}", lambda found: name_of(found[2]) if name_of else found[1], message)


class LIAError(Exception):
    """Base of all errors that lia-adapter raises on purpose."""

    def __str__(self) -> str:
        return told(super().__str__())

    def told(self, name_of: Callable[[str], str]) -> str:
        """The message.

        Args:
            name_of: What whoever is told calls an argument of the Python API.
        """
        return told(super().__str__(), name_of)


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raises a LIAError unless the value of an argument is one of two or more choices."""
    if value not in choices:
        raise LIAError(f"{name} is {value!r}; expected {', '.join(choices[:-1])} or {choices[-1]}.")


class BuildError(LIAError):
    """The native ops cannot be had; says what is missing and how to get it."""


class CheckpointError(LIAError):
    """A file is not a checkpoint that can be read: damaged, hostile, or of a family that is not supported."""


class ValuesError(CheckpointError):
    """A checkpoint is whole and of a known kind, but its numbers are of no use."""


class ConfigError(LIAError):
    """A recipe or an argument has an unknown name or a value that does not fit."""


class DownloadError(LIAError):
    """A URL could not be fetched, or what came is not what was asked for."""


class WrapError(LIAError):
    """A third-party generator lacks something that the adapter needs."""
