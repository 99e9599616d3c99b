"""`directions`: find directions of codes, see what is in files of them, rename, and carry them to and from other programs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from lia_adapter.cli.options import Commands, Job, assume, device, dry_run, generator_file, memory, out, split
from lia_adapter.cli.terminal import ProgressLine
from lia_adapter.direction_keys import FIND_METHODS, FindConfig

__all__ = ["directions"]


@click.group(cls=Commands)
def directions() -> None:
    """Directions of codes: ways to move them that change one thing in the picture."""


@directions.command(cls=Job, keys=FindConfig)
@click.argument("method", type=click.Choice(FIND_METHODS))
@click.argument("file", metavar="LIA")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@out("The directions, .safetensors", "directions.safetensors")
@click.option("--data", help="Photographs to learn from: a folder or a data-set zip; of difference those that have it.")
@click.option("--than", help="difference: the photographs that lack it.")
@click.option("--labels", type=Path, help="A CSV of attributes: a line of names, image first, and a line for each image.")
@click.option(
    "--scorer", help="What gives pictures attributes: an .onnx, a torchvision classifier, or module.py:score (RUNS that file)."
)
@click.option("--identity", type=Path, help="A network (.onnx, or torchvision's) that tells whether edits show the same one.")
@split()
@click.option("--recipe", type=Path, help="A .toml file; default: the method's own recipe.")
@assume
@generator_file
@device
@memory
@dry_run
def find(
    method: str,
    file: str,
    overrides: Sequence[str],
    out: str | None,
    data: str | None,
    than: str | None,
    labels: Path | None,
    scorer: str | None,
    identity: Path | None,
    split: str,
    recipe: Path | None,
    assume: Mapping[str, str],
    generator: str | None,
    device: str | None,
    dry_run: bool,
) -> None:
    """Find directions by METHOD in the codes of LIA, a LIA file or a plain checkpoint, and measure what they do.

    Writes OUT, and beside it a picture (.png), a report (.html) and figures (.json).
    """
    from lia_adapter.config import load_recipe, parse_overrides, to_toml
    from lia_adapter.devices import device_name
    from lia_adapter.download import source_stem
    from lia_adapter.jobs.find_directions import find_directions
    from lia_adapter.jobs.run import checked_out
    from lia_adapter.loading import load
    from lia_adapter.reports.directions import write_directions_report
    from lia_adapter.tensorfile import DIRECTIONS

    said = parse_overrides(overrides)
    name = f"directions-{method}" if recipe is None else str(recipe)
    config = load_recipe(FindConfig, name, {**said, "method": method})
    target = checked_out(out, "directions.safetensors", kind=DIRECTIONS)
    progress = ProgressLine()
    progress(f"open {source_stem(file)}", 0, None)
    lia = load(file, generator=generator, device=device_name(device), assume=assume)
    if dry_run:
        click.echo(f"would search on {lia.device} and write {target}, .png, .html and .json, with the recipe:\n")
        click.echo(to_toml(config))
        return
    found = find_directions(
        lia, method, data=data, than=than, labels=labels, scorer=scorer, identity=identity, split=split, recipe=name,
        overrides=said, out=target, progress=progress,
    )  # fmt: skip
    page = write_directions_report(target)
    for one in found:
        click.echo(_line(one.name, one.space, one.about))
    click.echo(f"wrote {target}; open {page} in a browser")


@directions.command(name="list", cls=Job)
@click.argument("files", metavar="FILES", nargs=-1, required=True)
def list_(files: Sequence[str]) -> None:
    """Say what FILES of directions hold."""
    from lia_adapter.editing import read_directions

    for file in files:
        found = read_directions(file)
        click.echo(f"{file}: {len(found)} directions of {found.about.get('source') or 'a wrapped generator'}")
        for one in found:
            click.echo(_line(one.name, one.space, one.about))
        if styles := next((one.styles for one in found if one.styles), None):
            click.echo(f"layers of s: {', '.join(f'{i} {name} ({size})' for i, (name, size) in enumerate(styles.items()))}")


@directions.command(cls=Job)
@click.argument("file", metavar="FILE")
@click.argument("names", metavar="OLD=NEW...", nargs=-1, required=True)
def rename(file: str, names: Sequence[str]) -> None:
    """Give directions of FILE other names; FILE is replaced."""
    from lia_adapter.editing import read_directions
    from lia_adapter.errors import ConfigError

    if wrong := [name for name in names if not all(name.partition("=")[::2])]:
        raise ConfigError(f"{wrong[0]!r} is no OLD=NEW, such as boundary-1=smile.")
    pairs = dict(name.partition("=")[::2] for name in names)
    read_directions(file).renamed(pairs).save(file)
    click.echo(f"renamed {', '.join(f'{old} to {new}' for old, new in pairs.items())} in {file}")


@directions.command(cls=Job)
@click.argument("file", metavar="FILE")
@click.option("-o", "--out", required=True, help="A folder for a file of each, .npy or .pt; or for one .npz of all.")
@click.option(
    "--to", "form", type=click.Choice(["interfacegan", "ganspace", "psp"]), required=True, help="Who is to read them."
)
@click.option("--lia", metavar="LIA", help="ganspace: the file that FILE was found with, for mean and spread of its codes.")
@generator_file
def export(file: str, out: str, form: str, lia: str | None, generator: str | None) -> None:
    """Write directions as other programs read them: InterFaceGAN's .npy, pSp's .pt, GANSpace's .npz."""
    from lia_adapter.editing import read_directions
    from lia_adapter.jobs.exchange import export_directions
    from lia_adapter.loading import load

    found = read_directions(file)
    for path in export_directions(found, form, out, None if lia is None else load(lia, generator=generator)):
        click.echo(f"wrote {path}")


