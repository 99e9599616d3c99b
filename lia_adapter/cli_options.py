"""Options that several commands share."""

import os
from collections.abc import Mapping

import click

from lia_adapter.budget import VARIABLE, parse_memory

__all__ = ["dry_run", "echo_estimate", "generator_file", "memory"]


def _keep(context: click.Context, option: click.Parameter, value: str | None) -> None:
    if value is not None:
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
dry_run = click.option("-n", "--dry-run", is_flag=True, help="Print what would run and what it would take, and stop.")


def echo_estimate(lines: Mapping[str, str]) -> None:
    """Prints what a job would take."""
    for name, text in lines.items():
        click.echo(f"{name:<10} {text}")
