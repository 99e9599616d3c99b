"""Generators that a Python file of the user's builds: `module.py:make`. This runs that file."""

import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from lia_adapter.errors import LIAError, WrapError
from lia_adapter.generators.base import Generator
from lia_adapter.generators.wrap import as_generator

__all__ = ["build_by_script", "function_of_script", "is_script", "told_of_script"]

_SCRIPT = re.compile(r"(?P<path>.+\.py):(?P<name>[A-Za-z_]\w*)")


def is_script(text: str) -> bool:
    """Whether the text names a function of a Python file, such as `folder/module.py:make`."""
    return "://" not in text and _SCRIPT.fullmatch(text) is not None


def build_by_script(text: str) -> Generator:
    """RUNS a Python file and calls a function of it that builds a generator.

    Args:
        text: `module.py:make`. `make()` returns what `wrap` returns, or a module, which is then wrapped. Modules beside the
            file can be imported by it.

    Raises:
        LIAError: The file or the function is missing, or its code fails; the message says where.
    """
    make, path = function_of_script(text)
    with told_of_script(path):
        made = make()
        if isinstance(made, nn.Module):
            made = as_generator(made)
    if not isinstance(made, Generator):
        raise WrapError(f"{text} returned a {type(made).__name__}; expected a generator: what wrap returns, or a module.")
    return made


def function_of_script(text: str) -> tuple[Callable[..., Any], Path]:
    """RUNS a Python file and gives a function of it, and the file.

    Args:
        text: `module.py:name`.

    Raises:
        LIAError: The file or the function is missing, or its code fails.
    """
    match = _SCRIPT.fullmatch(text)
    assert match is not None  # noqa: S101  (`is_script` saw to it)
    path, name = Path(match["path"]), match["name"]
    if not path.is_file():
        raise LIAError(f"{path} is not a file. Give a Python file and a function of it, as module.py:{name}.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules[path.stem] = module
    with told_of_script(path):
        spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        known = ", ".join(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise LIAError(f"{path} has no function {name!r}; it has {known or 'none'}.")
    return function, path


@contextmanager
def told_of_script(path: Path) -> Iterator[None]:
    """Tells in one line where the user's code fails."""
    try:
        yield
    except (LIAError, KeyboardInterrupt):
        raise
    except BaseException as error:  # the user's code may raise anything, and may call exit
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f", line {frames[-1].lineno}" if frames else ""
        raise LIAError(f"{path}{where}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
