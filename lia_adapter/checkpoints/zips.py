"""Torch's zip files to a document.

`torch.save` writes an ordinary zip file, without compression: `<top>/data.pkl` is the object, `<top>/data/<key>` the
storages. Because nothing is compressed, every member is a slice of the file: this reader finds the slices and extracts
nothing. (Python's zipfile would copy each of them.) Files that were packed anew are compressed, which torch reads, too: the
members that are needed are then unpacked in memory.
"""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from lia_adapter.checkpoints.decoder import Budget, clean, decode
from lia_adapter.checkpoints.document import Document, Storage, from_decoded, storage_id
from lia_adapter.errors import CheckpointError

__all__ = ["SHARD", "read_zip"]

# One storage is one member; the largest real files have some thousand.
MAX_MEMBERS: Final = 100_000

_END, _END64, _LOCATOR64, _ENTRY, _LOCAL = b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\1\2", b"PK\3\4"
_MAX_COMMENT: Final = 0xFFFF
_STORED, _DEFLATED = 0, 8
# Weights hardly become smaller: what unpacks to far more than its file was made to fill somebody's memory.
_MAX_BLOWN_UP: Final = 20
_FREE: Final = 2**22  # bytes that even a tiny file may unpack to
_END_SIZE, _END64_SIZE, _LOCATOR_SIZE, _LOCAL_SIZE, _ENTRY_SIZE = 22, 56, 20, 30, 46
SHARD: Final = (
    "a part of a checkpoint that torch.distributed.checkpoint wrote as a folder. Make one file of the whole folder with "
    "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE.pt, then pass that."
)
"""What to say of a part of such a checkpoint, or of its folder."""


