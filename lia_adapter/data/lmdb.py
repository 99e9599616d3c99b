"""LMDB's data files, as LSUN comes in and rosinality's program writes, read without LMDB's library.

That trusts a file, and one wrong number kills the process.

The format is that of LMDB 0.9 on 64-bit little-endian machines: a B+ tree of pages, from the root that the newer of the first
two pages names. A leaf holds keys in ascending order, each with its value or, if that is long, the first of the pages that do.
"""

import os
import re
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from lia_adapter.errors import LIAError
from lia_adapter.notes import say_once

__all__ = ["image_entries", "read_index"]

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_META = struct.Struct("<16x2I16xI48xH34xQ8xQ")  # magic, version, page size, flags of the tree, its root, transaction number
_PAGE = struct.Struct("<Q2xHH2x")  # page number, kind, where the offsets of the nodes end, which begin after this
_NODE = struct.Struct("<4H")  # the number of a page or the size of a value, low and high half; flags; size of the key
_BRANCH, _LEAF, _KINDS = 1, 2, 15
_FAR = 1  # flag of a node whose value lies in pages of its own
_NO_ROOT = 2**64 - 1
_LENGTH = b"length"  # where rosinality's prepare_data.py keeps the number of images
_SIZED = re.compile(rb"([1-9][0-9]{0,4})-([0-9]{5,})")  # its key of an image: the size, and the number of the image


def read_index(path: Path) -> dict[bytes, tuple[int, int]]:
    """Where the values of an LMDB data file are; the values themselves are not looked at.

    Args:
        path: `data.mdb`.

    Returns:
        Offset and size of each value in bytes, by its key, in the order of the keys.

    Raises:
        LIAError: It is no such file, damaged, cut short, or of another kind than LSUN's.
        OSError: It can't be read.
    """
    with open(path, "rb") as file:
        try:
            return dict(_values(file))
        except struct.error:
            why = "is damaged or cut short"
        except ValueError as error:
            why = str(error)
    raise LIAError(f"{path} {why}; expected the LMDB file of a data set such as LSUN. Download or make it again.")


def _values(file: BinaryIO) -> Iterator[tuple[bytes, tuple[int, int]]]:
    end = os.fstat(file.fileno()).st_size
    page_size, root = _root(file)
    waiting, seen, previous = [root], {_NO_ROOT}, b""
    while root != _NO_ROOT and waiting:
        number = waiting.pop()
        start = number * page_size
        if number in seen or start + page_size > end:
            raise struct.error
        seen.add(number)
        file.seek(start)
        page = file.read(page_size)
        own, kind, lower = _PAGE.unpack_from(page)
        offsets = struct.unpack_from(f"<{(lower - _PAGE.size) // 2}H", page, _PAGE.size)
        nodes = [_NODE.unpack_from(page, offset) for offset in offsets]
        # Nodes that overlap could make a small file fill the memory with keys.
        if own != number or sum(_NODE.size + node[3] for node in nodes) > page_size:
            raise struct.error
        if kind & _KINDS == _BRANCH:
            waiting += [low | high << 16 | flags << 32 for low, high, flags, _ in reversed(nodes)]
            continue
        if kind & _KINDS != _LEAF:
            raise struct.error
        for offset, (low, high, flags, key_size) in zip(offsets, nodes, strict=True):
            at = offset + _NODE.size + key_size
            key, size = page[at - key_size : at], low | high << 16
            if flags & ~_FAR:
                raise ValueError("holds databases within its database, or several values of a key")
            place = struct.unpack_from("<Q", page, at)[0] * page_size + _PAGE.size if flags else start + at
            if key <= previous or place + size > end:
                raise struct.error
            yield key, (place, size)
            previous = key


def _root(file: BinaryIO) -> tuple[int, int]:
    """The size of a page, and the number of the tree's root as of the last write that was finished."""
    head = file.read(_META.size)
    if len(head) < _META.size or _META.unpack(head)[0] != _MAGIC:
        raise ValueError("is not an LMDB file of a 64-bit machine, or damaged at its start")
    _, version, page_size, *_ = first = _META.unpack(head)
    if version != _VERSION:
        raise ValueError(f"is of LMDB's format {version}, and {_VERSION} is read")
    if page_size not in (2**bits for bits in range(9, 17)):
        raise struct.error
    file.seek(page_size)
    second = _META.unpack(file.read(_META.size))
    *_, flags, root, _ = max((meta for meta in (first, second) if meta[0] == _MAGIC), key=lambda meta: meta[-1])
    if flags:
        raise ValueError("orders its keys in another way, or has several values of a key")
    return page_size, root


def image_entries(path: Path, index: Mapping[bytes, tuple[int, int]], side: int) -> dict[str, tuple[int, int]]:
    """Which entries are images, by a name with an ending, in the order of their keys.

    LSUN's keys are hashes, each of an image, which its own program gives the ending .webp. rosinality's prepare_data.py writes
    each image in several sizes, 256-00000 and so on, and their number: of those one size is taken.

    Args:
        path: Of the data set, for what is told of it.
        index: From `read_index`.
        side: Pixels that are needed: the smallest size is taken that has as many, or else the largest.
    """
    keys = [key for key in index if key != _LENGTH]
    matches = [match for key in keys if (match := _SIZED.fullmatch(key))]
    sizes: dict[int, set[bytes]] = defaultdict(set)
    for match in matches:
        sizes[int(match[1])].add(match[2])
    all_have_all = len(sizes) > 1 and all(numbers == next(iter(sizes.values())) for numbers in sizes.values())
    if not keys or len(matches) != len(keys) or not (_LENGTH in index or all_have_all):
        return {key.decode("latin-1") + ".webp": place for key, place in index.items()}
    taken = min((size for size in sizes if size >= side), default=max(sizes))
    if len(sizes) > 1:
        others = ", ".join(map(str, sorted(sizes)))
        say_once(f"{path}: each image is there in several sizes ({others}); of size {taken} they are read")
    return {match[0].decode() + ".jpg": index[match[0]] for match in matches if int(match[1]) == taken}
