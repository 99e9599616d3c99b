"""`edit`: photograph, edit, save."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lia_adapter.cli import moving
from lia_adapter.cli.options import (
    Job,
    alignment,
    batch,
    bits,
    device,
    dry_run,
    echo_estimate,
    echo_list,
    generator_file,
    labels,
    memory,
    out,
    resize_mode,
    split,
    truncation,
)
from lia_adapter.cli.terminal import ProgressLine

if TYPE_CHECKING:
    from lia_adapter.generators.labels import Label

__all__ = ["edit"]


@click.command(cls=Job)
@click.argument("file", metavar="LIA", required=False)
@click.argument("source", metavar="PHOTOS|CODES", required=False)
@out("Folder for the pictures", "edited")
@moving.directions_files
@moving.move
@click.option(
    "--to",
    multiple=True,
    metavar="NAME=V",
    callback=moving.numbers,
    help="Go until the attribute is V, by --scorer or as codes say.",
)
@moving.keep
@moving.layers
@click.option("--space", type=click.Choice(["y", "ys", "z", "s"]), help="Which directions, where several have one name.")
@click.option("--scorer", help="What reads attributes of pictures, for --to: see lia-adapt directions find.")
@click.option("--again", metavar="PNG", type=Path, help="Make a picture of an earlier edit once more, by the recipe in it.")
@resize_mode(None, " Default crop.")
@alignment
@split(None, " Default all.")
@labels("all images, instead of the data set's own")
@bits
@truncation
@click.option("--trust-codes", is_flag=True, help="Say that CODES of another program are of LIA's generator.")
@click.option("--no-paste", is_flag=True, help="Leave out the whole pictures with the edit pasted back.")
@batch
@generator_file
@device
@memory
@dry_run
def edit(
    file: str | None,
    source: str | None,
    out: str | None,
    directions: Sequence[str],
    move: dict[str, float],
    to: dict[str, float],
    keep: list[str],
    layers: list[int] | None,
    space: str | None,
    scorer: str | None,
    again: Path | None,
    resize_mode: str | None,
    align: str | None,
    landmarks: str | None,
    split: str | None,
    label: "Label | None",
    bits: int | None,
    psi: float,
    trust_codes: bool,
    no_paste: bool,
    batch: int | None,
    generator: str | None,
    device: str | None,
    dry_run: bool,
) -> None:
    """Encode photographs, change something, and save them: lia-adapt edit LIA PHOTOS --move smile=2 --keep glasses.

    PHOTOS is a folder, a data-set zip or one picture; CODES a .safetensors of lia-adapt encode or invert. Writes into the
    folder OUT a PNG of each, the same pasted back into the whole photograph, and grid.png, grid.html and grid.json with
    photographs, reconstructions and edits. A run that was stopped goes on when the same command is given again.
    """
    from lia_adapter.devices import device_name
    from lia_adapter.errors import ConfigError
    from lia_adapter.jobs.drawing import open_drawing
    from lia_adapter.jobs.edit import edit_again, edit_images, plan_edit
    from lia_adapter.jobs.estimates import Work, estimate
    from lia_adapter.loading import load
    from lia_adapter.reports.edit import write_edit_report

    folder, progress = Path(out or "edited"), ProgressLine()
    if again is not None:
        others = (
            source, directions, move, to, keep, layers, space, resize_mode, align, landmarks, split, label is not None, bits,
            psi != 1, trust_codes, no_paste, batch, dry_run,
        )  # fmt: skip
        if any(others):
            raise ConfigError("--again takes everything from the picture; leave all but LIA, --scorer and -o out.")
        where = device_name(device)
        figures = edit_again(
            again, folder, lambda path: load(path, generator=generator, device=where), progress, lia_file=file, scorer=scorer
        )
    else:
        if file is None or source is None:
            raise click.UsageError("give LIA and PHOTOS, or --again PNG.")
        progress(f"open {Path(file).name}", 0, None)
        lia = load(file, generator=generator, device=device_name(device))
        files = list(directions) or ["directions.safetensors"]
        if dry_run:
            plan_edit(lia, files, move=move, to=to, keep=keep, layers=layers, space=space, scorer=scorer, psi=psi)
            opened = open_drawing(
                lia, source, resize_mode=resize_mode, split=split, label=label, bits=bits, align=align, landmarks=landmarks,
                trust_codes=trust_codes,
            )  # fmt: skip
            count = len(opened.names)
            echo_estimate(estimate(lia, Work(drawn=count, encoded=count if opened.codes is None else 0)))
            return
        figures = edit_images(
            lia, source, folder, directions=files, move=move, to=to, keep=keep, layers=layers, space=space, scorer=scorer,
            resize_mode=resize_mode, split=split, label=label, bits=bits, align=align, landmarks=landmarks,
            trust_codes=trust_codes, psi=psi, paste=not no_paste, batch=batch, lia_file=file, progress=progress,
        )  # fmt: skip
    page = write_edit_report(figures, folder)
    echo_list("unreadable", [f"{name}: {why}" for name, why in figures["unreadable"].items()])
    echo_list("unreached", figures["unreached"], " (none within 8 was found that gives the value: the nearest is drawn)")
    echo_list("improbable", figures["improbable"], " (the edit goes beyond what the prior has: try less)")
    if figures["originals"]:
        click.echo(f"originals  left out: {figures['originals']}")
    click.echo(f"wrote {figures['count']:,} edited pictures into {folder}; open {page} in a browser")
