"""A line of progress on the terminal."""

import atexit
import contextlib
import shutil
import sys
import threading
import time
from typing import Any, TextIO, cast

import click

from lia_adapter.progress import duration

__all__ = ["ProgressLine"]

_LOG_S, _LIVE_S = 4.0, 1.0  # after so long without a word, in a log or on a terminal, the line is told again
_REDRAW_S = 0.2  # a line on a terminal changes no faster


class ProgressLine:
    """Progress with an estimate of the time left on stderr: one line that is rewritten, or now and then a new one in a log.

    Where one piece of the work takes long, a thread tells the line again. It ends with the work, and at the latest with the
    command, so that nothing comes after an error message.
    """

    def __init__(self) -> None:
        self.stream, self.live = sys.stderr, sys.stderr.isatty()
        self.name, self.first, self.done, self.total = "", 0, 0, cast(int | None, None)
        self.start = self.moved = self.told = 0.0
        self._shown = False
        self._lock = threading.RLock()  # a signal's handler may print in the very thread that is printing
        self._ended = threading.Event()
        command = click.get_current_context(silent=True)
        if command is None:
            atexit.register(self.close)
            return
        command.call_on_close(self.close)
        if self.live:
            command.with_resource(contextlib.redirect_stdout(cast(TextIO, _Above(self, sys.stdout))))
            command.with_resource(contextlib.redirect_stderr(cast(TextIO, _Above(self, sys.stderr))))

    def __call__(self, name: str, done: int, total: int | None) -> None:
        """Tells that `done` of `total` of the work `name` is done; None where nobody knows how much it is."""
        with self._lock:
            now = time.monotonic()
            finished = total is not None and done >= total
            if finished and self._ended.is_set() and (name, done, total) == (self.name, self.done, self.total):
                return  # told twice
            if name != self.name or self._ended.is_set():
                self._begin(name, done, now)
            elif done != self.done:
                self.moved = now
            self.done, self.total = done, total
            if finished:
                self._ended.set()
                self._print(f"{self._count()}, {duration(now - self.start)}", end="\n")
            elif now - self.told >= (_REDRAW_S if self.live else _LOG_S):
                self._tell()

    def clear(self) -> None:
        """Takes the line off the terminal, to make room for another message."""
        with self._lock:
            if self._shown:
                self._print("", end="")
                self._shown = False
            self.told = time.monotonic()  # a message may come in pieces, and the line must not come between them

    def close(self) -> None:
        """Ends the work, finished or not: nothing more is told of it."""
        with self._lock:
            self._ended.set()
            self.clear()

    def _begin(self, name: str, done: int, now: float) -> None:
        self._ended.set()  # of the work before, which may not have known its end
        self._ended = threading.Event()
        self.name, self.first, self.start, self.moved, self.told = name, done, now, now, -1e9
        threading.Thread(target=self._beat, args=(self._ended,), name="progress", daemon=True).start()

    def _beat(self, ended: threading.Event) -> None:
        """Tells the line again whenever nothing was told for a while."""
        pause = _LIVE_S if self.live else _LOG_S
        with contextlib.suppress(OSError, ValueError):  # who listened is gone, which must not stop the work
            while not ended.wait(max(0.0, self.told + pause - time.monotonic())):
                with self._lock:
                    if not ended.is_set() and time.monotonic() - self.told >= pause:
                        self._tell()

    def _count(self) -> str:
        if self.total is None:
            return f"{self.name} {self.done:,}" if self.done else self.name
        return f"{self.name} {self.done:,}/{self.total:,}"

    def _tell(self) -> None:
        now, left, line = time.monotonic(), 0.0, self._count()
        if self.total is not None and self.done > self.first:
            each = (self.moved - self.start) / (self.done - self.first)
            left = each * (self.total - self.done) - min(now - self.moved, each)
        if left >= 1:
            line += f", {duration(left)} left"
        elif now - self.start >= 1:
            line += f", so far {duration(now - self.start)}"
        self._print(line, end="" if self.live else "\n")

    def _print(self, line: str, end: str) -> None:
        if self.live:  # a longer line than the terminal is wide could not be taken back
            line = f"\r\033[K{line[: shutil.get_terminal_size().columns - 1]}"
        self.told = time.monotonic()
        print(line, end=end, file=self.stream, flush=True)
        self._shown = not end


class _Above:
    """stdout or stderr while a line of progress is shown: what is written takes the line's place, and the line comes again."""

    def __init__(self, line: ProgressLine, stream: TextIO) -> None:
        self._line, self._stream = line, stream

    def write(self, text: str) -> int:
        self._line.clear()
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
