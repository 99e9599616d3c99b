"""Pickle bytes to an inert tree.

A pickle is a program for a small stack machine, and the ordinary loaders let that program import and call whatever it
names. This decoder runs the stack machine and leaves the imports and calls out: a name becomes a `Symbol`, a call a
`Call`, and both are plain data. Nothing in this file can import, look up or call anything that a file asks for, so what
comes out is safe whatever went in.

All opcodes of protocols 0 to 5 are known here. Those that make no sense in a checkpoint are refused by name.
"""

import codecs
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeVar

from lia_adapter.errors import CheckpointError

__all__ = ["Budget", "Call", "Decoded", "PersistentId", "Symbol", "clean", "decode"]

# The largest real files (StyleGAN-XL with a timm discriminator) need some 100,000 opcodes; half a million take half a
# second and 150 MB at worst. The bound also bounds the memo, the stack and the number of nodes.
MAX_OPCODES: Final = 500_000
# Real trees are about 60 deep (every nn.Module adds four or five levels).
MAX_DEPTH: Final = 500
# Strings are hashed with a secret key, numbers are not: thousands of colliding numbers as keys take hours to insert.
MAX_NUMBER_KEYS: Final = 10_000
# A tuple is hashed anew each time it is used as a key.
MAX_KEY_PARTS: Final = 100
# Numbers and names longer than this are no numbers or names; parsing digits takes quadratic time.
MAX_TEXT: Final = 1_000
# Payloads from here on stay where they are in the file; smaller ones are copied, as a view costs more than they do.
MIN_VIEW: Final = 4_096
HIGHEST_PROTOCOL: Final = 5

_T = TypeVar("_T")
_STOP: Final = ord(".")
_SCALARS: Final = (str, int, float, bytes, bool, type(None))


