"""The line of progress where streams are odd or steps are quick, and the choice of a device."""

import contextlib
import io
import sys
import threading
import time
from pathlib import Path

import click
import pytest
import torch

from lia_adapter.cli import terminal
from lia_adapter.cli.terminal import ProgressLine
from lia_adapter.devices import device_name
from lia_adapter.errors import ConfigError
from lia_adapter.progress import duration
from tests.cli.test_convert_sample_inspect import run


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


class Gone(io.StringIO):
    """A pipe whose reader has gone after the first line."""

    def write(self, text: str) -> int:
        if "\n" in self.getvalue():
            raise BrokenPipeError
        return super().write(text)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread has nothing to say of its own in these tests."""
    monkeypatch.setattr(terminal, "_LOG_S", 1000.0)
    monkeypatch.setattr(terminal, "_LIVE_S", 1000.0)


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "progress"}


def wait_for(count: int, besides: set[threading.Thread]) -> None:
    """Until there are so many threads more than those of earlier tests."""
    end = time.monotonic() + 20
    while len(threads() - besides) > count and time.monotonic() < end:
        time.sleep(0.01)
    assert len(threads() - besides) == count


def line_on(stream: io.StringIO) -> ProgressLine:
    with contextlib.redirect_stderr(stream):
        return ProgressLine()


# -- in a log


def test_a_log_gets_one_line_for_the_beginning_and_one_for_the_end() -> None:
    log = io.StringIO()
    line = line_on(log)
    for done in range(10_001):
        line("draw", done, 10_000)
    line.close()
    assert log.getvalue().splitlines() == ["draw 0/10,000", f"draw 10,000/10,000, {duration(0)}"]
    assert "\r" not in log.getvalue() and "\033" not in log.getvalue()


def test_work_without_a_known_end_counts_once_it_has_something_to_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_LOG_S", 0.0)
    log = io.StringIO()
    line = line_on(log)
    monkeypatch.setattr(line, "_beat", lambda ended: None)
    for done in (0, 1, 1234567):
        line("bytes", done, None)
    line.close()
    assert log.getvalue().splitlines() == ["bytes", "bytes 1", "bytes 1,234,567"]


def test_nothing_to_do_is_done_at_once() -> None:
    log = io.StringIO()
    line = line_on(log)
    line("encode", 0, 0)
    assert log.getvalue() == "encode 0/0, 0 s\n"


def test_more_than_there_was_to_do_is_an_end_as_well() -> None:
    log = io.StringIO()
    line = line_on(log)
    line("draw", 5, 4)
    assert log.getvalue() == "draw 5/4, 0 s\n"


def test_work_of_the_same_name_is_told_again_after_its_end() -> None:
    log = io.StringIO()
    line = line_on(log)
    for _ in range(2):
        line("measure", 0, 1)
        line("measure", 1, 1)
    line("measure", 1, 1)  # told twice
    assert log.getvalue().splitlines() == ["measure 0/1", "measure 1/1, 0 s"] * 2


def test_each_work_has_a_time_of_its_own() -> None:
    log = io.StringIO()
    line = line_on(log)
    line("a", 0, 1)
    line.start -= 100
    line("b", 0, 1)
    line("b", 1, 1)
    line("a", 0, 1)
    line("a", 1, 1)
    assert log.getvalue().splitlines() == ["a 0/1", "b 0/1", "b 1/1, 0 s", "a 0/1", "a 1/1, 0 s"]


def test_one_thread_at_most_and_none_when_the_work_is_over() -> None:
    before, line = threads(), line_on(io.StringIO())
    for name in ("a", "b", "c"):
        line(name, 0, None)
    wait_for(1, before)
    line.close()
    line.close()  # once more does no harm
    wait_for(0, before)


def test_a_reader_that_has_gone_stops_the_thread_and_not_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_LOG_S", 0.01)
    problems: list[object] = []
    monkeypatch.setattr(threading, "excepthook", problems.append)
    before = threads()
    line_on(Gone())("draw", 0, 10)
    wait_for(0, before)
    assert not problems


# -- on a terminal


def test_a_terminal_is_not_redrawn_for_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    screen = Screen()
    line = line_on(screen)
    for done in range(1000):
        line("draw", done, 1001)
    assert screen.getvalue() == "\r\033[Kdraw 0/1,001"
    line.told -= 1
    line("draw", 1000, 1001)
    line("draw", 1001, 1001)
    assert screen.getvalue() == "".join(
        f"\r\033[K{text}" for text in ("draw 0/1,001", "draw 1,000/1,001", "draw 1,001/1,001, 0 s\n")
    )


def test_a_line_that_is_over_is_not_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    line = line_on(screen)
    line("draw", 1, 1)
    shown = screen.getvalue()
    line.clear()
    line.close()
    assert screen.getvalue() == shown


def test_streams_under_a_line_are_still_streams() -> None:
    """click, logging and others ask them for more than to write."""
    screen = Screen()
    with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen), click.Context(click.Command("sample")):
        line = ProgressLine()
        assert sys.stdout is not screen and sys.stderr is not screen
        for stream in (sys.stdout, sys.stderr):
            assert stream.isatty() and stream.encoding == screen.encoding
            assert stream.write("four") == 4
            stream.flush()
        line("draw", 0, 2)
        click.echo("a message")
        click.echo("an error", err=True)
    assert screen.getvalue() == "fourfour\r\033[Kdraw 0/2\r\033[Ka message\nan error\n"


def test_in_a_log_the_streams_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with click.Context(click.Command("sample")):
        ProgressLine()
        assert (sys.stdout, sys.stderr) == before


# -- words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"), (0.5, "0 s"), (1.5, "2 s"), (60, "1 min 00 s"), (7199, "119 min 59 s"), (7199.6, "2 h 00 min"),
        (7200, "2 h 00 min"), (359_999, "99 h 59 min"),
    ],
)  # fmt: skip
def test_durations_at_the_edges(seconds: float, words: str) -> None:
    assert duration(seconds) == words


# -- the device


def test_the_device_that_was_named_or_the_best_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_name("cpu") == "cpu"
    for there, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert device_name(None) == device


@pytest.mark.parametrize("name", ["gpu", "", "cuda:99", "cpu:x"])
def test_a_device_that_cannot_be_used_is_said_in_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=f"device {name!r}") as error:
        device_name(name)
    assert "\n" not in str(error.value) and "cannot be used" in str(error.value)


@pytest.mark.parametrize("group", [(), ("directions",)])
def test_without_a_command_the_commands_are_told_in_whole_sentences(group: tuple[str, ...], tmp_path: Path) -> None:
    result = run(*group, cwd=tmp_path)
    assert result.returncode == 0 and not result.stderr and "..." not in result.stdout.split("Commands:")[1]
    listed = " ".join(result.stdout.split("Commands:")[1].split())
    assert (
        "Find directions by METHOD in the codes of LIA" if group else "Draw the seeds of FILE, a LIA file or a plain"
    ) in listed
    assert result.stdout == run(*group, "--help", cwd=tmp_path).stdout