@directions.command(name="import", cls=Job)
@click.argument("lia", metavar="LIA")
@click.argument("files", metavar="FILES", nargs=-1, required=True)
@out("The directions, .safetensors", "directions.safetensors")
@click.option(
    "--space", type=click.Choice(["y", "z"]), help="What FILES move: w, or z of seeds; default y, but what GANSpace's say."
)
@assume
@generator_file
def import_(
    lia: str, files: Sequence[str], out: str | None, space: str | None, assume: Mapping[str, str], generator: str | None
) -> None:
    """Read directions of other programs (.npy, .npz, .pt; none is executed) as those of LIA's generator.

    Such files do not say what generator they are of: that is your word. Their unit becomes one standard deviation. Directions
    of z, such as InterFaceGAN's, become the mean step in y that they make by LIA's own mapping, which seeds go through.
    """
    from lia_adapter.jobs.exchange import import_directions
    from lia_adapter.jobs.run import checked_out
    from lia_adapter.loading import load
    from lia_adapter.tensorfile import DIRECTIONS

    target = checked_out(out, "directions.safetensors", kind=DIRECTIONS, report=False)
    found = import_directions(load(lia, generator=generator, assume=assume), files, space)
    found.save(target)
    click.echo(f"wrote {len(found)} directions into {target}: {', '.join(found.names[:10])}")


def _line(name: str, space: str, about: Mapping[str, object]) -> str:
    """A direction in one line, with what is known of it."""
    words = {
        "r2": "R²", "accuracy": "accuracy", "separation": "separation", "share_of_variance": "variance",
        "share_of_change": "change of pixels", "eigenvalue": "eigenvalue", "explained": "explained", "reach": "reach",
        "effect": "effect", "leakage": "leakage", "identity": "identity",
    }  # fmt: skip
    known = [
        f"{text} {value:.3g}"
        for key, text in words.items()
        if isinstance(value := about.get(key), int | float) and not isinstance(value, bool) and abs(value) < 1e300
    ]
    return f"{name:<20} {space:<3} {', '.join(known)}"