@dataclass(frozen=True, slots=True)
class Symbol:
    """A name that the file refers to, such as `collections.OrderedDict`. It is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False, repr=False)
class Call:
    """An object that the file would have built by a call, with everything it would have been given.

    Attributes:
        function: What would have been called: a `Symbol` in every honest file.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        state: What would have been set on the result (a module's `__dict__`, an array's bytes), else None.
        entries: Keys and values that would have been put into the result.
        elements: Values that would have been appended to the result.
    """

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[Any, Any] = field(default_factory=dict)
    state: Any = None
    entries: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)

    # Written by hand because a generated one would walk the whole tree.
    def __repr__(self) -> str:
        return f"Call({self.function if isinstance(self.function, Symbol) else '...'})"

    def calls(self, *names: str) -> bool:
        """Whether the call is to one of these names, each "module.name"."""
        return isinstance(self.function, Symbol) and str(self.function) in names


@dataclass(frozen=True, slots=True, eq=False)
class PersistentId:
    """A reference to something outside the pickle: in torch files, a storage."""

    value: Any


@dataclass(slots=True)
class Budget:
    """What one file may still spend, all its nested pickles together."""

    opcodes: int = MAX_OPCODES
    number_keys: int = MAX_NUMBER_KEYS


@dataclass(frozen=True)
class Decoded:
    """One decoded pickle.

    Attributes:
        value: Dicts, lists, tuples, sets, numbers, strings, bytes (big ones as views of the file) and nodes.
        symbols: Every name that the pickle refers to.
        calls: Every `Call` node, in the order in which they were made.
        persistent: Every `PersistentId` node.
        end: Offset of the first byte after the pickle.
    """

    value: Any
    symbols: frozenset[Symbol]
    calls: tuple[Call, ...]
    persistent: tuple[PersistentId, ...]
    end: int


def decode(data: memoryview, name: str, *, start: int = 0, budget: Budget | None = None) -> Decoded:
    """Decode one pickle.

    Args:
        data: The bytes, as a flat view of unsigned bytes. Big payloads in the result are slices of it.
        name: What to call the file in messages.
        start: Offset of the pickle's first byte.
        budget: Shared between the pickles of one file; a fresh one if None.

    Returns:
        The tree and what was met on the way.

    Raises:
        CheckpointError: The bytes are no pickle, are cut off, or ask for more than any checkpoint needs.
    """
    machine = _Machine(data, name, start, Budget() if budget is None else budget)
    value = machine.run()
    return Decoded(value, frozenset(machine.symbols), tuple(machine.calls), tuple(machine.persistent), machine.position)


def clean(text: object, limit: int = 100) -> str:
    """A value from a file as one short printable line, for messages."""
    # Turning a container into text could take forever: they may share their parts.
    simple = isinstance(text, (str, int, float, Symbol, type(None)))
    short = str(text)[: limit + 1] if simple else f"a {type(text).__name__}"
    return "".join(c if c.isprintable() else "?" for c in short[:limit]) + ("..." if len(short) > limit else "")


class _Machine:
    """The stack machine: a stack, the stacks set aside by MARK, and the memo."""

    def __init__(self, data: memoryview, name: str, start: int, budget: Budget) -> None:
        self.data = data
        self.name = name
        self.position = start
        self.budget = budget
        self.stack: list[Any] = []
        self.set_aside: list[list[Any]] = []
        # A dict rather than a list, so that a huge index costs nothing.
        self.memo: dict[int, Any] = {}
        self.depths: dict[int, int] = {}
        self.symbols: set[Symbol] = set()
        self.calls: list[Call] = []
        self.persistent: list[PersistentId] = []

    def run(self) -> Any:
        data, end, budget = self.data, len(self.data), self.budget
        while self.position < end:
            code = data[self.position]
            self.position += 1
            budget.opcodes -= 1
            if budget.opcodes < 0:
                self.damaged(f"it has more than {MAX_OPCODES:,} instructions, which no checkpoint needs")
            if code == _STOP:
                return self.pop()
            handler = _HANDLERS[code]
            if handler is None:
                self.damaged(_REFUSED.get(code, f"byte 0x{code:02x} is no pickle opcode"))
            handler(self)
        self.cut_off()

    # -- errors

    def damaged(self, why: str) -> NoReturn:
        raise CheckpointError(
            f"{self.name} is damaged or no checkpoint: {why} (at byte {self.position:,}). Get the file again."
        )

    def cut_off(self) -> NoReturn:
        raise CheckpointError(
            f"{self.name} is cut off at byte {len(self.data):,}: more should follow, so the download was interrupted? "
            "Download it again, or pass the URL to lia-adapt convert."
        )

    # -- bytes

    def take(self, size: int) -> memoryview:
        end = self.position + size
        if end > len(self.data):
            self.cut_off()
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def number(self, kind: struct.Struct) -> Any:
        return kind.unpack(self.take(kind.size))[0]

    def line(self, limit: int | None = MAX_TEXT) -> bytes:
        size = 256
        while True:
            chunk = bytes(self.data[self.position : self.position + size])
            newline = chunk.find(b"\n")
            if newline >= 0 and (limit is None or newline <= limit):
                self.position += newline + 1
                return chunk[:newline]
            if limit is not None and len(chunk) > limit:
                self.damaged(f"a line has more than {limit:,} characters")
            if self.position + size >= len(self.data):
                self.cut_off()
            size *= 4

    def payload(self, size: int) -> bytes | memoryview:
        taken = self.take(size)
        return taken if size >= MIN_VIEW else bytes(taken)

    def text(self, data: bytes | memoryview, encoding: str = "utf-8", errors: str = "surrogatepass") -> str:
        try:
            return codecs.decode(data, encoding, errors)
        except UnicodeDecodeError:
            self.damaged(f"text is not {encoding}")

    # -- stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            self.damaged("an instruction finds nothing to work on")
        return self.stack.pop()

    def top(self) -> Any:
        if not self.stack:
            self.damaged("an instruction finds nothing to work on")
        return self.stack[-1]

    def mark(self) -> None:
        self.set_aside.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        if not self.set_aside:
            self.damaged("a MARK is missing")
        items, self.stack = self.stack, self.set_aside.pop()
        return items

    def pop_args(self) -> tuple[Any, ...]:
        args = self.pop()
        if not isinstance(args, tuple):
            self.damaged("the arguments of a call are no tuple")
        return args

    def discard(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    # -- memo

    def put(self, index: int) -> None:
        self.memo[index] = self.top()

    def get(self, index: int) -> None:
        if index not in self.memo:
            self.damaged(f"it refers to object {index}, which it did not store")
        self.push(self.memo[index])

    # -- containers

    def nest(self, container: _T, children: Iterable[Any], *, new: bool = True) -> _T:
        """Note how deep a container is, so that whatever walks or frees the tree later needs no deep recursion.

        A container that grows after it was put into another one escapes the count. That is harmless: hashing is the one
        recursion that happens in here, only tuples are hashed deeply, and tuples do not grow.
        """
        depths = self.depths
        deepest = 0
        for child in children:
            if isinstance(child, _CONTAINERS):
                deepest = max(deepest, depths.get(id(child), 0))
        if deepest >= MAX_DEPTH:
            self.damaged(f"it nests more than {MAX_DEPTH} objects")
        # An id is used again once its object is gone: a new container always overwrites what is left there.
        depths[id(container)] = deepest + 1 if new else max(deepest + 1, depths.get(id(container), 0))
        return container

    def new(self, container: Any, children: Iterable[Any] = ()) -> None:
        self.push(self.nest(container, children))

    def key(self, key: Any) -> Any:
        """Let a key through only if hashing it is possible, cheap, and independent of the file's other keys."""
        if isinstance(key, (str, bytes, Symbol, Call, PersistentId)):
            return key
        parts = key if isinstance(key, tuple) else (key,)
        if len(parts) > MAX_KEY_PARTS or not all(isinstance(part, (*_SCALARS, Symbol)) for part in parts):
            self.damaged(f"a {type(key).__name__} is used as a key")
        self.budget.number_keys -= 1
        if self.budget.number_keys < 0:
            self.damaged(f"it has more than {MAX_NUMBER_KEYS:,} keys that are no strings, which no checkpoint needs")
        return key

    def pairs(self, items: list[Any]) -> dict[Any, Any]:
        if len(items) % 2:
            self.damaged("a key has no value")
        return {self.key(key): value for key, value in zip(items[::2], items[1::2], strict=True)}

    def set_items(self, items: list[Any]) -> None:
        target = self.top()
        entries = target.entries if isinstance(target, Call) else target
        if not isinstance(entries, dict):
            self.damaged(f"items are put into a {type(target).__name__}")
        entries.update(self.pairs(items))
        self.nest(target, items, new=False)

    def extend(self, items: list[Any]) -> None:
        target = self.top()
        elements = target.elements if isinstance(target, Call) else target
        if not isinstance(elements, list):
            self.damaged(f"values are appended to a {type(target).__name__}")
        elements.extend(items)
        self.nest(target, items, new=False)

    def add_items(self, items: list[Any]) -> None:
        target = self.top()
        if isinstance(target, set):
            target.update(self.key(item) for item in items)
            self.nest(target, items, new=False)
        else:
            self.extend(items)

    # -- nodes

    def symbol(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str) or max(len(module), len(name)) > MAX_TEXT:
            self.damaged("the name of a class or function is no name")
        found = Symbol(module, name)
        self.symbols.add(found)
        self.push(found)

    def call(self, function: Any, args: tuple[Any, ...], kwargs: Any = None) -> None:
        if kwargs is not None and not isinstance(kwargs, dict):
            self.damaged("the keyword arguments of a call are no dict")
        node = Call(function, args, kwargs or {})
        self.calls.append(node)
        self.new(node, (function, args, kwargs))

    def build(self) -> None:
        state = self.pop()
        target = self.top()
        if not isinstance(target, Call):
            self.damaged(f"a state is set on a {type(target).__name__}")
        # No honest file sets two; whoever does means the first to change what the second one does.
        target.state = state if target.state is None else (target.state, state)
        self.nest(target, (state,), new=False)

    def persist(self, value: Any) -> None:
        node = PersistentId(value)
        self.persistent.append(node)
        self.new(node, (value,))


