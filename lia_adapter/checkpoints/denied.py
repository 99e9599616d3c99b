"""Names that no checkpoint has a reason to call.

This list is for clear messages, not for safety: the decoder calls nothing whatever a file names. But whoever opens a
file that wants to run a shell command should hear that, and not that "no generator was found". What a file only mentions
(an activation that is `max`, say) would not be run by an ordinary loader either: it is data, and a note.
"""

from collections.abc import Iterator
from typing import Any, Final

from lia_adapter.checkpoints.decoder import Call, Symbol, clean
from lia_adapter.checkpoints.document import Document
from lia_adapter.errors import CheckpointError

__all__ = ["is_denied", "mentions", "refuse_denied"]

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
# Parts of these that tensors and tables of them come from.
_HARMLESS: Final = (
    "torch.distributed.tensor", "torch.distributed._tensor", "torch.distributed.device_mesh", "torch.distributed._mesh_layout",
    "torch.distributed.checkpoint", "torch.distributed._shard",
)  # fmt: skip
# What only keeps a function and its arguments.
_KEEPERS: Final = ("functools.partial", "_functools.partial")
_WITHIN_DOTTED: Final = tuple(f"{prefix}.".replace("..", ".") for prefix in _WITHIN)
_HARMLESS_DOTTED: Final = tuple(f"{prefix}." for prefix in _HARMLESS)
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
    name = f"{symbol}."
    return name.startswith(_WITHIN_DOTTED) and not name.startswith(_HARMLESS_DOTTED)


def refuse_denied(document: Document) -> None:
    """Refuse a file whose ordinary loader would run something which no checkpoint needs.

    Args:
        document: The decoded file.

    Raises:
        CheckpointError: It would call a function that is on the list, or hand one to what it calls.
    """
    if not any(is_denied(symbol) for symbol in document.symbols):
        return
    run = {clean(symbol) for symbol in _run(document) if is_denied(symbol)}
    if run:
        raise CheckpointError(
            f"{document.name} wants to run {', '.join(sorted(run)[:5])} when it is loaded: this is an attack, not a "
            "checkpoint. Nothing was run. Delete it, and get the checkpoint from a source that you trust."
        )


def mentions(document: Document) -> tuple[str, ...]:
    """A note on functions that a file names and does not call, if it has any."""
    named = sorted(clean(symbol) for symbol in document.symbols if is_denied(symbol))
    return (f"it mentions {', '.join(named[:5])}, as data: nothing in it calls that, and nothing was run",) if named else ()


def _run(document: Document) -> Iterator[Symbol]:
    """What an ordinary loader would call, and what it would hand to that."""
    for call in document.every_call():
        yield from _symbols(call.function)
        if not call.calls(*_KEEPERS):
            yield from _symbols((call.args, call.kwargs))
        # Methods that the second instruction on the same object would call.
        for attributes in _states(call.state):
            yield from _symbols([node for name, node in attributes.items() if str(name).startswith("__")])


def _states(state: Any) -> Iterator[dict[Any, Any]]:
    """The attributes in a state: a dict, or pairs of that and of other things."""
    waiting = [state]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
        elif isinstance(part, tuple) and len(part) == 2:
            waiting += part


def _symbols(node: Any) -> Iterator[Symbol]:
    """The names in a node, in the containers that it holds, and in what keeps a function for later."""
    waiting, seen = [node], set()
    while waiting:
        part = waiting.pop()
        if isinstance(part, Symbol):
            yield part
        elif isinstance(part, (tuple, list, set, frozenset, dict, Call)) and id(part) not in seen:
            seen.add(id(part))
            if isinstance(part, dict):
                waiting += [*part.keys(), *part.values()]
            elif not isinstance(part, Call):
                waiting += part
            elif part is node or part.calls(*_KEEPERS):  # other calls are looked at on their own
                waiting += [part.function, part.args, part.kwargs]
