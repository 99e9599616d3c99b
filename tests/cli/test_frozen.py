"""The command line as it is promised: names, options, defaults and keys, as tests/data/command_line.json lists them.

A change that is meant is written there by `python -m tests.cli.test_frozen`; what goes away should have been told of before.
"""

import json
import shlex
from pathlib import Path
from typing import Any

import click
import pytest

from lia_adapter.cli.main import main
from lia_adapter.cli.options import Job
from lia_adapter.config import key_help

FROZEN = Path(__file__).parents[1] / "data" / "command_line.json"


def command_line() -> dict[str, Any]:
    """By command, its arguments, options and keys, each with what can be asked of it."""
    context = click.Context(main)
    return {name: described(command) for name in main.list_commands(context) if (command := main.get_command(context, name))}


def described(command: click.Command) -> dict[str, Any]:
    """A command as JSON can say it."""
    found: dict[str, Any] = {"arguments": {}, "options": {}}
    for parameter in command.params:
        facts = {
            "required": parameter.required or None, "many": parameter.nargs != 1 or parameter.multiple or None,
            "default": parameter.default if type(parameter.default) in (str, int, float) else None,
            "choices": list(parameter.type.choices) if isinstance(parameter.type, click.Choice) else None,
            "flag": getattr(parameter, "is_flag", None) or None, "hidden": getattr(parameter, "hidden", None) or None,
        }  # fmt: skip
        place = found["options" if isinstance(parameter, click.Option) else "arguments"]
        place[", ".join(parameter.opts)] = {key: value for key, value in facts.items() if value is not None}
    if isinstance(command, Job) and command.keys is not None:
        found["keys"] = [key for key, _ in key_help(command.keys)]
    return found


def test_the_command_line_is_the_promised_one() -> None:
    assert command_line() == json.loads(FROZEN.read_text())


def commands_of(text: str) -> list[str]:
    """The commands in the blocks of code of a Markdown file."""
    lines = [line.strip() for block in text.split("```")[1::2] for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("lia-adapt ")]


README = commands_of((Path(__file__).parents[2] / "README.md").read_text())


def test_the_readme_shows_commands() -> None:
    assert len(README) > 10


@pytest.mark.parametrize("line", README)
def test_commands_of_the_readme_are_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIA_MEMORY", "1GB")  # which --memory would set for good
    name, *arguments = shlex.split(line, comments=True)[1:]
    command = main.get_command(click.Context(main), name)
    assert command is not None
    command.make_context(name, arguments)


if __name__ == "__main__":
    FROZEN.write_text(json.dumps(command_line(), indent=1) + "\n")