_CONTAINERS: Final = (tuple, list, dict, set, frozenset, Call, PersistentId)

_U1, _U2, _U4, _U8 = (struct.Struct(f"<{code}") for code in "BHIQ")
_I4, _F8 = struct.Struct("<i"), struct.Struct(">d")


def _integer(machine: _Machine, digits: bytes) -> int:
    try:
        return int(digits)
    except ValueError:
        machine.damaged("an integer is not written in digits")


def _int_line(machine: _Machine) -> None:
    digits = machine.line()
    # Protocol 0 spells False and True as 00 and 01.
    machine.push(digits == b"01" if digits in (b"00", b"01") else _integer(machine, digits))


def _float_line(machine: _Machine) -> None:
    try:
        machine.push(float(machine.line()))
    except ValueError:
        machine.damaged("a number is not written in digits")


def _long(machine: _Machine, size: int) -> None:
    if not 0 <= size <= MAX_TEXT:
        machine.damaged(f"an integer claims to have {size:,} bytes")
    machine.push(int.from_bytes(machine.take(size), "little", signed=True))


def _string_line(machine: _Machine) -> None:
    quoted = machine.line(None)
    if len(quoted) < 2 or quoted[:1] != quoted[-1:] or quoted[:1] not in (b"'", b'"'):
        machine.damaged("a string has no quotes")
    try:
        machine.push(codecs.escape_decode(quoted[1:-1])[0].decode("latin-1"))
    except ValueError:
        machine.damaged("a string has a broken escape")


