"""Pickles, and the torch streams in them, to one document.

A torch file of the older kind is a stream: five pickles (a magic number, a version, facts about the machine, the
object, the list of storages), then the storages' raw numbers. NVlabs' checkpoints are one plain pickle in which every
tensor is such a stream of its own, wrapped in `torch.storage._load_from_bytes(b"...")`. Both end up here as a
`Document`: a tree, and the storages that it refers to.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor

from lia_adapter.checkpoints.decoder import (
    Budget,
    Call,
    Decoded,
    PersistentId,
    Symbol,
    clean,
    decode,
)
from lia_adapter.errors import CheckpointError

__all__ = ["Assumption", "Document", "Storage", "Stored", "as_bytes", "from_decoded", "read_pickles", "storage_id"]

MAGIC: Final = 0x1950A86A20F9469CFC6C
PROTOCOL: Final = 1001
# Streams in streams: real files have one level.
MAX_LEVEL: Final = 3
MAX_NUMEL: Final = 2**40
# The length that stands before the numbers of every storage in a stream.
_LENGTH: Final = 8

_DTYPES: Final[Mapping[str, torch.dtype]] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    # Quantised: the tensors that they belong to are refused, those beside them are not.
    "QInt8Storage": torch.int8,
    "QUInt8Storage": torch.uint8,
    "QInt32Storage": torch.int32,
}


class Storage:
    """Numbers that lie in the file, and become a tensor when they are asked for.

    Args:
        block: The storage's bytes in the file, after `room` bytes that nobody needs any more.
        dtype: What they are.
        room: Bytes before the numbers that may be overwritten.
    """

    def __init__(self, block: memoryview, dtype: torch.dtype, room: int = 0) -> None:
        self._block = block
        self._room = room
        self.dtype = dtype
        self._tensor: Tensor | None = None

    def tensor(self) -> Tensor:
        """The numbers as a tensor [numel] that shares the file's memory.

        Torch's compiled loops may assume that a float lies at a multiple of four bytes, and in a pickle it lies
        anywhere. In a stream the numbers are therefore moved down by up to seven bytes, over their own length, which
        was read: that needs no memory, where a copy would double it. Elsewhere they are copied, which is rare: torch
        aligns them in its zip files.
        """
        if self._tensor is None:
            self._tensor = self._aligned()
        return self._tensor

    def _aligned(self) -> Tensor:
        block, room = self._block, self._room
        size = len(block) - room
        if size == 0:
            return torch.empty(0, dtype=self.dtype)
        address = torch.frombuffer(block, dtype=torch.uint8).data_ptr() + room
        shift = address % self.dtype.itemsize
        if shift > room:
            return torch.frombuffer(bytearray(block[room:]), dtype=self.dtype)
        if shift:
            block[room - shift : room - shift + size] = block[room:]
        return torch.frombuffer(block, dtype=self.dtype, count=size // self.dtype.itemsize, offset=room - shift)


@dataclass(frozen=True)
class Stored:
    """A tensor that the file holds as such (safetensors), not as a call that would build it.

    Attributes:
        storage: Its numbers, in order.
        size: Its shape.
    """

    storage: Storage
    size: tuple[int, ...]


@dataclass(frozen=True)
class Assumption:
    """Something that no file of a kind says, and that changes images.

    Attributes:
        key: Its name, as in "fused_scale".
        value: What was assumed.
        options: What could be.
        why: What it is, as a sentence.
    """

    key: str
    value: str
    options: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Document:
    """What a file, or a torch stream within one, holds.

    Attributes:
        name: The file's name, for messages.
        tree: Plain data and inert nodes.
        symbols: Every name in it, nested streams included.
        storages: Its storages by their key.
        streams: The nested streams, by the id of the `Call` node that holds their bytes.
        calls: Its calls, without those of nested streams.
        notes: What a reader should know, such as bytes that were ignored.
        wanted: What the user says of things that the file does not, by their names.
        assumptions: What was asked for of these, in the order of asking.
    """

    name: str
    tree: Any
    symbols: frozenset[Symbol]
    storages: Mapping[str, Storage]
    streams: Mapping[int, "Document"]
    calls: tuple[Call, ...] = ()
    notes: tuple[str, ...] = ()
    wanted: Mapping[str, str] = field(default_factory=dict)
    assumptions: list[Assumption] = field(default_factory=list)

    def assume(self, key: str, default: str, options: tuple[str, ...], why: str) -> str:
        """What to take where the file does not say: the user's word, or the default.

        Args:
            key: What it is called.
            default: What most files have.
            options: What it may be.
            why: What it is, as a sentence.

        Raises:
            CheckpointError: The user's word is none of the options.
        """
        value = self.wanted.get(key, default)
        if value not in options:
            raise CheckpointError(f"{self.name}: {key} is {clean(value, 40)}, and {' or '.join(options)} was expected.")
        self.assumptions.append(Assumption(key, value, options, why))
        return value

    def every_call(self) -> Iterator[Call]:
        """All calls, also those of nested streams."""
        yield from self.calls
        for stream in {id(stream): stream for stream in self.streams.values()}.values():
            yield from stream.every_call()

    @property
    def names(self) -> tuple[str, ...]:
        """The symbols as printable text, sorted."""
        return tuple(sorted({clean(symbol) for symbol in self.symbols}))

    def storage(self, node: Any) -> Storage:
        """The storage that a node of the tree stands for.

        Args:
            node: A `PersistentId`, or a call of `torch.storage._load_from_bytes`.

        Raises:
            CheckpointError: The node is something else, or the storage is missing.
        """
        document = self
        if isinstance(node, Call) and id(node) in self.streams:
            document = self.streams[id(node)]
            node = document.tree
        if isinstance(node, PersistentId):
            key, dtype, _ = storage_id(node, self.name)
            storage = document.storages.get(key)
            if storage is not None and storage.dtype == dtype:
                return storage
        raise CheckpointError(f"{self.name} is damaged: the numbers of a tensor are missing. Get the file again.")


def read_pickles(data: memoryview, name: str, budget: Budget | None = None, level: int = 0) -> Document:
    """Read a plain pickle or a torch stream, with everything nested in it.

    Args:
        data: The bytes; torch streams in it may be moved by some bytes when their tensors are asked for.
        name: The file's name, for messages.
        budget: Shared by all pickles of the file.
        level: How many streams this one lies in.

    Raises:
        CheckpointError: The bytes cannot be decoded, or storages are missing.
    """
    if level > MAX_LEVEL:
        raise CheckpointError(f"{name} is damaged: it nests torch streams {level} deep. Get the file again.")
    budget = Budget() if budget is None else budget
    first = decode(data, name, budget=budget)
    if isinstance(first.value, int) and first.value == MAGIC:
        return _read_stream(data, name, budget, level, first)
    if first.persistent:
        raise CheckpointError(
            f"{name} is the pickle from inside a torch zip file (its data.pkl), without the numbers that lie beside it there. "
            "Pass the whole .pt file that it was unpacked from."
        )
    left = len(data) - first.end
    return _document(name, first, {}, budget, level, (f"{left:,} bytes after the pickle were ignored",) if left else ())


def from_decoded(name: str, decoded: Decoded, storages: Mapping[str, Storage], budget: Budget) -> Document:
    """A document from a pickle whose storages lie elsewhere (in a torch zip file).

    Args:
        name: The file's name.
        decoded: The pickle.
        storages: The storages by key.
        budget: Shared by all pickles of the file.
    """
    return _document(name, decoded, storages, budget, 0)


def storage_id(node: PersistentId, name: str) -> tuple[str, torch.dtype, int]:
    """Key, type and number of elements of the storage that a persistent id refers to.

    Args:
        node: `("storage", type, key, location, numel)`; the location (a device) means nothing here.
        name: The file's name, for messages.

    Raises:
        CheckpointError: It is no such tuple, or of a type that is not known.
    """
    match node.value:
        case ("storage", Symbol(name=kind), str() | int() as key, _, int(numel), *views) if views in ([], [None]):
            if kind in _DTYPES and 0 <= numel < MAX_NUMEL:
                return str(key), _DTYPES[kind], numel
            raise CheckpointError(f"{name} has a storage of type {clean(kind)}, which is not known.")
    raise CheckpointError(f"{name} is damaged: it refers to a storage in an unknown way. Get the file again.")


def as_bytes(node: Any) -> bytes | memoryview | None:
    """Bytes in all the spellings that pickles use for them, None if the node is something else."""
    # Protocols 0 to 2 have no bytes: _codecs.encode("...", "latin1"), and bytes() where they are empty.
    if isinstance(node, Call):
        if node.calls("_codecs.encode") and len(node.args) == 2 and node.args[1] in ("latin1", "latin-1"):
            node = node.args[0]
        elif node.calls("builtins.bytes", "__builtin__.bytes") and not node.args:
            return b""
    if isinstance(node, str):
        try:
            return node.encode("latin-1")
        except UnicodeEncodeError:
            return None
    return node if isinstance(node, (bytes, memoryview)) else None


def _document(
    name: str,
    decoded: Decoded,
    storages: Mapping[str, Storage],
    budget: Budget,
    level: int,
    notes: tuple[str, ...] = (),
) -> Document:
    """Read the streams nested in a pickle, all of them: a hostile one should be found wherever it hides."""
    streams: dict[int, Document] = {}
    read: dict[int, Document] = {}
    for call in decoded.calls:
        if not call.calls("torch.storage._load_from_bytes"):
            continue
        payload = call.args[0] if call.args else None
        # Two calls may share one payload: the second must not read what the first has moved, nor copy it once more.
        origin = id(payload.args[0] if isinstance(payload, Call) and payload.args else payload)
        if origin not in read:
            data = as_bytes(payload)
            if data is None:
                raise CheckpointError(f"{name} is damaged: a tensor's bytes are no bytes. Get the file again.")
            view = data if isinstance(data, memoryview) else memoryview(bytearray(data))
            read[origin] = read_pickles(view, name, budget, level + 1)
        streams[id(call)] = read[origin]
    symbols = decoded.symbols.union(*(stream.symbols for stream in streams.values()))
    return Document(name, decoded.value, symbols, storages, streams, decoded.calls, notes)


def _read_stream(data: memoryview, name: str, budget: Budget, level: int, magic: Decoded) -> Document:
    version = decode(data, name, start=magic.end, budget=budget)
    if version.value != PROTOCOL:
        raise CheckpointError(f"{name} is a torch file of protocol {clean(version.value)}; {PROTOCOL} is known.")
    system = decode(data, name, start=version.end, budget=budget)
    if not isinstance(system.value, dict) or system.value.get("little_endian") is not True:
        raise CheckpointError(f"{name} was written on a big-endian machine, which is not supported.")
    body = decode(data, name, start=system.end, budget=budget)
    listed = decode(data, name, start=body.end, budget=budget)
    keys = [str(key) for key in listed.value if isinstance(key, (str, int))] if isinstance(listed.value, list) else []
    known = {key: (dtype, numel) for key, dtype, numel in (storage_id(node, name) for node in body.persistent)}
    if len(keys) != len(known) or set(keys) != set(known):
        raise CheckpointError(f"{name} is damaged: its list of storages does not fit its tensors. Get the file again.")
    storages = {}
    position = listed.end
    for key in keys:
        dtype, numel = known[key]
        end = position + _LENGTH + numel * dtype.itemsize
        if end > len(data):
            raise CheckpointError(
                f"{name} is cut off at byte {len(data):,}: the numbers of a tensor end at byte {end:,}, so the "
                "download was interrupted? Download it again, or pass the URL to lia-adapt convert."
            )
        length = int.from_bytes(data[position : position + _LENGTH], "little")
        if length != numel:
            raise CheckpointError(f"{name} is damaged: a storage of {numel:,} numbers says that it has {length:,}.")
        storages[key] = Storage(data[position:end], dtype, _LENGTH)
        position = end
    around = (magic, version, system, listed)
    document = _document(name, body, storages, budget, level)
    return replace(
        document,
        symbols=document.symbols.union(*(pickle.symbols for pickle in around)),
        calls=document.calls + tuple(call for pickle in around for call in pickle.calls),
    )
