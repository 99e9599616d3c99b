"""`lia-adapt convert`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from lia_adapter.cli.options import Job, assume, device, dry_run, echo_estimate, labels, memory, out, recipe_file
from lia_adapter.cli.terminal import ProgressLine
from lia_adapter.cli.words import conversion_lines, generator_lines
from lia_adapter.keys import COUPLINGS
from lia_adapter.training.convert_config import ConvertConfig

if TYPE_CHECKING:
    from lia_adapter.generators.labels import Label

__all__ = ["convert"]


def _couplings(context: click.Context, option: click.Parameter, begun: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in ("auto", *COUPLINGS) if name.startswith(begun)]


@click.command(cls=Job, keys=ConvertConfig)
@click.argument("ckpt")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@out("The result", "<stem>.lia.safetensors")
@recipe_file("convert", "A shipped recipe or a .toml file.")
@device
@click.option("--seed", type=int, help="Of the fit.")
@click.option("--steps", type=int, help="Training steps.")
@click.option("--coupling", shell_complete=_couplings, help="auto (flow), affine, additive (LIA's own) or dense.")
@labels("the generator to make: a conditional checkpoint becomes one of this label alone")
@click.option(
    "--channel-order", type=click.Choice(["rgb", "bgr"]), default="rgb", show_default=True,
    help="bgr where images come out blue for red (mmagic).",
)  # fmt: skip
@assume
@click.option("--features", type=Path, help="torchvision's squeezenet1_0 as .safetensors, to compare images with.")
@click.option("--sha256", help="What CKPT must hash to.")
@click.option("--data", type=Path, help="Real images, a folder or a data-set zip: adds a short adversarial refinement.")
@click.option("--adapter-only", is_flag=True, help="Leave the generator out of the file and bind the file to it by hash.")
@memory
@dry_run
def convert(
    ckpt: str,
    overrides: Sequence[str],
    out: str | None,
    recipe: str,
    device: str | None,
    seed: int | None,
    steps: int | None,
    coupling: str | None,
    label: "Label | None",
    channel_order: str,
    assume: Mapping[str, str],
    features: Path | None,
    sha256: str | None,
    data: Path | None,
    adapter_only: bool,
    dry_run: bool,
) -> None:
    """Make the mapping of CKPT (a file or an HTTPS address) invertible.

    CKPT may also be module.py:make, a Python file of yours whose function `make` returns a generator: this RUNS that file.

    Writes OUT, and beside it pictures (.png), a report (.html) and figures (.json). A run that was stopped goes on where it
    was when the same command is given again.
    """
    from lia_adapter.config import load_recipe, parse_overrides, to_toml
    from lia_adapter.download import cached, is_url, shown, source_stem
    from lia_adapter.jobs.convert import convert_lia, noise_picture, open_source
    from lia_adapter.jobs.estimates import convert_work, estimate
    from lia_adapter.jobs.run import checked_out
    from lia_adapter.metrics.features import load_features
    from lia_adapter.reports.convert import write_convert_report
    from lia_adapter.tensorfile import LIA_FILE
    from lia_adapter.training.mapping import pick_coupling

    given = {"seed": seed, "steps": steps, "coupling": coupling}
    config = load_recipe(
        ConvertConfig,
        recipe,
        parse_overrides(overrides) | {key: value for key, value in given.items() if value is not None},
    )
    target = checked_out(out, f"{source_stem(ckpt)}.lia.safetensors", kind=LIA_FILE)
    beside = f"{target}, .png, .html and .json, with the recipe:\n"
    if dry_run and is_url(ckpt) and cached(ckpt) is None:
        click.echo(f"{shown(ckpt)} is not here yet, so that nobody knows what it takes: would download it and write {beside}")
        click.echo(to_toml(config))
        return
    progress = ProgressLine()
    lia = open_source(
        ckpt, device=device, label=label, channel_order=channel_order, assume=assume, sha256=sha256, progress=progress
    )
    network = load_features(features)
    if lia.mapping_is_own:  # the official LIA, or a generator of our own
        if not dry_run:
            lia.save(target)
        done = "would write" if dry_run else "wrote"
        click.echo(f"{Path(ckpt).name} has an invertible mapping: there is nothing to fit. {done} {target}")
        return
    if dry_run:
        kind = pick_coupling(lia.generator, config.coupling)
        click.echo(generator_lines(lia))
        echo_estimate(estimate(lia, convert_work(lia, config, network)))
        click.echo(f"would fit the mapping {kind!r} on {lia.device} and write {beside}")
        click.echo(to_toml(config))
        return
    converted = convert_lia(lia, config, features=network, data=data, out=target, adapter_only=adapter_only, progress=progress)
    write_convert_report(converted, target, noise_picture(converted, progress))
    click.echo(conversion_lines(converted.metrics))
    click.echo(f"wrote {target}, and beside it .png, .html and .json")
