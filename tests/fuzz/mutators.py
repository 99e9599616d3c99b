"""Damage that knows the format: bytes changed anywhere mostly break a length or an offset, and what lies behind stays untried.

A mutator takes an input apart, changes some of the parts, and puts lengths, offsets and checksums right again. What it cannot
take apart is left to `raw`, which is libFuzzer's own mutator while fuzzing.
"""

import copy
import io
import json
import pickletools
import random
import struct
import warnings
import zipfile
from collections.abc import Callable
from functools import lru_cache
from typing import Any

__all__ = ["Mutator", "Raw", "json_text", "pickles", "plain", "safetensors", "zips"]

Raw = Callable[[bytes], bytes]
Mutator = Callable[[bytes, random.Random, Raw], bytes]

_ODD_VALUES: tuple[Any, ...] = (
    None, True, 0, 1, -1, 2, 3, 7, 2**31, 2**63, 2**64, 10**400, 0.5, 1e300, -0.0, float("nan"), float("inf"),
    "", "x", "0", "..", "F32", "F8_E4M3", "\0\ud800\x1b[2J", [], {}, [[]], [1, 2, 3, 4], {"x": 1},
)  # fmt: skip
_VALUES = (
    b"N", b"\x88", b"\x89", b"K\0", b"K\x01", b"K\x03", b"J\xff\xff\xff\xff", b"M\0\x10", b"\x8a\0",
    b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"G\x7f\xf8" + bytes(6), b"G\x7f\xf0" + bytes(6), b"G\x3f\xe0" + bytes(6),
    b"X\0\0\0\0", b"X\1\0\0\0x", b"X\6\0\0\0weight", b"C\0", b"C\4\0\0\0\0", b"]", b"}", b")", b"\x8f", b"2", b"h\0",
    b"j\0\0\0\0", b"cbuiltins\nset\n", b"ccollections\nOrderedDict\n",
)  # fmt: skip
"""Instructions that put one odd value on the stack."""
_PUSHING = b"NIJKLMFGSTUVXBC\x88\x89\x8a\x8b\x8c\x8d\x8e])}\x8fhj"
_STEPS = (
    b"(", b"0", b"1", b"t", b"\x85", b"\x86", b"\x87", b"R", b"b", b"u", b"s", b"e", b"a", b"o", b"Q", b"\x90", b"\x91",
    b"\x93", b"\x94", b".",
)  # fmt: skip
_LENGTHS = {
    b"X": "<I", b"T": "<i", b"B": "<I", b"U": "<B", b"C": "<B", b"\x8c": "<B", b"\x8d": "<Q", b"\x8e": "<Q", b"\x96": "<Q",
}  # fmt: skip
"""Instructions whose argument has its length before it."""
_MAX_UNPACKED = 2**20  # bytes; a mutated archive may claim anything


