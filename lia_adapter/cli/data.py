"""`lia-adapt dataset`: images from anywhere to a data-set zip."""

import re

import click

from lia_adapter.cli.options import Job, bits, echo_list, out, resize_mode, split
from lia_adapter.cli.terminal import ProgressLine
from lia_adapter.errors import ConfigError

__all__ = ["dataset"]


@click.command(cls=Job)
@click.argument("source", metavar="SOURCE")
@out("The data set, .zip", "dataset.zip")
@click.option("--size", required=True, metavar="WxH", help="Width and height of the images: 128x96.")
@resize_mode()
@split()
@bits
@click.option("--max", "limit", type=click.IntRange(min=1), help="Stop after so many images that could be read.")
def dataset(source: str, out: str | None, size: str, resize_mode: str, split: str, bits: int | None, limit: int | None) -> None:
    """Make a data-set zip of SOURCE, its images all of one size, that train and NVlabs' programs read.

    SOURCE is a folder (searched recursively), a data-set zip, a folder with an LMDB (data.mdb, LSUN's or rosinality's), or
    toyfaces. Images are taken in order of their names, those of an LMDB in its own order, and labels are kept. OUT appears when
    it is whole.
    """
    from lia_adapter.jobs.dataset import make_dataset
    from lia_adapter.jobs.run import checked_out

    match = re.fullmatch(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", size)
    if not match:
        raise ConfigError(f"--size is {size!r}; expected width x height in pixels, for example 128x96.")
    target = checked_out(out, "dataset.zip", ".zip", report=False)
    width, height = int(match[1]), int(match[2])
    written = make_dataset(
        source, target, (height, width), resize_mode=resize_mode, split=split, limit=limit, bits=bits, progress=ProgressLine()
    )
    click.echo(f"images     {written.images:,}, {width} x {height}, {'with' if written.labelled else 'without'} labels")
    if written.enlarged:
        click.echo(f"enlarged   {written.enlarged:,}, which were smaller than {width} x {height}")
    echo_list("unreadable", [f"{name!r}: {why}" for name, why in written.unreadable.items()], ", left out", 10)
    click.echo(f"wrote {target}, {target.stat().st_size / 1e6:,.1f} MB")