def read_zip(data: memoryview, name: str) -> Document:
    """Read a torch zip file.

    Args:
        data: The whole file.
        name: The file's name, for messages.

    Raises:
        CheckpointError: The file is damaged, compressed, TorchScript, or no torch file.
    """
    members = _members(data, name)
    pickles = [path for path in members if path == "data.pkl" or path.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError(f"{name} is a zip file, but not one of torch: {_other(list(members))}")
    top = pickles[0].removesuffix("data.pkl")
    if f"{top}constants.pkl" in members or any(path.startswith(f"{top}code/") for path in members):
        raise CheckpointError(
            f"{name} is a TorchScript archive (of torch.jit.save): a program, and weights are read alone. Save them with "
            "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt') if you trust it, then pass that."
        )
    unpack = _Unpacking(name, members, len(data))
    if f"{top}byteorder" in members and bytes(unpack(f"{top}byteorder")[:8]).strip() != b"little":
        raise CheckpointError(f"{name} was written on a big-endian machine, which is not supported.")
    budget = Budget()
    decoded = decode(unpack(pickles[0]), name, budget=budget)
    storages = {}
    for node in decoded.persistent:
        key, dtype, numel = storage_id(node, name)
        path = f"{top}data/{key}"
        size = members[path].size if path in members else None
        if size != numel * dtype.itemsize:
            has = "is missing" if size is None else f"has {size:,} bytes"
            raise CheckpointError(
                f"{name} is damaged: {clean(top)}data/{clean(key)} {has}, and {numel * dtype.itemsize:,} bytes were "
                "expected. Get the file again."
            )
        if key not in storages:
            storages[key] = Storage(unpack(path), dtype)
    return from_decoded(name, decoded, storages, budget)


@dataclass(frozen=True)
class _Member:
    """A file in the archive.

    Attributes:
        block: Its bytes as they are stored, a slice of the archive.
        size: Of what comes out, in bytes.
        is_packed: Whether it is compressed.
    """

    block: memoryview
    size: int
    is_packed: bool


class _Unpacking:
    """Gives the bytes of members, and never more in all than an archive of its size may hold."""

    def __init__(self, name: str, members: Mapping[str, _Member], length: int) -> None:
        self.name, self.members = name, members
        self.left = _MAX_BLOWN_UP * length + _FREE

    def __call__(self, path: str) -> memoryview:
        member = self.members[path]
        if not member.is_packed:
            return member.block
        self.left -= member.size
        if self.left < 0:
            raise CheckpointError(
                f"{self.name} claims to unpack to more than {_MAX_BLOWN_UP} times its size, which no weights do. Unpack it "
                "with a program for zip files if you trust it, and save it with torch.save again."
            )
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            # One byte more tells whether there is more. A bytearray, because the numbers may be moved in place.
            content = bytearray(unpacker.decompress(member.block, member.size + 1))
        except zlib.error as error:
            raise CheckpointError(
                f"{self.name} is damaged: {clean(path)} cannot be unpacked ({error}). Get it again."
            ) from None
        if len(content) != member.size or not unpacker.eof:
            raise CheckpointError(f"{self.name} is damaged: {clean(path)} does not have the size that it claims. Get it again.")
        return memoryview(content)


def _other(paths: list[str]) -> str:
    """What a zip file without a data.pkl is, and what to do."""
    if paths and all(path.endswith(".npy") for path in paths):
        arrays = ", ".join(clean(path.removesuffix(".npy"), 40) for path in paths[:5])
        return f"it is NumPy's (.npz), with the arrays {arrays}. Codes, perhaps: a generator's file is wanted here."
    found = ", ".join(clean(path, 40) for path in paths[:5])
    return f"it has no data.pkl. It holds {found or 'nothing'}. If a checkpoint is inside, unpack it and pass that."


def _members(data: memoryview, name: str) -> dict[str, _Member]:
    """Every member by its path."""

    def damaged(why: str) -> NoReturn:
        raise CheckpointError(f"{name} is a damaged zip file: {why}. Get the file again.")

    def fields(layout: str, position: int) -> tuple[int, ...]:
        kind = struct.Struct("<" + layout)
        if not 0 <= position <= len(data) - kind.size:
            damaged("its directory points outside the file")
        values: tuple[int, ...] = kind.unpack_from(data, position)
        return values

    # The directory stands at the end, before a comment of any length.
    tail = max(0, len(data) - _END_SIZE - _MAX_COMMENT)
    end = bytes(data[tail:]).rfind(_END)
    if end < 0:
        raise CheckpointError(
            f"{name} is cut off at byte {len(data):,}: a zip file ends with a directory, and this one has none, so the "
            "download was interrupted? Download it again, or pass the URL to lia-adapt convert."
        )
    end += tail
    _, count, size, start = fields("HHII", end + 8)
    if end >= _LOCATOR_SIZE and data[end - _LOCATOR_SIZE : end - _LOCATOR_SIZE + 4] == _LOCATOR64:
        (end64,) = fields("Q", end - _LOCATOR_SIZE + 8)
        if _follows_another(data, end - _LOCATOR_SIZE - _END64_SIZE - end64):
            raise CheckpointError(f"{name} holds several zip files one after the other: it is {SHARD}")
        if data[end64 : end64 + 4] != _END64:
            damaged("its 64-bit directory is missing")
        _, count, size, start = fields("QQQQ", end64 + 24)
    if count > MAX_MEMBERS:
        damaged(f"it claims to have {count:,} members")

    members: dict[str, _Member] = {}
    slices: list[tuple[int, int]] = []
    position = start
    for _ in range(count):
        if data[position : position + 4] != _ENTRY:
            damaged("its directory has a gap")
        flags, method, _, _, _, packed, unpacked = fields("HHHHIII", position + 8)
        path_size, extra_size, comment_size, _, _, _, local = fields("HHHHHII", position + 28)
        extra_at = position + _ENTRY_SIZE + path_size
        position = extra_at + extra_size + comment_size
        if position > len(data):
            damaged("its directory points outside the file")
        path = bytes(data[extra_at - path_size : extra_at]).decode("utf-8", "replace")
        # Nothing is ever unpacked to disk; these names only tell that somebody wanted that.
        if path.startswith(("/", "\\")) or ":" in path or ".." in path.replace("\\", "/").split("/"):
            damaged(f"a member is named {clean(path)}, which points outside the archive")
        if path in members:
            damaged(f"it has two members named {clean(path)}")
        packed, unpacked, local = _wide(data[extra_at : extra_at + extra_size], packed, unpacked, local)
        if flags & 1 or method not in (_STORED, _DEFLATED):
            how = "encrypted" if flags & 1 else f"packed by method {method}"
            raise CheckpointError(
                f"{name} is a zip file in which {clean(path)} is {how}, which torch does not read either. Unpack it, and save "
                "it with torch.save again."
            )
        if method == _STORED and packed != unpacked:
            damaged(f"{clean(path)} has {packed:,} bytes and claims {unpacked:,}")
        if data[local : local + 4] != _LOCAL:
            damaged(f"{clean(path)} is not where the directory says")
        local_path, local_extra = fields("HH", local + 26)
        begin = local + _LOCAL_SIZE + local_path + local_extra
        if begin + packed > start:
            damaged(f"{clean(path)} reaches beyond the data")
        members[path] = _Member(data[begin : begin + packed], unpacked, method == _DEFLATED)
        slices.append((local, begin + packed))
    slices.sort()
    if any(after[0] < before[1] for before, after in zip(slices, slices[1:], strict=False)):
        damaged("two members share the same bytes")
    return members


def _follows_another(data: memoryview, base: int) -> bool:
    """Whether a zip file begins here, and another one ends."""
    return base > _END_SIZE and data[base : base + 4] == _LOCAL and data[base - _END_SIZE : base - _END_SIZE + 4] == _END


def _wide(extra: memoryview, packed: int, unpacked: int, local: int) -> tuple[int, int, int]:
    """The sizes and the offset of a member, from the 64-bit field where they do not fit into 32 bits."""
    position = 0
    while position + 4 <= len(extra):
        tag, size = struct.unpack_from("<HH", extra, position)
        if tag == 1:
            body = extra[position + 4 : position + 4 + size]
            numbers = iter([int.from_bytes(body[at : at + 8], "little") for at in range(0, len(body) - 7, 8)])
            unpacked, packed, local = (
                next(numbers, value) if value == 0xFFFFFFFF else value for value in (unpacked, packed, local)
            )
            break
        position += 4 + size
    return packed, unpacked, local
