"""The commands that draw and read images: `sample`, `encode`, `reconstruct`, `invert` and `evaluate`."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lia_adapter.cli.options import (
    Job,
    alignment,
    assume,
    batch,
    bits,
    device,
    dry_run,
    echo_estimate,
    echo_list,
    finite,
    generator_file,
    labels,
    memory,
    out,
    resize_mode,
    split,
    truncation,
)
from lia_adapter.cli.terminal import ProgressLine
from lia_adapter.cli.words import evaluation_lines
from lia_adapter.jobs.invert_config import InvertConfig
from lia_adapter.keys import QUALITIES, SEARCH_SPACES, SEED_MAPPINGS, STARTS

if TYPE_CHECKING:
    from lia_adapter.generators.labels import Label

__all__ = ["encode", "evaluate", "invert", "reconstruct", "sample"]

_LABELS = labels("all images, where the data set has no labels")


@click.command(cls=Job)
@click.argument("file")
@click.option("--seeds", default="0-15", show_default=True, help="StyleGAN's seeds: 0-63, 1,5,42, or both.")
@truncation
@labels("all pictures, for a conditional generator")
@click.option(
    "--mapping", type=click.Choice(SEED_MAPPINGS), default="original", show_default=True,
    help="What makes codes of seeds: the checkpoint's own mapping, or the one that convert fitted.",
)  # fmt: skip
@out("A picture of all, .png, or a folder for a picture of each", "samples.png")
@assume
@generator_file
@device
@memory
@dry_run
def sample(
    file: str,
    seeds: str,
    psi: float,
    label: "Label | None",
    mapping: str,
    out: str | None,
    assume: Mapping[str, str],
    generator: str | None,
    device: str | None,
    dry_run: bool,
) -> None:
    """Draw the seeds of FILE, a LIA file or a plain checkpoint.

    A converted file draws them as its checkpoint did before: seeds go through the original mapping, which stays in the file.

    They come on one sheet, OUT.png; more than 64 on several, OUT-00001-of-00016.png and so on; or, where OUT is a folder, in a
    file each: seed0042.png. Files that are there already are replaced.
    """
    from lia_adapter.config import parse_seeds
    from lia_adapter.devices import device_name
    from lia_adapter.download import source_stem
    from lia_adapter.jobs.estimates import Work, estimate
    from lia_adapter.jobs.sample import check_samples, sample_files, sample_seeds
    from lia_adapter.loading import load

    files = sample_files(out or "samples.png", parse_seeds(seeds))
    progress = ProgressLine()
    progress(f"open {source_stem(file)}", 0, None)
    lia = load(file, generator=generator, device=device_name(device), assume=assume)
    check_samples(lia, label, mapping)
    if dry_run:
        echo_estimate(estimate(lia, Work(drawn=sum(map(len, files.values())))))
        return
    sample_seeds(lia, files, psi=psi, label=label, mapping=mapping, progress=progress)
    first, more = next(iter(files)), len(files) - 1
    click.echo(f"wrote {first}{f' and {more:,} more' if more else ''}: {sum(map(len, files.values())):,} pictures")


@click.command(cls=Job)
@click.argument("lia", metavar="LIA")
@click.argument("images")
@out("The codes, .safetensors", "codes.safetensors")
@resize_mode()
@alignment
@split()
@_LABELS
@bits
@batch
@click.option(
    "--samples", type=click.IntRange(min=0), default=0, show_default=True,
    help="Other codes of each picture to find, by the prior, that draw it within 3 % as well; minutes for a large one.",
)  # fmt: skip
@click.option("--project", is_flag=True, help="Write the nearest usual code in place of the encoder's, and what it costs.")
@generator_file
@click.option("--device", help="cpu, cuda, ...; default: cuda where there is one. One for each process under torchrun.")
@memory
@dry_run
def encode(
    lia: str,
    images: str,
    out: str | None,
    resize_mode: str,
    align: str | None,
    landmarks: str | None,
    split: str,
    label: "Label | None",
    bits: int | None,
    batch: int | None,
    samples: int,
    project: bool,
    generator: str | None,
    device: str | None,
    dry_run: bool,
) -> None:
    """Encode IMAGES, a folder of any size, a zip or a picture, into y and z.

    More than 8,192 images make several files; those that are finished are kept when the same command is given again.
    """
    from lia_adapter import ranks
    from lia_adapter.devices import device_name
    from lia_adapter.download import source_stem
    from lia_adapter.jobs.encode import encode as job
    from lia_adapter.jobs.estimates import Work, count_images, estimate
    from lia_adapter.jobs.run import checked_out
    from lia_adapter.loading import load
    from lia_adapter.tensorfile import CODES

    with ranks.process_group(device) as own:
        first = ranks.rank() == 0
        target = checked_out(out, "codes.safetensors", kind=CODES, report=False)
        progress = ProgressLine() if first else None
        if progress:
            progress(f"open {source_stem(lia)}", 0, None)
        opened = load(lia, generator=generator, device=device_name(own))
        if dry_run:
            if first:
                count = count_images(opened, images, split, label)
                echo_estimate(estimate(opened, Work(drawn=count, encoded=count)))
            return
        found = job(
            opened, images, target, resize_mode=resize_mode, align=align, landmarks=landmarks, split=split, label=label,
            bits=bits, batch=batch, samples=samples, project=project, progress=progress,
        )  # fmt: skip
        if not first:
            return
    click.echo(f"encoded      {found.count:,} images, mean squared error {found.mse:.4f}, worst {found.worst:.4f}")
    if not math.isnan(found.prior_p):  # codes of an earlier version were kept
        share = f"{found.improbable:.1%} below 0.01, where 1% of the generator's own codes are"
        click.echo(f"prior p      {found.prior_p:.3f}, the median (0.5 is usual, 0 is unlikely); {share}")
    echo_list("unreadable", [f"{name}: {why}" for name, why in found.unreadable.items()])
    echo_list("no other code", found.alone, " (samples are the encoder's own code)")
    echo_list("unusual", found.unusual, " (less usual than 99 % of the training images; of the wrong kind?)")
    click.echo(f"wrote {found.paths[0]}" + (f" and {len(found.paths) - 1} more" if len(found.paths) > 1 else ""))


@click.command(cls=Job)
@click.argument("file", metavar="LIA")
@click.argument("source", metavar="IMAGES|CODES")
@out("Folder for the pictures", "reconstructions")
@resize_mode(None, " Default crop.")
@alignment
@split(None, " Default all.")
@_LABELS
@bits
@truncation
@click.option("--trust-codes", is_flag=True, help="Say that CODES of another program are of LIA's generator.")
@click.option("--no-paste", is_flag=True, help="Leave out the whole pictures with the reconstruction pasted back.")
@batch
@generator_file
@device
@memory
@dry_run
def reconstruct(
    file: str,
    source: str,
    out: str | None,
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
    """Draw images, or the images of a file of codes, as the generator of LIA sees them.

    IMAGES is a folder, a data-set zip or one picture; CODES a .safetensors of lia-adapt encode or invert, or what another
    program found: projected_w.npz, latents.npy, a projector's .pt. Writes into the folder OUT a PNG of each reconstruction,
    the same pasted back into the whole picture, and grid.png, grid.html and grid.json with originals and reconstructions side
    by side.
    """
    from lia_adapter.codes import is_codes_file, open_codes
    from lia_adapter.devices import device_name
    from lia_adapter.jobs.estimates import Work, count_images, estimate
    from lia_adapter.jobs.reconstruct import reconstruct_images
    from lia_adapter.loading import load
    from lia_adapter.reports.images import write_reconstruct_report

    folder = Path(out or "reconstructions")
    progress = ProgressLine()
    progress(f"open {Path(file).name}", 0, None)
    lia = load(file, generator=generator, device=device_name(device))
    if dry_run:
        known = is_codes_file(source)
        codes = open_codes(source, lia, trust=trust_codes).names if known else ()
        count = len(codes) if known else count_images(lia, source, split or "all", label)
        echo_estimate(estimate(lia, Work(drawn=count, encoded=0 if known else count)))
        return
    figures = reconstruct_images(
        lia, source, folder, resize_mode=resize_mode, align=align, landmarks=landmarks, split=split, label=label, bits=bits,
        trust_codes=trust_codes, psi=psi, paste=not no_paste, batch=batch, progress=progress,
    )  # fmt: skip
    page = write_reconstruct_report(figures, folder)
    if figures["mse"] is not None:
        click.echo(f"mse        {figures['mse']:.4f}, mean over {len(figures['mse_of']):,} images, on [-1, 1]")
    if figures["originals"]:
        click.echo(f"originals  left out: {figures['originals']}")
    _echo_unreadable(figures["unreadable"])
    click.echo(f"wrote {figures['count']:,} reconstructions into {folder}; open {page} in a browser")


@click.command(cls=Job, keys=InvertConfig)
@click.argument("file", metavar="LIA")
@click.argument("images", metavar="IMAGES")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@out("The codes, .safetensors", "inverted.safetensors")
@click.option("--recipe", default="invert", show_default=True, help="A shipped recipe or a .toml file.")
@click.option("--start", type=click.Choice(STARTS), help="Where the search begins.")
@click.option("--space", type=click.Choice(SEARCH_SPACES), help="Where to search; ys: a y of its own for every layer.")
@click.option("--steps", type=click.IntRange(min=0), help="Of optimisation.")
@click.option("--quality", type=click.Choice(QUALITIES), help="Climb the ladder of methods so high.")
@click.option("--seconds", type=click.FloatRange(min=0.01), callback=finite, help="Climb it in about so many seconds an image.")
@click.option("--faithful", is_flag=True, default=None, help="Climb it also where codes leave what the prior has.")
@click.option("--features", type=Path, help="A torchvision network (.pth, .safetensors), to compare what it sees, too.")
@resize_mode(None)
@alignment
@split(None)
@_LABELS
@bits
@batch
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Of random starts.")
@generator_file
@device
@memory
@dry_run
def invert(
    file: str,
    images: str,
    overrides: Sequence[str],
    out: str | None,
    recipe: str,
    batch: int | None,
    generator: str | None,
    device: str | None,
    dry_run: bool,
    **flags: Any,
) -> None:
    """Find the codes that draw IMAGES best, by optimisation from the encoder's codes, the mean or random ones.

    IMAGES is a folder, a data-set zip or one picture. Writes OUT, and beside it a picture (.png), a report (.html) and figures
    (.json). What options leave open is as the recipe says. A run that was stopped goes on at the batch where it was when the
    same command is given again.
    """
    from lia_adapter.config import load_recipe, parse_overrides, to_toml
    from lia_adapter.devices import device_name
    from lia_adapter.errors import ConfigError
    from lia_adapter.generators.labels import check_given_label
    from lia_adapter.jobs.estimates import Work, count_images, estimate
    from lia_adapter.jobs.invert import invert_lia
    from lia_adapter.jobs.run import checked_out
    from lia_adapter.loading import load
    from lia_adapter.reports.images import write_invert_report
    from lia_adapter.tensorfile import CODES

    given = {key: value for key, value in flags.items() if value is not None}
    said = parse_overrides(overrides)
    if climbs := given.keys() & {"quality", "seconds", "faithful"}:
        if recipe not in ("invert", "invert-ladder") or said.get("method", "ladder") != "ladder":
            raise ConfigError(f"--{min(climbs)} climbs the ladder of methods; leave the other method or recipe out.")
        given["method"] = "ladder"
    config = load_recipe(InvertConfig, recipe, said | given)
    target = checked_out(out, "inverted.safetensors", kind=CODES)
    progress = ProgressLine()
    progress(f"open {Path(file).name}", 0, None)
    lia = load(file, generator=generator, device=device_name(device))
    check_given_label(flags["label"], lia.generator.c_dim)
    if dry_run:
        count = count_images(lia, images, config.split, config.label)
        echo_estimate(estimate(lia, Work(drawn=3 * count, encoded=count, gradients=count * config.steps)))
        click.echo(f"would search on {lia.device} and write {target}, .png, .html and .json, with the recipe:\n")
        click.echo(to_toml(config))
        return
    codes = invert_lia(lia, images, target, config, batch=batch, progress=progress)
    write_invert_report(codes, target)
    before, after, error = (float(codes.tensors[name].double().mean()) for name in ("start_loss", "loss", "mse"))
    click.echo(f"loss       {before:.4f} -> {after:.4f}, mean over {len(codes.names):,} images")
    click.echo(f"mse        {error:.4f}, on [-1, 1]")
    _echo_unreadable(codes.unreadable)
    click.echo(f"wrote {target}, and beside it .png, .html and .json")


@click.command(cls=Job)
@click.argument("file", metavar="LIA")
@click.option("--data", required=True, help="Real images: a folder or a data-set zip.")
@out("The figures, .json", "evaluation.json")
@split()
@resize_mode()
@_LABELS
@bits
@alignment
@click.option("--features", type=Path, help="A torchvision network (.pth, .safetensors): adds perceptual measures.")
@click.option("--fid", is_flag=True, help="Fréchet distances by Inception's features, the usual FID; needs torch-fidelity.")
@batch
@generator_file
@device
@memory
@dry_run
def evaluate(
    file: str,
    data: str,
    out: str | None,
    split: str,
    label: "Label | None",
    bits: int | None,
    align: str | None,
    landmarks: str | None,
    resize_mode: str,
    features: Path | None,
    fid: bool,
    batch: int | None,
    generator: str | None,
    device: str | None,
    dry_run: bool,
) -> None:
    """Measure how well LIA encodes and redraws real images; better images that the training did not see (--split).

    Writes OUT, and beside it a report (.html) and a picture (.png).
    """
    from lia_adapter.devices import device_name
    from lia_adapter.jobs.estimates import Work, count_images, estimate
    from lia_adapter.jobs.evaluate import evaluate as job
    from lia_adapter.jobs.evaluate_examples import write_evaluation
    from lia_adapter.jobs.run import checked_out
    from lia_adapter.loading import load
    from lia_adapter.reports.images import write_evaluate_report

    target = checked_out(out, "evaluation.json", ".json")
    progress = ProgressLine()
    progress(f"open {Path(file).name}", 0, None)
    lia = load(file, generator=generator, device=device_name(device))
    if dry_run:
        count = count_images(lia, data, split, label)
        lengths = 0 if features is None else 4 * count
        echo_estimate(estimate(lia, Work(drawn=2 * count + 2 * min(count, 1000) + lengths, encoded=2 * count, seconds=20)))
        return
    figures = job(
        lia, data, resize_mode=resize_mode, split=split, label=label, bits=bits, align=align, landmarks=landmarks,
        features=features, fid=fid, batch=batch, progress=progress,
    )  # fmt: skip
    page = write_evaluate_report(figures, write_evaluation(lia, figures, target, progress), target)
    click.echo(evaluation_lines(figures))
    _echo_unreadable(figures["images"]["unreadable"])
    click.echo(f"wrote {target}; open {page} in a browser")


def _echo_unreadable(reasons: Mapping[str, str]) -> None:
    echo_list("unreadable", [f"{name!r}: {why}" for name, why in reasons.items()])
