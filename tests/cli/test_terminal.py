"""The line of progress: what it says and when, in a log and on a terminal, and that it is silent when the work is over."""

import contextlib
import io
import re
import subprocess
import sys
import time

import click
import pytest

from lia_adapter.cli import terminal
from lia_adapter.cli.terminal import ProgressLine
from lia_adapter.progress import duration

BEAT = 0.05


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """What is to be seen in the end."""
        shown = []
        for line in self.getvalue().split("\n"):
            assert line.count("\r") == line.count("\r\033[K")  # never back without taking away what was there
            shown.append(line.rpartition("\r\033[K")[2])
        return shown


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_LOG_S", BEAT)
    monkeypatch.setattr(terminal, "_LIVE_S", BEAT)


@pytest.fixture
def screen(quick: None) -> Screen:
    return Screen()


def at(line: ProgressLine, seconds: float) -> None:
    """As if all of it had happened earlier."""
    line.start, line.moved, line.told = line.start - seconds, line.moved - seconds, line.told - seconds


def until(capsys: pytest.CaptureFixture[str], pattern: str) -> str:
    text, end = "", time.monotonic() + 20
    while not re.search(pattern, text):
        assert time.monotonic() < end, text
        time.sleep(BEAT / 5)
        text += capsys.readouterr().err
    return text


def test_the_first_line_comes_at_once_and_the_last_tells_the_time(capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine()
    line("draw", 0, 2000)
    assert capsys.readouterr().err == "draw 0/2,000\n"
    line("draw", 7, 2000)  # too soon for a log
    at(line, 125)
    line("draw", 2000, 2000)
    line("draw", 2000, 2000)  # told twice
    assert capsys.readouterr().err == "draw 2,000/2,000, 2 min 05 s\n"


def test_the_time_left_is_told_while_one_step_takes_long(quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine()
    line("draw", 10, 14)  # resumed: what was done before tells nothing of the time
    at(line, 100)
    line("draw", 11, 14)
    until(capsys, "draw 11/14, 5 min 00 s left\n")
    at(line, 60)
    until(capsys, "draw 11/14, 4 min 00 s left\n")
    at(line, 1000)  # longer than expected: two more to come at least
    until(capsys, "draw 11/14, 3 min 20 s left\n")
    line.close()


def test_without_an_end_or_a_first_step_the_time_so_far_is_told(quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine()
    line("open a.pkl", 0, None)
    at(line, 12)
    assert until(capsys, "open a.pkl, so far 12 s\n").startswith("open a.pkl\n")
    line("bytes", 1000, None)
    at(line, 12)
    until(capsys, "bytes 1,000, so far 12 s\n")
    line("draw", 0, 4)
    at(line, 75)
    assert "bytes" not in until(capsys, "draw 0/4, so far 1 min 15 s\n")  # one work at a time
    line.close()


def test_nothing_is_told_of_finished_work(quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine()
    line("draw", 0, 2)
    line("draw", 2, 2)
    line("open", 0, None)
    line.close()
    capsys.readouterr()
    time.sleep(3 * BEAT)
    assert capsys.readouterr().err == ""
    line("draw", 0, 2)  # the same again
    assert until(capsys, "(draw 0/2\n){2}").startswith("draw 0/2\n")
    line.close()


def test_the_end_of_a_command_ends_the_line(quick: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError), click.Context(click.Command("sample")):
        ProgressLine()("open", 0, None)
        raise ValueError
    capsys.readouterr()
    time.sleep(3 * BEAT)
    assert capsys.readouterr().err == ""


def test_on_a_terminal_one_line_changes_and_makes_room_for_messages(screen: Screen) -> None:
    streams = contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen)
    with streams[0], streams[1], click.Context(click.Command("sample")):
        line = ProgressLine()
        line("a long name of work", 0, None)
        line("draw", 0, 2)
        print("one message")
        sys.stderr.write("and another\n")
        deadline = time.monotonic() + 20
        while screen.lines()[-1] != "draw 0/2" and time.monotonic() < deadline:
            time.sleep(BEAT / 5)  # the line comes again
        assert screen.lines() == ["one message", "and another", "draw 0/2"]
        line("draw", 2, 2)
        line("open", 0, None)
        print("the end")
        line("close", 0, None)
    lines = screen.lines()
    assert lines[:2] + lines[3:] == ["one message", "and another", "the end", ""]
    assert lines[2].startswith("draw 2/2, ")


def test_a_line_is_no_longer_than_the_terminal_is_wide(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    with contextlib.redirect_stderr(screen):
        line = ProgressLine()
    line("x" * 100, 0, None)
    assert screen.lines() == ["x" * 19]
    line.close()
    assert screen.lines() == [""]


def test_the_line_keeps_no_process_alive_and_its_exit_is_clean() -> None:
    code = "from lia_adapter.cli import terminal; terminal._LOG_S = 1e-4; terminal.ProgressLine()('work', 0, None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert set(done.stderr.splitlines()) == {"work"}


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0.4, 59.4, 59.6, 3725, 18_130)] == [
        "0 s", "59 s", "1 min 00 s", "62 min 05 s", "5 h 02 min",
    ]  # fmt: skip
