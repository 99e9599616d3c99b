"""`lia-adapt train` and `train-encoder`: from images to a generator, its mapping and its encoder."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lia_adapter.cli.options import (
    Job,
    bits,
    dry_run,
    echo_estimate,
    echo_list,
    generator_file,
    labels,
    memory,
    out,
    recipe_file,
    recipes,
)
from lia_adapter.cli.terminal import ProgressLine
from lia_adapter.cli.words import encoder_lines, generator_lines, training_lines
from lia_adapter.training.encoder_config import EncoderConfig
from lia_adapter.training.gan_config import TrainConfig

if TYPE_CHECKING:
    from lia_adapter.generators.labels import Label

__all__ = ["train", "train_encoder"]

_DEVICES = click.option(
    "--device", help="cpu, cuda, ...; default: cuda where there is one. One for each process under torchrun."
)


@click.command("train-encoder", cls=Job, keys=EncoderConfig)
@click.argument("lia", metavar="LIA")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--data", type=Path, required=True, help="A folder of images, or a data-set zip of NVlabs' form.")
@out("The result", "<stem>-encoder.safetensors")
@recipe_file("encoder", "encoder, encoder-cpu or a .toml file.")
@labels("all images, where the data set has no labels")
@bits
@click.option("--features", help="A perceptual network: a file of any torchvision network, vgg16 (fetched), or none.")
@generator_file
@_DEVICES
@click.option("--adapter-only", is_flag=True, help="Leave the generator out of the file and bind the file to it by hash.")
@memory
@dry_run
def train_encoder(
    lia: str,
    overrides: Sequence[str],
    data: Path,
    out: str | None,
    recipe: str,
    label: "Label | None",
    bits: int | None,
    features: str | None,
    generator: str | None,
    device: str | None,
    adapter_only: bool,
    dry_run: bool,
) -> None:
    """Train the encoder of LIA, a converted file, on images.

    Writes OUT, and beside it pictures (.png), a report (.html), figures (.json) and the folder of the run with its log,
    pictures and state. A run that was stopped goes on where it was when the same command is given again. On many GPUs:
    torchrun --nproc-per-node N -m lia_adapter train-encoder ...
    """
    from lia_adapter import ranks
    from lia_adapter.config import load_recipe, parse_overrides, to_toml
    from lia_adapter.devices import device_name
    from lia_adapter.download import source_stem
    from lia_adapter.generators.labels import check_given_label
    from lia_adapter.jobs.estimates import encoder_estimate
    from lia_adapter.jobs.run import checked_out, run_folder
    from lia_adapter.jobs.train_encoder import train_encoder as job
    from lia_adapter.loading import load
    from lia_adapter.reports.encoder import write_encoder_report
    from lia_adapter.tensorfile import LIA_FILE

    given = {"features": features, "label": label, "bits": bits}
    keys = parse_overrides(overrides) | {key: value for key, value in given.items() if value is not None}
    config = load_recipe(EncoderConfig, recipe, keys)
    default = f"{source_stem(lia)}-encoder.safetensors"
    with ranks.process_group(device) as own:
        first = ranks.rank() == 0
        target = checked_out(out, default, kind=LIA_FILE) if first else Path(out or default)
        progress = ProgressLine() if first else None
        if progress:
            progress(f"open {source_stem(lia)}", 0, None)
        opened = load(lia, generator=generator, device=device_name(own))
        check_given_label(label, opened.generator.c_dim)
        if dry_run:
            if first:
                click.echo(generator_lines(opened))
                echo_estimate(encoder_estimate(opened, config))
                click.echo(
                    f"would train on {data}, on {ranks.count()} x {opened.device}, and write {target}, with the recipe:\n"
                )
                click.echo(to_toml(config))
            return
        trained = job(opened, data, recipe, keys, out=target, adapter_only=adapter_only, progress=progress)
        if first:
            write_encoder_report(trained, target)
            click.echo(encoder_lines(trained.metrics["encoder"]))
            echo_list("unreadable", [f"{name}: {why}" for name, why in trained.metrics["encoder"]["unreadable"].items()])
            click.echo(f"wrote {target}, and beside it .png, .html, .json and {run_folder(target)}{os.sep}")


@click.command(cls=Job, keys=TrainConfig)
@click.argument("recipe", shell_complete=recipes)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--data", help="A folder of images, a data-set zip, or toyfaces; default: what the recipe says.")
@out("The result", "<recipe>.lia.safetensors")
@click.option("--features", type=Path, help="A torchvision network as .safetensors, to compare images with.")
@_DEVICES
@memory
@dry_run
def train(
    recipe: str,
    overrides: Sequence[str],
    data: str | None,
    out: str | None,
    features: Path | None,
    device: str | None,
    dry_run: bool,
) -> None:
    """Train a generator by RECIPE from scratch and, where the recipe says so, its encoder.

    RECIPE is the name of a shipped recipe or a .toml file. Keys of its encoder begin with "encoder.", as in encoder.batch=64:
    see train-encoder --help. Writes OUT, and beside it pictures (.png), a report (.html),
    figures (.json) and the folder of the run with its log, pictures and state. A run that was stopped goes on where it was
    when the same command is given again. On many GPUs: torchrun --nproc-per-node N -m lia_adapter train ...
    """
    import torch

    from lia_adapter import ranks
    from lia_adapter.config import parse_overrides, to_toml
    from lia_adapter.devices import device_name
    from lia_adapter.jobs.estimates import train_estimate
    from lia_adapter.jobs.run import checked_out, run_folder
    from lia_adapter.jobs.train import recipe_stages
    from lia_adapter.jobs.train import train as job
    from lia_adapter.reports.encoder import write_encoder_report
    from lia_adapter.reports.training import write_training_report
    from lia_adapter.tensorfile import LIA_FILE

    given = {"data": data, "features": features}
    keys = parse_overrides(overrides) | {key: value for key, value in given.items() if value is not None}
    config, encoder = recipe_stages(recipe, keys)
    default = f"{Path(recipe).name.removesuffix('.toml')}.lia.safetensors"
    with ranks.process_group(device) as own:
        name = device_name(own)
        first = ranks.rank() == 0
        target = checked_out(out, default, kind=LIA_FILE, report=not dry_run) if first else Path(out or default)
        if dry_run:
            if first:
                echo_estimate(train_estimate(config, torch.device(name)))
                source = config.data or "no data yet: give --data"
                click.echo(f"would train on {source}, on {ranks.count()} x {name}, and write {target}, with the recipe:\n")
                click.echo(to_toml(config))
                if encoder is not None:
                    click.echo(f"[encoder]\n{to_toml(encoder)}")
            return
        lia = job(recipe, overrides=keys, out=target, device=name, progress=ProgressLine() if first else None)
        if first:
            folder = run_folder(target)
            write_training_report(lia, target)
            if encoder is not None:
                write_encoder_report(lia, folder / "encoder.safetensors")
            click.echo(training_lines(lia.metrics))
            click.echo(f"wrote {target}, and beside it .png, .html, .json and {folder}{os.sep}")
            if lia.mapping is None:
                click.echo(f"its mapping has no inverse yet: lia-adapt convert {target}")
