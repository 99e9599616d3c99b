"""Whole numbers of more than eight bits: how many of them the images of a data set use.

A file of 16 bits may hold the 12 of a scanner, and one of 32 the 8 of a camera. The file does not say so; the largest value of
all images of its kind does. By the type alone such images would be nearly black.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from lia_adapter.data.decode import Deep, open_deep
from lia_adapter.errors import LIAError, argument
from lia_adapter.notes import say_once

__all__ = ["Depths"]

_WORKERS = 8


class Depths:
    """Tells `decode` how many bits count. Many threads may ask.

    Args:
        read: Gives the bytes of a file by its name.
        names: Of all images of the data set, also of those that are not asked for: a split must change no brightness.
        path: Of the data set, for the one line that is told.
        bits: What the user says; None: as many as the largest value of each kind of file takes, at least 8.
    """

    def __init__(self, read: Callable[[str], bytes], names: Iterable[str], path: object, bits: int | None) -> None:
        self._read, self._names, self._path, self._bits = read, names, path, bits
        self._found: dict[str, int] | None = None
        self._lock = threading.Lock()

    def __call__(self, deep: Deep) -> int:
        """The bits of an image; the first one that asks waits until all were looked at."""
        if self._bits is not None:
            return self._bits
        with self._lock:
            if self._found is None:
                self._found = self._look()
        return self._found.get(deep.kind, deep.bits)

    def _look(self) -> dict[str, int]:
        largest: dict[str, int] = {}
        count: dict[str, int] = {}
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="depth") as pool:
            for deep in pool.map(self._deep, self._names):
                if deep is not None:
                    kind, most = deep
                    largest[kind], count[kind] = max(largest.get(kind, 0), most), count.get(kind, 0) + 1
        found = {kind: max(8, most.bit_length()) for kind, most in largest.items()}
        for kind, bits in found.items():
            say_once(
                f"{self._path}: {count[kind]:,} {kind}, taken as {bits} bits, 0 to {2**bits - 1:,}, as their largest value is "
                f"{largest[kind]:,} ({argument('bits')} N says otherwise)"
            )
        return found

    def _deep(self, name: str) -> tuple[str, int] | None:
        try:
            deep = open_deep(self._read(name))
        except LIAError:  # which is told when its turn comes
            return None
        return None if deep is None else (deep.kind, deep.largest)
