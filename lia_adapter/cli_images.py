"""The commands that work on images: `reconstruct`, `invert` and `evaluate`."""

from pathlib import Path
from typing import Any

import click

from lia_adapter.cli_options import bits, dry_run, echo_estimate, generator_file, labels, memory
from lia_adapter.errors import ConfigError
from lia_adapter.files import check_writable
from lia_adapter.generators.labels import Label
from lia_adapter.terminal import ProgressLine, device_name

__all__ = ["evaluate", "invert", "reconstruct"]

_FITS = click.Choice(["crop", "letterbox", "stretch"])
_SPLIT = 'Which images: all, "first N", "last N", "list FILE", or one of these after "not".'
_LABELS = labels("all images, where the data set has no labels")


@click.command()
@click.argument("file", metavar="LIA")
@click.argument("source", metavar="IMAGES|CODES")
@click.option("-o", "--out", type=Path, required=True, help="Folder for the pictures.")
@click.option("--fit", type=_FITS, help="How images come to the generator's size; default crop.")
@click.option("--split", help=f"{_SPLIT} Default all.")
@_LABELS
@bits
@click.option("--trunc", type=float, default=1.0, show_default=True, help="Truncation psi.")
@click.option("--trust-codes", is_flag=True, help="Say that CODES of another program are of LIA's generator.")
@click.option("--no-paste", is_flag=True, help="Leave out the whole pictures with the reconstruction pasted back.")
@click.option("--batch", type=click.IntRange(min=1), help="Images a pass, at most; default: what memory and speed allow.")
@generator_file
@click.option("--device", default=None, help="cpu, cuda, ...; default: cuda where there is one.")
@memory
@dry_run
def reconstruct(
    file: str,
    source: str,
    out: Path,
    fit: str | None,
    split: str | None,
    label: Label | None,
    bits: int | None,
    trunc: float,
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
    from lia_adapter.commands.codes import is_codes_file, open_codes
    from lia_adapter.commands.estimates import Work, count_images, estimate
    from lia_adapter.commands.reconstruct import reconstruct_images
    from lia_adapter.lia import load

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
        lia, source, out, fit=fit, split=split, label=label, bits=bits, trust_codes=trust_codes, psi=trunc,
        paste=not no_paste, batch=batch, progress=progress,
    )  # fmt: skip
    if figures["mse"] is not None:
        click.echo(f"mse        {figures['mse']:.4f}, mean over {len(figures['mse_of']):,} images, on [-1, 1]")
    if figures["originals"]:
        click.echo(f"originals  left out: {figures['originals']}")
    _tell_unreadable(figures["unreadable"])
    click.echo(f"wrote {figures['count']:,} reconstructions into {out}; open {out / 'grid.html'} in a browser")


@click.command()
@click.argument("file", metavar="LIA")
@click.argument("images", metavar="IMAGES")
@click.option("-o", "--out", type=Path, required=True, help="The codes, .safetensors.")
@click.option("--start", type=click.Choice(["encoder", "mean", "random"]), default="encoder", show_default=True)
@click.option(
    "--space", type=click.Choice(["y", "ys", "z"]), default="y", show_default=True,
    help="Where to search; ys: a y of its own for every layer.",
)  # fmt: skip
@click.option("--steps", type=click.IntRange(min=0), default=500, show_default=True, help="Of optimisation.")
@click.option("--features", type=Path, help="A torchvision network (.pth, .safetensors), to compare what it sees, too.")
@click.option("--fit", type=_FITS, default="crop", show_default=True, help="How images come to the generator's size.")
@click.option("--split", default="all", show_default=True, help=_SPLIT)
@_LABELS
@bits
@click.option("--batch", type=click.IntRange(min=1), help="Images at once, at most; default: what memory and speed allow.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Of random starts.")
@generator_file
@click.option("--device", default=None, help="cpu, cuda, ...; default: cuda where there is one.")
@memory
@dry_run
def invert(
    file: str,
    images: str,
    out: Path,
    start: str,
    space: str,
    steps: int,
    features: Path | None,
    fit: str,
    split: str,
    label: Label | None,
    bits: int | None,
    batch: int | None,
    seed: int,
    generator: str | None,
    device: str | None,
    dry_run: bool,
) -> None:
    """Find the codes that draw IMAGES best, by optimisation from the encoder's codes, the mean or random ones.

    IMAGES is a folder, a data-set zip or one picture. Writes OUT, and beside it a picture (.png), a report (.html) and figures
    (.json). A run that was stopped goes on at the batch where it was when the same command is given again.
    """
    from lia_adapter.commands.estimates import Work, count_images, estimate
    from lia_adapter.commands.invert import invert_images
    from lia_adapter.lia import load

    if not out.name.endswith(".safetensors"):
        raise ConfigError(f"-o {out} must end in .safetensors; expected for example {out.name}.safetensors.")
    check_writable(out)
    progress = ProgressLine()
    progress(f"open {Path(file).name}", 0, None)
    lia = load(file, generator=generator, device=device_name(device))
    if dry_run:
        count = count_images(lia, images, split, label)
        echo_estimate(estimate(lia, Work(drawn=3 * count, encoded=count, gradients=count * steps)))
        return
    codes = invert_images(
        lia, images, out, space=space, start=start, steps=steps, features=features, fit=fit, split=split, label=label,
        bits=bits, batch=batch, seed=seed, progress=progress,
    )  # fmt: skip
    before, after, error = (float(codes.tensors[name].double().mean()) for name in ("start_loss", "loss", "mse"))
    click.echo(f"loss       {before:.4f} -> {after:.4f}, mean over {len(codes.names):,} images")
    click.echo(f"mse        {error:.4f}, on [-1, 1]")
    _tell_unreadable(codes.unreadable)
    click.echo(f"wrote {out}, and beside it .png, .html and .json")


