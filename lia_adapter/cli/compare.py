"""The command `compare`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

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
)
from lia_adapter.cli.terminal import ProgressLine

if TYPE_CHECKING:
    from lia_adapter.generators.labels import Label

__all__ = ["compare"]


def _named(context: click.Context, option: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not (name and equals and path):
            wanted = option.make_metavar(context)
            raise click.BadParameter(f"{value!r} is no {wanted}, such as mine=folder.", context, option)
        if name in found:
            raise click.BadParameter(f"two methods are called {name!r}. Give each a name of its own.", context, option)
        found[name] = path
    return found


@click.command(cls=Job)
@click.argument("file", metavar="LIA")
@click.argument("images", metavar="IMAGES")
@click.option("--codes", metavar="NAME=FILE", multiple=True, callback=_named, help="A method by its codes, which LIA draws.")
@click.option(
    "--also", metavar="NAME=FOLDER", multiple=True, callback=_named,
    help="A method by its pictures, of any program, named as IMAGES are; endings may differ.",
)  # fmt: skip
@out("The figures, .json", "comparison.json")
@resize_mode()
@split()
@labels("all images, where the data set has no labels")
@bits
@alignment
@click.option("--features", type=Path, help="A torchvision network (.pth, .safetensors): adds perceptual measures.")
@click.option("--lpips", is_flag=True, help="LPIPS with its learned weights on --features; needs the package lpips.")
@click.option("--identity", type=Path, help="A network (.onnx, or torchvision's) that tells whether both show the same one.")
@click.option("--trust-codes", is_flag=True, help="Say that codes of another program are of LIA's generator.")
@batch
@generator_file
@device
@memory
@dry_run
def compare(
    file: str,
    images: str,
    codes: Mapping[str, str],
    also: Mapping[str, str],
    out: str | None,
    resize_mode: str,
    split: str,
    label: "Label | None",
    bits: int | None,
    align: str | None,
    landmarks: str | None,
    features: Path | None,
    lpips: bool,
    identity: Path | None,
    trust_codes: bool,
    batch: int | None,
    generator: str | None,
    device: str | None,
    dry_run: bool,
) -> None:
    """Compare reconstructions of IMAGES by several methods: LIA's encoder, codes, and pictures of any other program.

    All are measured on the images that all have, with 95 % intervals, and each against the first. Writes OUT, and beside it
    tables (.csv, .tex), a picture (.png) and a report (.html). When a run was stopped, the same command goes on after the
    methods that it finished.
    """
    from lia_adapter.devices import device_name
    from lia_adapter.jobs.compare import compare as job
    from lia_adapter.jobs.compare import comparison_out
    from lia_adapter.jobs.estimates import Work, count_images, estimate
    from lia_adapter.loading import load
    from lia_adapter.reports.compare import write_compare_report

    target = comparison_out(out)
    progress = ProgressLine()
    progress(f"open {Path(file).name}", 0, None)
    lia = load(file, generator=generator, device=device_name(device))
    if dry_run:
        count, encoders = count_images(lia, images, split, label), int(lia.encoder is not None)
        drawing = encoders + len(codes)
        echo_estimate(estimate(lia, Work(drawn=count * drawing * (1 + encoders), encoded=count * (drawing + 1) * encoders)))
        return
    figures = job(
        lia, images, codes=codes, also=also, features=features, lpips=lpips, identity=identity, resize_mode=resize_mode,
        split=split, label=label, bits=bits, align=align, landmarks=landmarks, trust_codes=trust_codes, batch=batch, out=target,
        progress=progress,
    )  # fmt: skip
    page = write_compare_report(figures, target)
    click.echo(_lines(figures))
    echo_list("left out", [f"{name!r}: {why}" for name, why in figures["images"]["left_out"].items()])
    click.echo(f"wrote {target}; open {page} in a browser")


def _lines(figures: Mapping[str, Any]) -> str:
    """The table in aligned columns, and the verdicts."""
    from lia_adapter.jobs.compare_statistics import MEASURES
    from lia_adapter.jobs.compare_tables import number, shown_measures

    methods = figures["methods"]
    rows = [[f"{figures['images']['count']:,} images", *methods]]
    for key in shown_measures(figures):
        found = [method["figures"].get(key) for method in methods.values()]
        unit = f" ({MEASURES[key].unit})" if MEASURES[key].unit else ""
        rows.append([MEASURES[key].title + unit, *("–" if one is None else number(key, one["value"]) for one in found)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"{name}: {method['resized']:,} pictures were resized" for name, method in methods.items() if method["resized"]]
    return "\n".join([*lines, *figures["verdicts"]])
