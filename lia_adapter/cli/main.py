"""`lia-adapt`: finds the command and turns errors into one line; torch is not imported before a command runs.

Exit codes: 0 done, 2 wrong input or file, 130 interrupted, 143 terminated (state saved), 1 a bug.
"""

import importlib
import os
import signal
import sys
from types import FrameType
from typing import Any

import click

from lia_adapter.cli.options import Commands
from lia_adapter.errors import LIAError

__all__ = ["main"]

COMMANDS = {
    "convert": "convert", "train-encoder": "train", "encode": "images", "reconstruct": "images", "invert": "images",
    "evaluate": "images", "sample": "images", "inspect": "about", "export": "export", "dataset": "data", "train": "train",
    "demo": "about", "doctor": "about", "compare": "compare", "directions": "directions", "edit": "edit", "mix": "moves",
    "interpolate": "moves", "video": "moves",
}  # fmt: skip
"""Which module of this room has each command."""


class _Group(Commands):
    """Loads a command when it is asked for, and turns our errors into one line and the exit codes promised above."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"lia_adapter.cli.{COMMANDS[cmd_name]}")
        command = getattr(module, cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)  # noqa: S101
        return command

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Runs a command and ends the process."""
        signal.signal(signal.SIGTERM, _terminated)
        kwargs["standalone_mode"] = False
        code = 0
        try:
            code = super().main(*args, **kwargs)  # a number where a command ended by itself with one
        except click.exceptions.NoArgsIsHelpError as error:  # somebody looks around
            click.echo(error.ctx.get_help() if error.ctx else "")
        except LIAError as error:
            _fail(_on_command_line(error), 2)
        except click.ClickException as error:
            _fail(error.format_message(), 2)
        except (KeyboardInterrupt, click.Abort):
            _fail("interrupted; give the same command again: long runs go on from their last save.", 130)
        except (MemoryError, RuntimeError) as error:
            from lia_adapter.budget import is_out_of_memory

            if not is_out_of_memory(error):
                raise
            _fail(_no_memory(), 2)
        except BrokenPipeError:
            sys.stderr.close()
            sys.exit(1)
        sys.exit(code if isinstance(code, int) else 0)


def _terminated(number: int, frame: FrameType | None) -> None:
    _fail("terminated; give the same command again: long runs go on from their last save.", 143)


def _on_command_line(error: LIAError) -> str:
    """The message, with the flags of the command for the arguments that it names."""
    from lia_adapter.cli.options import flag

    return error.told(flag)


def _no_memory() -> str:
    from lia_adapter.budget import VARIABLE, free_memory, human

    given = os.environ.get(VARIABLE)
    less = f"give less than --memory {given}" if given else f"give --memory {human(free_memory() / 4)}"
    return f"out of memory: what the job took did not fit. Close other programs, {less}, or lift the limit of ulimit."


def _fail(message: str, code: int) -> None:
    print(f"lia-adapt: {message}", file=sys.stderr)
    sys.exit(code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lia-adapter")
def main() -> None:
    """Make a StyleGAN checkpoint invertible, without ever executing it."""
