"""`lia-adapt train`: from images to a generator, its mapping and its encoder."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from lia_adapter.cli_options import dry_run, echo_estimate, memory
from lia_adapter.config import parse_overrides, to_toml
from lia_adapter.errors import ConfigError
from lia_adapter.files import check_writable
from lia_adapter.terminal import ProgressLine, device_name

__all__ = ["train"]


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--data", help="A folder of images, a data-set zip, or toyfaces; default: what the recipe says.")
@click.option("-o", "--out", type=Path, help="The result; default <recipe>.lia.safetensors in the current folder.")
@click.option("--features", type=Path, help="A torchvision network as .safetensors, to compare images with.")
@click.option("--device", default=None, help="cpu, cuda, ...; default: cuda where there is one. One for each under torchrun.")
@memory
@dry_run
def train(
    recipe: str,
    overrides: Sequence[str],
    data: str | None,
    out: Path | None,
    features: Path | None,
    device: str | None,
    dry_run: bool,
) -> None:
    """Train a generator by RECIPE from scratch and, where the recipe says so, its encoder.

    RECIPE is the name of a shipped recipe or a .toml file. Writes OUT, and beside it pictures (.png), a report (.html),
    figures (.json) and the folder of the run with its log, pictures and state. A run that was stopped goes on where it was
    when the same command is given again. On many GPUs: torchrun --nproc-per-node N -m lia_adapter train ...
    """
    import torch

    from lia_adapter.commands.estimates import train_estimate
    from lia_adapter.report import reconstruction_picture, report_paths, samples_picture, write_encoder_report
    from lia_adapter.report_training import write_training_report
    from lia_adapter.training import ranks
    from lia_adapter.training.train import Pictures, recipe_stages, train_lia

    given = {"data": data, "features": None if features is None else str(features)}
    config, encoder = recipe_stages(
        recipe, parse_overrides(overrides) | {key: value for key, value in given.items() if value is not None}
    )
    out = out or Path(f"{Path(recipe).name.removesuffix('.toml')}.lia.safetensors")
    if not out.name.endswith(".safetensors"):
        raise ConfigError(f"-o {out} must end in .safetensors; expected for example {out.name}.safetensors.")
    folder = out.with_name(out.name.removesuffix(".safetensors"))
    with ranks.joined(device) as own:
        name = device_name(own)
        first = ranks.rank() == 0
        if dry_run:
            if first:
                echo_estimate(train_estimate(config, torch.device(name)))
                source = config.data or "no data yet: give --data"
                click.echo(f"would train on {source}, on {ranks.count()} x {name}, and write {out}, with the recipe:\n")
                click.echo(to_toml(config))
                if encoder is not None:
                    click.echo(f"[encoder]\n{to_toml(encoder)}")
            return
        if first:
            for target in (out, *report_paths(out).values()):
                check_writable(target)
        progress = ProgressLine() if first else None
        lia = train_lia(
            config, encoder, torch.device(name), folder=folder,
            pictures=Pictures(samples_picture, reconstruction_picture), progress=progress,
        )  # fmt: skip
        if first:
            lia.save(out, half=config.half)
            write_training_report(lia, out, folder, progress)
            if encoder is not None:
                write_encoder_report(lia, folder / "encoder.safetensors", folder / "encoder", progress)
            for state in ("state.safetensors", "encoder/state.safetensors", "encoder/checks.json"):
                (folder / state).unlink(missing_ok=True)
            click.echo(_summary(lia.metrics))
            click.echo(f"wrote {out}, and beside it .png, .html, .json and {folder}{os.sep}")
            if lia.mapping is None:
                click.echo(f"its mapping has no inverse yet: lia-adapt convert {out}")
        ranks.barrier()


def _summary(metrics: Mapping[str, Any]) -> str:
    """The figures in a few aligned lines."""
    figures = metrics["training"]
    lines = [f"{'images seen':<20} {figures['images']:,} in {figures['seconds']:,.0f} s"]
    if figures["curve"]:
        shown, distance = figures["curve"][-1]
        lines.append(f"{'frechet':<20} {distance:.4g} after {shown:,} images ({figures['features']})")
    if "encoder" in metrics:
        lines.append(
            f"{'encoder':<20} mean squared error of real images {metrics['encoder']['after']['mse_of_real_images']:.4f}"
        )
    return "\n".join(lines)
