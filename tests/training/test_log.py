"""The folder of a run: its lines, what a resumed run keeps of them, and what is said when they cannot be written."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lia_adapter.errors import LIAError
from lia_adapter.training.log import RunLog


@pytest.fixture(autouse=True)
def no_board(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where TensorBoard is not installed."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


def steps(log: RunLog) -> list[int]:
    return [json.loads(line)["step"] for line in log.stats.read_text().splitlines()]


def test_lines_are_json_with_step_and_seconds(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "a" / "run", "batch = 8\n")
    log.write(1, {"loss": 0.5})
    log.write(20, {"loss": 0.25, "a/b c": 1e-9})
    log.close()
    first, second = map(json.loads, (tmp_path / "a" / "run" / "stats.jsonl").read_text().splitlines())
    assert (first.pop("seconds"), second.pop("seconds")) == pytest.approx((0, 0), abs=60)
    assert first == {"step": 1, "loss": 0.5} and second == {"step": 20, "loss": 0.25, "a/b c": 1e-9}
    assert (tmp_path / "a" / "run" / "recipe.toml").read_text() == "batch = 8\n"
    assert {path.name for path in (tmp_path / "a" / "run").iterdir()} == {"stats.jsonl", "recipe.toml"}


def test_a_new_recipe_takes_the_place_of_the_old(tmp_path: Path) -> None:
    RunLog(tmp_path, "a = 1\n")
    RunLog(tmp_path, "a = 2\n")
    assert (tmp_path / "recipe.toml").read_text() == "a = 2\n"


@pytest.mark.parametrize(("step", "kept"), [(0, []), (3, [1, 2, 3]), (2, [1, 2]), (9, [1, 2, 3, 4, 5])])
def test_a_resumed_run_keeps_what_came_before_its_step(tmp_path: Path, step: int, kept: list[int]) -> None:
    log = RunLog(tmp_path, "")
    for i in range(1, 6):
        log.write(i, {"loss": 1 / i})
    again = RunLog(tmp_path, "")
    again.resume(step)
    assert steps(again) == kept
    again.write(step + 1, {"loss": 0.0})
    assert steps(again) == [*kept, step + 1]


@pytest.mark.parametrize("torn", ['{"step": 3, "se', '"step"\n', "[3]\n", '{"loss": 1}\n', "\x00\x00", '{"step": null}\n'])
def test_half_a_line_of_a_killed_run_is_dropped(tmp_path: Path, torn: str) -> None:
    log = RunLog(tmp_path, "")
    for i in (1, 2):
        log.write(i, {"loss": 1.0})
    with log.stats.open("a") as file:
        file.write(torn)
    log.resume(10)
    assert steps(log) == [1, 2]


def test_bytes_that_are_no_text_are_dropped(tmp_path: Path) -> None:
    log = RunLog(tmp_path, "")
    log.write(1, {})
    log.stats.write_bytes(log.stats.read_bytes() + b"\xff\xfe\x80")
    log.resume(10)
    assert steps(log) == [1]


def test_a_run_without_lines_is_resumed_to_none(tmp_path: Path) -> None:
    log = RunLog(tmp_path, "")
    log.resume(5)
    assert log.stats.read_text() == ""


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LIAError, match="file"):
        RunLog(tmp_path / "file" / "run", "")


def test_a_full_disk_is_said_with_what_to_do(tmp_path: Path) -> None:
    log = RunLog(tmp_path, "")
    log.stats.mkdir()  # no line can be written there
    with pytest.raises(LIAError, match=r"cannot write .*stats\.jsonl: .*\. Free some space; the same command goes on\.$"):
        log.write(1, {"loss": 1.0})


def test_tensorboard_gets_the_same_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            said.append(folder)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            said.append((name, value, step))

        def flush(self) -> None:
            said.append("flush")

        def close(self) -> None:
            said.append("close")

    board = ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    log = RunLog(tmp_path, "")
    log.write(4, {"loss": 0.5, "pixel": 0.25})
    log.close()
    assert said == [str(tmp_path), ("loss", 0.5, 4), ("pixel", 0.25, 4), "flush", "close"]
    assert steps(log) == [4]
