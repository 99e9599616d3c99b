"""What files and this machine are: `inspect`, `doctor`, and `demo`, which shows what the program does."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from lia_adapter.cli.options import Job, assume, flag, memory, out
from lia_adapter.cli.terminal import ProgressLine
from lia_adapter.cli.words import conversion_lines, encoder_lines, generator_lines, lia_file_lines

if TYPE_CHECKING:
    from lia_adapter.jobs.inspect import Seen

__all__ = ["demo", "doctor", "inspect"]


@click.command(cls=Job)
@click.argument("file")
@assume
def inspect(file: str, assume: Mapping[str, str]) -> None:
    """Say what FILE is, what it names and what lia-adapt would do with it. Safe on hostile files."""
    from lia_adapter.jobs.inspect import inspect as look

    seen = look(file, assume=assume)
    if seen.header is not None:
        click.echo(lia_file_lines(seen.name, seen.header))
        return
    found = seen.file
    assert found is not None  # noqa: S101
    click.echo(f"file       {found.name}, {found.size:,} bytes, {found.container}")
    click.echo(f"sha256     {found.sha256}")
    if found.checkpoint is not None:
        if seen.lia is not None:
            click.echo(generator_lines(seen.lia))
        for note in found.checkpoint.notes:
            click.echo(f"note       {note}")
        for assumption in found.checkpoint.assumptions:
            others = " or ".join(option for option in assumption.options if option != assumption.value)
            click.echo(
                f"assumed    {assumption.key} {assumption.value}. {assumption.why} Else: --assume {assumption.key}={others}"
            )
    if found.symbols:
        click.echo(f"names      {len(found.symbols)} classes and functions (none was looked up or called):")
        for symbol in found.symbols:
            click.echo(f"           {symbol}")
    click.echo(f"verdict    {_verdict(seen)}")
    if found.spoiled:
        raise click.exceptions.Exit(2)  # whoever asks before a long job should not go on


@click.command(cls=Job)
@out("The result", "demo.safetensors")
@memory
def demo(out: str | None) -> None:
    """Show the whole way on the small model that ships with lia-adapter: convert, train an encoder, reconstruct, edit."""
    from lia_adapter.jobs.demo import run_demo
    from lia_adapter.jobs.run import checked_out
    from lia_adapter.reports.demo import write_demo_report
    from lia_adapter.tensorfile import LIA_FILE

    target = checked_out(out, "demo.safetensors", kind=LIA_FILE)
    shown = run_demo(target, ProgressLine())
    page = write_demo_report(shown, target)
    click.echo(conversion_lines(shown.lia.metrics))
    click.echo(encoder_lines(shown.lia.metrics["encoder"]))
    click.echo(f"wrote {target}; open {page} in a browser")


@click.command()
def doctor() -> None:
    """Say which versions and devices are here and what will run where."""
    import torch

    from lia_adapter.devices import default_device
    from lia_adapter.lia_file import versions
    from lia_adapter.ops import native

    cuda = "none"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        cuda = f"{', '.join(names)}, CUDA {torch.version.cuda}"
    elif torch.version.cuda:
        cuda = f"torch is built for CUDA {torch.version.cuda}, but sees no GPU"
    lines = {
        "versions": ", ".join(f"{name} {number}" for name, number in versions().items()),
        "CPU": f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "GPU": cuda,
        **native.report(),
        "runs on": default_device(),
    }
    for name, text in lines.items():
        click.echo(f"{name:<10} {text}")


def _verdict(seen: "Seen") -> str:
    """What can be done with a file; of a refused one why not, by the flags of the command line."""
    error = None if seen.file is None else seen.file.error
    return seen.verdict if error is None else f"refused: {error.told(flag)}"
