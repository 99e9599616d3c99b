"""Names that no checkpoint has a reason to mention.

This list is for clear messages, not for safety: the decoder calls nothing whatever a file names. But whoever opens a
file that wants to run a shell command should hear that, and not that "no generator was found".
"""

from collections.abc import Iterable
from typing import Final

from lia_adapter.checkpoints.decoder import Symbol, clean
from lia_adapter.errors import CheckpointError

__all__ = ["is_denied", "refuse_denied"]

_MODULES: Final = frozenset(
    "os posix nt posixpath ntpath subprocess popen2 commands platform sys importlib imp runpy pkgutil zipimport ctypes "
    "_ctypes cffi socket _socket ssl socketserver http httplib urllib urllib2 requests ftplib smtplib telnetlib xmlrpc "
    "shutil tempfile glob fileinput pty tty webbrowser antigravity code codeop marshal pickle _pickle cPickle shelve "
    "operator _operator timeit asyncio concurrent multiprocessing _multiprocessing threading _thread signal pdb bdb "
    "cProfile profile trace gc sqlite3 winreg _winapi msvcrt pip setuptools distutils ensurepip venv pydoc doctest "
    "unittest idlelib lib2to3".split()
)
# Parts of big packages that real files do name, that run or load something.
_WITHIN: Final = (
    "numpy.load",
    "numpy.testing",
    "numpy.distutils",
    "numpy.f2py",
    "numpy.ctypeslib",
    "torch.hub",
    "torch.load",
    "torch.jit",
    "torch.serialization.load",
    "torch.package",
    "torch.ops",
    "torch.classes",
    "torch.utils.cpp_extension",
    "torch.utils.collect_env",
    "torch.distributed",
    "torch.multiprocessing",
    "types.CodeType",
    "types.FunctionType",
    "types.LambdaType",
    "types.MethodType",
    "site.",
)
# Containers and plain types, and `getattr`: pickle itself writes it for bound methods and nested classes.
_BUILTINS: Final = frozenset(
    "set frozenset dict list tuple bytearray bytes slice complex range xrange object int long float bool str unicode "
    "type getattr NotImplemented Ellipsis".split()
)


def is_denied(symbol: Symbol) -> bool:
    """Whether this name stands for running, loading or sending something."""
    root = symbol.module.partition(".")[0]
    if root in ("builtins", "__builtin__", "__builtins__"):
        return symbol.name not in _BUILTINS
    # A dotted name may reach from a harmless module into another one: torch, "serialization.os.system".
    path = symbol.name.split(".") if "." in symbol.name else []
    if root in _MODULES or any(part in _MODULES or part.startswith("__") for part in path):
        return True
    return f"{symbol}.".startswith(tuple(f"{prefix}." for prefix in _WITHIN))


def refuse_denied(symbols: Iterable[Symbol], name: str) -> None:
    """Refuse a file that names something which no checkpoint needs.

    Args:
        symbols: Every name in the file.
        name: The file's name, for the message.

    Raises:
        CheckpointError: One of them is on the list.
    """
    denied = sorted(clean(symbol) for symbol in symbols if is_denied(symbol))
    if denied:
        raise CheckpointError(
            f"{clean(name)} wants to run {', '.join(denied[:5])} when it is loaded: this is an attack, not a "
            "checkpoint. Nothing was run. Delete it, and get the checkpoint from a source that you trust."
        )
