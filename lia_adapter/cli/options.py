"""Options that several commands share."""

import functools
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from lia_adapter.config import key_help
from lia_adapter.errors import ConfigError, told
from lia_adapter.keys import ALIGNMENTS, RESIZE_MODES
from lia_adapter.notes import LOGGER, say_once

__all__ = [
    "Commands",
    "Job",
    "alignment",
    "assume",
    "batch",
    "bits",
    "device",
    "dry_run",
    "echo_estimate",
    "echo_list",
    "finite",
    "flag",
    "generator_file",
    "labels",
    "memory",
    "out",
    "recipe_file",
    "recipes",
    "resize_mode",
    "split",
    "truncation",
]

_LISTED = 10  # lines of a list that are shown
_FLAGS = {"out": "-o", "psi": "--trunc", "LIA_MEMORY": "--memory", "label": "--class or --label", "numbers": "--label"}


def flag(argument: str) -> str:
    """What the command line calls an argument of the Python API."""
    return _FLAGS.get(argument) or f"--{argument.replace('_', '-')}"


class Commands(click.Group):
    """A group whose help says of each command its first sentence, whole."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Prints the commands, as wide as the text needs."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(limit=1000)) for name, command in found if command])


class Job(click.Command):
    """A command that works: what is told in passing comes on stderr, and large tensors are given back when they are freed.

    Args:
        keys: The config whose keys the command takes as KEY=VALUE, for the help.
    """

    def __init__(self, *args: Any, keys: type | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.keys = keys

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Prints the options, and the keys below them."""
        super().format_options(ctx, formatter)
        if self.keys is not None:
            with formatter.section("Keys (KEY=VALUE)"):
                formatter.write_dl(key_help(self.keys))

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        from lia_adapter.budget import map_large_tensors

        map_large_tensors()
        say_once.cache_clear()
        if not LOGGER.handlers:  # of many processes the first one tells
            LOGGER.addHandler(_ToStderr() if os.environ.get("RANK", "0") == "0" else logging.NullHandler())
        return super().invoke(ctx)


class _ToStderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Prints what is told in passing, where a line of progress gives way to it."""
        click.echo(told(getattr(record, "message_of", record.getMessage()), flag), err=True)


def finite(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """A callback that refuses what is no number, or has no end: no bound does, as nothing is smaller or larger than nan."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is no finite number.", context, option)
    return value


def _keep(context: click.Context, option: click.Parameter, value: str | None) -> None:
    if value is not None:
        from lia_adapter.budget import VARIABLE, parse_memory

        parse_memory(value)
        os.environ[VARIABLE] = value


memory = click.option(
    "--memory", metavar="SIZE", expose_value=False, callback=_keep,
    help="What the job may take, such as 6GB (or LIA_MEMORY); default: half of what is free.",
)  # fmt: skip
generator_file = click.option(
    "--generator", metavar="FILE",
    help="The checkpoint of an adapter-only LIA; or module.py:make, your Python file that builds it: this RUNS that file.",
)  # fmt: skip