@click.command()
@click.argument("file", metavar="LIA")
@click.option("--data", required=True, help="Real images: a folder or a data-set zip.")
@click.option("-o", "--out", type=Path, required=True, help="The figures, .json.")
@click.option("--split", default="all", show_default=True, help=_SPLIT)
@click.option("--fit", type=_FITS, default="crop", show_default=True, help="How images come to the generator's size.")
@_LABELS
@bits
@click.option("--features", type=Path, help="A torchvision network (.pth, .safetensors): adds perceptual measures.")
@click.option("--fid", is_flag=True, help="Fréchet distances by Inception's features, the usual FID; needs torch-fidelity.")
@click.option("--batch", type=click.IntRange(min=1), help="Images a pass, at most; default: what memory and speed allow.")
@generator_file
@click.option("--device", default=None, help="cpu, cuda, ...; default: cuda where there is one.")
@memory
@dry_run
def evaluate(
    file: str,
    data: str,
    out: Path,
    split: str,
    label: Label | None,
    bits: int | None,
    fit: str,
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
    from lia_adapter.commands.estimates import Work, count_images, estimate
    from lia_adapter.commands.evaluate import evaluate as measure
    from lia_adapter.commands.reports import write_evaluate_report
    from lia_adapter.lia import load
    from lia_adapter.report import report_paths

    if out.suffix != ".json":
        raise ConfigError(f"-o {out} must end in .json; expected for example {out.name}.json.")
    for path in report_paths(out).values():
        check_writable(path)
    progress = ProgressLine()
    progress(f"open {Path(file).name}", 0, None)
    lia = load(file, generator=generator, device=device_name(device))
    if dry_run:
        count = count_images(lia, data, split, label)
        lengths = 0 if features is None else 4 * count
        echo_estimate(estimate(lia, Work(drawn=2 * count + 2 * min(count, 1000) + lengths, encoded=2 * count, seconds=20)))
        return
    figures = measure(
        lia, data, fit=fit, split=split, label=label, bits=bits, features=features, fid=fid, batch=batch, progress=progress
    )
    paths = write_evaluate_report(lia, figures, out)
    click.echo(_summary(figures))
    _tell_unreadable(figures["images"]["unreadable"])
    click.echo(f"wrote {out}; open {paths['html']} in a browser")


def _summary(figures: dict[str, Any]) -> str:
    """The figures in a few aligned lines."""
    answer, frechet, typicality = figures["known_answer"], figures["frechet"], figures["typicality"]
    lines = {
        "images": f"{figures['images']['count']:,}",
        "mse": f"{figures['mse']:.4f} on [-1, 1], psnr {figures['psnr']:.2f} dB, ssim {figures['ssim']:.4f}",
        "swd": f"{figures['swd']['mean']:.2f} x 1e-3",
        "frechet": f"{frechet['reconstructions']:.4g} reconstructions, {frechet['samples']:.4g} samples; {frechet['features']}",
        "round_trip": f"{figures['round_trip']:.1e} standard deviations at most",
        "known_answer": f"{answer['correlation']:.3f} correlation, mse of drawn images {answer['mse']:.4f}",
        "typicality": f"{typicality['unusual']:.1%} of the images unusual (1% is usual), size of z {typicality['z_size']:.3g}",
    }
    if between := frechet.get("interval"):
        said = ", ".join(f"{name} {low:.3g} to {high:.3g}" for name, (low, high) in between.items())
        lines["frechet"] += f"\n{'':<19} {said} (95 %): so few images that it is rough, and larger than of many"
    if "perceptual" in figures:
        path = figures["path_length"]
        lines["perceptual"] = f"{figures['perceptual']:.4f}; {figures['network']}"
        lines["path_length"] = f"{path['z']:.1f} in z, {path['y']:.1f} in y"
    for what, why in figures["left_out"].items():
        lines[what] = f"not measured: {why}"
    return "\n".join(f"{name:<19} {text}" for name, text in lines.items())


def _tell_unreadable(reasons: dict[str, str]) -> None:
    if reasons:
        name, why = next(iter(reasons.items()))
        more = f" and {len(reasons) - 1:,} more" if len(reasons) > 1 else ""
        click.echo(f"unreadable {name!r}{more}: {why}")
