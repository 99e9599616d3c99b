"""`lia-adapt dataset`: images from anywhere to a data-set zip."""

import re
from pathlib import Path

import click

from lia_adapter.cli_options import bits
from lia_adapter.errors import ConfigError
from lia_adapter.files import check_writable
from lia_adapter.terminal import ProgressLine

__all__ = ["dataset"]

_LISTED = 10  # unreadable images that are named


@click.command()
@click.argument("source", metavar="SOURCE")
@click.option("-o", "--out", type=Path, required=True, help="The data set, .zip.")
@click.option("--size", required=True, metavar="WxH", help="Width and height of the images: 128x96.")
@click.option(
    "--fit", type=click.Choice(["crop", "letterbox", "stretch"]), default="crop", show_default=True,
    help="The middle alone; all, between black bars; or all, distorted.",
)  # fmt: skip
@click.option(
    "--split", default="all", show_default=True,
    help='Which images: all, "first N", "last N", "list FILE", or one of these after "not".',
)  # fmt: skip
@bits
@click.option("--max", "limit", type=click.IntRange(min=1), help="Stop after so many images that could be read.")
def dataset(source: str, out: Path, size: str, fit: str, split: str, bits: int | None, limit: int | None) -> None:
    """Make a data-set zip of SOURCE, its images all of one size, that train and NVlabs' programs read.

    SOURCE is a folder (searched recursively), a data-set zip, a folder with an LMDB (data.mdb, LSUN's or rosinality's), or
    toyfaces. Images are taken in order of their names, those of an LMDB in its own order, and labels are kept. OUT appears when
    it is whole.
    """
    from lia_adapter.commands.dataset import make_dataset

    match = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", size)
    if not match:
        raise ConfigError(f"--size is {size!r}; expected width x height in pixels, for example 128x96.")
    if out.suffix != ".zip":
        raise ConfigError(f"-o {out} must end in .zip; expected for example {out.name}.zip.")
    check_writable(out)
    width, height = int(match[1]), int(match[2])
    written = make_dataset(source, out, (height, width), fit=fit, split=split, limit=limit, bits=bits, progress=ProgressLine())
    click.echo(f"images     {written.images:,}, {width} x {height}, {'with' if written.labelled else 'without'} labels")
    if written.enlarged:
        click.echo(f"enlarged   {written.enlarged:,}, which were smaller than {width} x {height}")
    if written.unreadable:
        click.echo(f"unreadable {len(written.unreadable):,}, left out")
    for name, why in list(written.unreadable.items())[:_LISTED]:
        click.echo(f"           {name!r}: {why}")
    if len(written.unreadable) > _LISTED:
        click.echo(f"           and {len(written.unreadable) - _LISTED:,} more")
    click.echo(f"wrote {out}, {out.stat().st_size / 1e6:,.1f} MB")