def _assumptions(context: click.Context, option: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    if wrong := [value for value in values if "=" not in value]:
        raise click.BadParameter(f"{wrong[0]!r} is no KEY=VALUE, such as fused_scale=all.", context, option)
    return {key: said for key, _, said in (value.partition("=") for value in values)}


assume = click.option(
    "--assume", metavar="KEY=VALUE", multiple=True, callback=_assumptions,
    help="What a checkpoint does not say itself, where the usual is wrong: inspect tells what was assumed.",
)  # fmt: skip
dry_run = click.option("-n", "--dry-run", is_flag=True, help="Print what would run and what it would take, and stop.")
bits = click.option(
    "--bits", type=click.IntRange(1, 32), metavar="N",
    help="Of integer images of more than 8 bits, how many count; default: as many as their largest value takes.",
)  # fmt: skip


truncation = click.option("--trunc", "psi", type=float, callback=finite, default=1.0, show_default=True, help="Truncation psi.")
device = click.option("--device", help="cpu, cuda, cuda:1, mps; default: cuda where there is one.")
batch = click.option(
    "--batch", type=click.IntRange(min=1), help="Images a pass, at most; default: what memory and speed allow."
)


def split(default: str | None = "all", note: str = "") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option --split.

    Args:
        default: Where the user gives none.
        note: What the help says besides.
    """
    words = f'Which images: all, "first N", "last N", "list FILE", "held out", or one of these after "not".{note}'
    return click.option("--split", default=default, show_default=True, help=words)


def resize_mode(default: str | None = "crop", note: str = "") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option --resize-mode, which was --fit up to the last release.

    Args:
        default: Where the user gives none.
        note: What the help says besides.
    """
    words = f"How images come to the size: the middle alone; all, between black bars; or all, distorted.{note}"

    def options(command: Callable[..., None]) -> Callable[..., None]:
        @click.option("--resize-mode", type=click.Choice(RESIZE_MODES), default=default, show_default=True, help=words)
        @click.option("--fit", type=click.Choice(RESIZE_MODES), hidden=True)
        @functools.wraps(command)
        def run(*args: Any, resize_mode: str | None, fit: str | None, **kwargs: Any) -> None:
            if fit is not None:
                say_once("--fit is called --resize-mode now; its old name is read for one more release")
            command(*args, resize_mode=resize_mode if fit is None else fit, **kwargs)

        return run

    return options


def alignment(command: Callable[..., None]) -> Callable[..., None]:
    """The options --align and --landmarks."""
    words = "Cut faces out by their landmarks, upright, as FFHQ has them, in place of --resize-mode."
    file = 'Where faces are: {"a.jpg": [[x, y], ...]}, 68 points of each, or 5: eyes, nose, corners of the mouth.'
    command = click.option("--landmarks", metavar="FILE.json", help=file)(command)
    return click.option("--align", type=click.Choice(ALIGNMENTS), help=words)(command)


def recipes(context: click.Context, option: click.Parameter, begun: str) -> list[CompletionItem]:
    """Completion of a recipe: the shipped ones, or a file."""
    from lia_adapter.config import recipe_names

    shipped = [CompletionItem(name) for name in recipe_names() if name.startswith(begun)]
    return shipped or [CompletionItem(begun, type="file")]


def recipe_file(default: str, words: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option --recipe."""
    return click.option("--recipe", default=default, show_default=True, shell_complete=recipes, help=words)


def out(what: str, default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option -o.

    Args:
        what: What it names.
        default: Its name in the current folder where the user gives none, for the help.
    """
    return click.option("-o", "--out", help=f"{what}; default {default} in the current folder.")


class _Numbers(click.ParamType):  # type: ignore[type-arg]  # generic to its stubs, not to every release
    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            numbers = (math.nan,)
        if not all(math.isfinite(number) for number in numbers):
            self.fail(f"{value!r:.80} is no label; expected numbers with commas between them, such as 1.0,100.0", param, ctx)
        return numbers


def labels(of: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options --class and --label, of which a command gets one as `label`: an int, a tuple of floats, or None.

    Args:
        of: What has the label, for the help.
    """

    def options(command: Callable[..., None]) -> Callable[..., None]:
        @click.option("--class", "class_", type=int, metavar="N", help=f"The class of {of}.")
        @click.option(
            "--label", "numbers", type=_Numbers(), metavar="A,B,...",
            help=f"The label of {of}, where labels are no classes but numbers: 1.0,100.0, or the 25 of EG3D's camera.",
        )  # fmt: skip
        @functools.wraps(command)
        def run(*args: Any, class_: int | None, numbers: tuple[float, ...] | None, **kwargs: Any) -> None:
            if class_ is not None and numbers is not None:
                raise ConfigError("--class and --label both say what the label is; give one of them.")
            command(*args, label=class_ if numbers is None else numbers, **kwargs)

        return run

    return options


def echo_estimate(lines: Mapping[str, str]) -> None:
    """Prints what a job would take."""
    for name, text in lines.items():
        click.echo(f"{name:<10} {text}")


def echo_list(name: str, lines: Sequence[str], note: str = "", width: int = 12) -> None:
    """Prints a count and the first few of many lines, in a column behind names of so many letters."""
    if lines:
        click.echo(f"{name:<{width}} {len(lines):,}{note}")
    for line in lines[:_LISTED]:
        click.echo(f"{'':<{width}} {line}")
    if len(lines) > _LISTED:
        click.echo(f"{'':<{width}} and {len(lines) - _LISTED:,} more")
