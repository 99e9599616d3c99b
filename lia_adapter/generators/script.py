"""Generators that a Python file of the user's builds: `module.py:make`. This runs that file."""

import importlib.util
import re
import sys
import traceback
from pathlib import Path

from torch import nn

from lia_adapter.errors import LIAError, WrapError
from lia_adapter.generators.base import Generator
from lia_adapter.generators.wrap import as_generator

__all__ = ["build_by_script", "is_script"]

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
    match = _SCRIPT.fullmatch(text)
    assert match is not None  # noqa: S101  (`is_script` saw to it)
    path, name = Path(match["path"]), match["name"]
    if not path.is_file():
        raise LIAError(f"{path} is not a file. Give the Python file that builds the generator, as module.py:make.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
        make = getattr(module, name, None)
        if not callable(make):
            known = ", ".join(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
            raise LIAError(f"{path} has no function {name!r}; it has {known or 'none'}.")
        made = make()
        if isinstance(made, nn.Module):
            made = as_generator(made)
    except (LIAError, KeyboardInterrupt):
        raise
    except BaseException as error:  # the user's code may raise anything, and may call exit
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f", line {frames[-1].lineno}" if frames else ""
        raise LIAError(f"{path}{where}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(made, Generator):
        raise WrapError(f"{text} returned a {type(made).__name__}; expected a generator: what wrap returns, or a module.")
    return made