def _string(machine: _Machine, size: int) -> None:
    if size < 0:
        machine.damaged("a string has a negative length")
    # Python 2 wrote text and bytes alike; Latin-1 keeps every byte, so either can be had from it.
    machine.push(machine.text(machine.take(size), "latin-1"))


def _protocol(machine: _Machine) -> None:
    protocol = machine.number(_U1)
    if protocol > HIGHEST_PROTOCOL:
        machine.damaged(f"pickle protocol {protocol} is newer than {HIGHEST_PROTOCOL}")


def _frame(machine: _Machine) -> None:
    if machine.number(_U8) > len(machine.data) - machine.position:
        machine.cut_off()


def _symbol_lines(machine: _Machine) -> None:
    module, name = machine.line(), machine.line()
    machine.symbol(machine.text(module), machine.text(name))


def _stack_symbol(machine: _Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.symbol(module, name)


def _inst(machine: _Machine) -> None:
    _symbol_lines(machine)
    function = machine.pop()
    items = machine.pop_mark()
    machine.call(function, machine.nest(tuple(items), items))


def _obj(machine: _Machine) -> None:
    items = machine.pop_mark()
    if not items:
        machine.damaged("an object has no class")
    machine.call(items[0], machine.nest(tuple(items[1:]), items))


def _reduce(machine: _Machine) -> None:
    args = machine.pop_args()
    machine.call(machine.pop(), args)


def _new_with_keywords(machine: _Machine) -> None:
    kwargs, args = machine.pop(), machine.pop_args()
    machine.call(machine.pop(), args, kwargs)


def _tuple(machine: _Machine, items: list[Any]) -> None:
    machine.new(tuple(items), items)


def _last(machine: _Machine, count: int) -> list[Any]:
    return [machine.pop() for _ in range(count)][::-1]


def _list(machine: _Machine) -> None:
    items = machine.pop_mark()
    machine.new(items, items)


def _dict(machine: _Machine) -> None:
    items = machine.pop_mark()
    machine.new(machine.pairs(items), items)


def _frozenset(machine: _Machine) -> None:
    items = machine.pop_mark()
    machine.new(frozenset(machine.key(item) for item in items), items)


# The pickle machine's language, by protocol. Each line: opcode, name, what it does to the machine `m`.
_OPCODES: Final[tuple[tuple[bytes, str, Callable[[_Machine], object]], ...]] = (
    # protocol 0: lines of text
    (b"(", "MARK", lambda m: m.mark()),
    (b"0", "POP", lambda m: m.discard()),
    (b"1", "POP_MARK", lambda m: m.pop_mark()),
    (b"2", "DUP", lambda m: m.push(m.top())),
    (b"F", "FLOAT", _float_line),
    (b"I", "INT", _int_line),
    (b"L", "LONG", lambda m: m.push(_integer(m, m.line().removesuffix(b"L")))),
    (b"N", "NONE", lambda m: m.push(None)),
    (b"S", "STRING", _string_line),
    (b"V", "UNICODE", lambda m: m.push(m.text(m.line(None), "raw-unicode-escape", "strict"))),
    (b"P", "PERSID", lambda m: m.persist(m.text(m.line()))),
    (b"R", "REDUCE", _reduce),
    (b"a", "APPEND", lambda m: m.extend(_last(m, 1))),
    (b"b", "BUILD", lambda m: m.build()),
    (b"c", "GLOBAL", _symbol_lines),
    (b"d", "DICT", _dict),
    (b"g", "GET", lambda m: m.get(_integer(m, m.line()))),
    (b"i", "INST", _inst),
    (b"l", "LIST", _list),
    (b"p", "PUT", lambda m: m.put(_integer(m, m.line()))),
    (b"s", "SETITEM", lambda m: m.set_items(_last(m, 2))),
    (b"t", "TUPLE", lambda m: _tuple(m, m.pop_mark())),
    # protocol 1: binary
    (b"G", "BINFLOAT", lambda m: m.push(m.number(_F8))),
    (b"J", "BININT", lambda m: m.push(m.number(_I4))),
    (b"K", "BININT1", lambda m: m.push(m.number(_U1))),
    (b"M", "BININT2", lambda m: m.push(m.number(_U2))),
    (b"Q", "BINPERSID", lambda m: m.persist(m.pop())),
    (b"T", "BINSTRING", lambda m: _string(m, m.number(_I4))),
    (b"U", "SHORT_BINSTRING", lambda m: _string(m, m.number(_U1))),
    (b"X", "BINUNICODE", lambda m: m.push(m.text(m.take(m.number(_U4))))),
    (b"]", "EMPTY_LIST", lambda m: m.new([])),
    (b"e", "APPENDS", lambda m: m.extend(m.pop_mark())),
    (b"h", "BINGET", lambda m: m.get(m.number(_U1))),
    (b"j", "LONG_BINGET", lambda m: m.get(m.number(_U4))),
    (b"q", "BINPUT", lambda m: m.put(m.number(_U1))),
    (b"r", "LONG_BINPUT", lambda m: m.put(m.number(_U4))),
    (b"o", "OBJ", _obj),
    (b"u", "SETITEMS", lambda m: m.set_items(m.pop_mark())),
    (b")", "EMPTY_TUPLE", lambda m: m.new(())),
    (b"}", "EMPTY_DICT", lambda m: m.new({})),
    # protocol 2
    (b"\x80", "PROTO", _protocol),
    (b"\x81", "NEWOBJ", _reduce),
    (b"\x85", "TUPLE1", lambda m: _tuple(m, _last(m, 1))),
    (b"\x86", "TUPLE2", lambda m: _tuple(m, _last(m, 2))),
    (b"\x87", "TUPLE3", lambda m: _tuple(m, _last(m, 3))),
    (b"\x88", "NEWTRUE", lambda m: m.push(True)),
    (b"\x89", "NEWFALSE", lambda m: m.push(False)),
    (b"\x8a", "LONG1", lambda m: _long(m, m.number(_U1))),
    (b"\x8b", "LONG4", lambda m: _long(m, m.number(_I4))),
    # protocol 3
    (b"B", "BINBYTES", lambda m: m.push(m.payload(m.number(_U4)))),
    (b"C", "SHORT_BINBYTES", lambda m: m.push(m.payload(m.number(_U1)))),
    # protocol 4
    (b"\x8c", "SHORT_BINUNICODE", lambda m: m.push(m.text(m.take(m.number(_U1))))),
    (b"\x8d", "BINUNICODE8", lambda m: m.push(m.text(m.take(m.number(_U8))))),
    (b"\x8e", "BINBYTES8", lambda m: m.push(m.payload(m.number(_U8)))),
    (b"\x8f", "EMPTY_SET", lambda m: m.new(set())),
    (b"\x90", "ADDITEMS", lambda m: m.add_items(m.pop_mark())),
    (b"\x91", "FROZENSET", _frozenset),
    (b"\x92", "NEWOBJ_EX", _new_with_keywords),
    (b"\x93", "STACK_GLOBAL", _stack_symbol),
    (b"\x94", "MEMOIZE", lambda m: m.put(len(m.memo))),
    (b"\x95", "FRAME", _frame),
    # protocol 5
    (b"\x96", "BYTEARRAY8", lambda m: m.push(m.payload(m.number(_U8)))),
)

_REFUSED: Final = {
    0x82: "EXT1 refers to a registry of another program",
    0x83: "EXT2 refers to a registry of another program",
    0x84: "EXT4 refers to a registry of another program",
    0x97: "NEXT_BUFFER refers to bytes outside the file",
    0x98: "READONLY_BUFFER refers to bytes outside the file",
}

_HANDLERS: Final[list[Callable[[_Machine], object] | None]] = [None] * 256
for _code, _, _handler in _OPCODES:
    _HANDLERS[_code[0]] = _handler