def plain(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """Bytes as they are."""
    return raw(data)


def pickles(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """Pickles one after the other, as in a torch stream: instructions are moved, copied, dropped, or get odd arguments."""
    parts = list(_instructions(data))
    if len(parts) < 3 or rng.random() < 0.2:
        return raw(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        i, j = rng.randrange(len(parts)), rng.randrange(len(parts))
        match rng.randrange(10):
            case 0:
                del parts[i : i + rng.choice((1, 1, 2, 5))]
                parts = parts or [b"."]
            case 1:
                parts[i], parts[j] = parts[j], parts[i]
            case 2:
                parts[i:i] = parts[j : j + rng.choice((1, 2, 5, 20))]
            case 3:
                parts[i] = rng.choice(_STEPS)
            case 4 | 5 | 6:  # the stack stays in order
                values = [k for k, part in enumerate(parts) if part[:1] in _PUSHING]
                if values:
                    parts[rng.choice(values)] = rng.choice((*_VALUES, parts[rng.choice(values)]))
            case _:
                parts[i] = _argument(parts[i], rng, raw)
    return b"".join(parts)


def zips(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """Members are changed by their kind, renamed, doubled or dropped; what comes out is a proper archive again."""
    members = list(_members(data))
    if not members or rng.random() < 0.2:
        return raw(data)
    i, j = rng.randrange(len(members)), rng.randrange(len(members))
    texts = [k for k, (name, _) in enumerate(members) if name.endswith((".pkl", ".json"))]
    if texts and rng.random() < 0.6:  # among many members of numbers
        i = rng.choice(texts)
    name, content = members[i]
    match rng.randrange(8):
        case 0:
            members[i] = raw(name.encode()).decode("latin-1")[:200] or "x", content
        case 1:
            members[i] = name, members[j][1]
        case 2:
            del members[i]
        case 3:
            members.insert(j, members[i])
        case _:
            mutate = pickles if name.endswith(".pkl") else json_text if name.endswith(".json") else plain
            members[i] = name, mutate(content, rng, raw)
    method = zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(file, "w", method) as archive:  # two members of one name
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name.replace("\0", "") or "x"), content, method)
    return file.getvalue()


def safetensors(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """The header is changed as JSON, and its length put right."""
    size = int.from_bytes(data[:8], "little")
    header = json_text(data[8 : 8 + size], rng, raw) if rng.random() < 0.8 else data[8 : 8 + size]
    if size > len(data) - 8 or header == data[8 : 8 + size]:
        return raw(data)
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def json_text(data: bytes, rng: random.Random, raw: Raw) -> bytes:
    """Values of any depth are replaced, renamed, doubled or dropped, above all in texts that are JSON themselves."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return raw(data)
    if rng.random() < 0.1:
        return raw(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not (places := _places(tree)):
            break
        texts = [(node, key) for node, key in places if isinstance(node[key], str) and node[key][:1] in ("{", "[")]
        (node, key), (other, at) = rng.choice(places if rng.random() < 0.4 else texts or places), rng.choice(places)
        value = node[key]
        if (node, key) in texts and rng.random() < 0.9:
            node[key] = json_text(value.encode("utf-8", "replace"), rng, raw).decode("utf-8", "replace")
            continue
        match rng.randrange(6):
            case 0:
                del node[key]
            case 4 if isinstance(node, dict):
                last = rng.choice(list(node))
                node[key], node[last] = node[last], value
            case 1 if isinstance(node, dict):
                node[rng.choice(("x", f"{key}x", "", "__metadata__"))] = node.pop(key)
            case 2:
                node[key] = copy.deepcopy(other[at])
            case 3 if isinstance(value, (int, str)):
                node[key] = value + rng.choice((-1, 1, 8)) if isinstance(value, int) else value[::-1]
            case _:
                node[key] = copy.deepcopy(rng.choice(_ODD_VALUES))
    return json.dumps(tree).encode()


def _argument(part: bytes, rng: random.Random, raw: Raw) -> bytes:
    """An instruction with another argument; of a text or bytes, the length is put right."""
    layout = _LENGTHS.get(part[:1])
    if layout is None:
        return part[:1] + raw(part[1:])
    content = part[1 + struct.calcsize(layout) :]
    content = pickles(content, rng, raw) if content[:1] == b"\x80" else raw(content)
    if part[:1] in (b"U", b"C", b"\x8c"):
        content = content[:255]
    return part[:1] + struct.pack(layout, len(content)) + content


@lru_cache(maxsize=512)
def _instructions(data: bytes) -> tuple[bytes, ...]:
    """The instructions of all pickles that follow each other, and what comes after them as one part."""
    starts: list[int] = []
    end, waiting = 0, True
    while waiting:
        waiting = False
        try:
            for opcode, _, position in pickletools.genops(data[end:]):
                starts.append(end + (position or 0))
                waiting = opcode.code == "."
        except (ValueError, UnicodeError):
            break
        if waiting:
            end = starts[-1] + 1
            waiting = data[end : end + 1] == b"\x80"
    return tuple(data[a:b] for a, b in zip([0, *starts[1:]], [*starts[1:], len(data)], strict=False))


@lru_cache(maxsize=512)
def _members(data: bytes) -> tuple[tuple[str, bytes], ...]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > _MAX_UNPACKED:
                return ()
            return tuple((entry.filename, archive.read(entry)) for entry in entries)
    except Exception:  # a damaged one raises about anything
        return ()


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every dict and list of a tree, with each key or index that it has."""
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (dict, list)):
            keys = list(node) if isinstance(node, dict) else range(len(node))
            found += [(node, key) for key in keys]
            waiting += [node[key] for key in keys]
    return found
