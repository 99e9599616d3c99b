"""The command line `lia-adapt`: thin commands over the Python API.

Exit codes: 0 done, 2 wrong input or file, 130 interrupted, 143 terminated (state saved), 1 a bug.
"""

import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import click

from lia_adapter.budget import VARIABLE, free_memory, human, is_out_of_memory, map_large_tensors
from lia_adapter.cli_data import dataset
from lia_adapter.cli_export import export
from lia_adapter.cli_images import evaluate, invert, reconstruct
from lia_adapter.cli_options import assume, bits, dry_run, echo_estimate, generator_file, labels, memory
from lia_adapter.cli_train import train
from lia_adapter.config import load_recipe, parse_overrides, parse_seeds, to_toml
from lia_adapter.data.notes import LOGGER, say_once
from lia_adapter.download import fetch, source_stem
from lia_adapter.errors import ConfigError, LIAError
from lia_adapter.files import check_writable
from lia_adapter.generators.labels import Label, check_given_label, label_words
from lia_adapter.terminal import ProgressLine, device_name

__all__ = ["main"]

_LISTED = 10  # lines of a list that are shown
_SHEET = 64  # pictures on one sheet, at most: of 1024², they make a PNG of 8,192 pixels a side


class _Group(click.Group):
    """Turns our errors into one line and the exit codes that the module's docstring promises."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Runs a command and ends the process."""
        signal.signal(signal.SIGTERM, _terminated)
        _tell_notes()
        map_large_tensors()
        kwargs["standalone_mode"] = False
        try:
            code = super().main(*args, **kwargs)  # a number where a command ended by itself with one
        except LIAError as error:
            _fail(str(error), 2)
        except click.ClickException as error:
            _fail(error.format_message(), 2)
        except (KeyboardInterrupt, click.Abort):
            _fail("interrupted; give the same command again: long runs go on from their last save.", 130)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            _fail(_no_memory(), 2)
        except BrokenPipeError:
            sys.stderr.close()
            sys.exit(1)
        sys.exit(code if isinstance(code, int) else 0)


def _terminated(number: int, frame: FrameType | None) -> None:
    _fail("terminated; give the same command again: long runs go on from their last save.", 143)


class _ToStderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Prints what is told of data sets, where a line of progress gives way to it."""
        click.echo(record.getMessage(), err=True)


def _tell_notes() -> None:
    """Makes what is told of data sets come on stderr, of many processes by the first."""
    say_once.cache_clear()
    if not LOGGER.handlers:
        LOGGER.addHandler(_ToStderr() if os.environ.get("RANK", "0") == "0" else logging.NullHandler())


def _no_memory() -> str:
    given = os.environ.get(VARIABLE)
    less = f"give less than --memory {given}" if given else f"give --memory {human(free_memory() / 4)}"
    return f"out of memory: what the job took did not fit. Close other programs, {less}, or lift the limit of ulimit."


def _fail(message: str, code: int) -> None:
    print(f"lia-adapt: {message}", file=sys.stderr)
    sys.exit(code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lia-adapter")
def main() -> None:
    """Make a StyleGAN checkpoint invertible, without ever executing it."""


@main.command()
@click.argument("ckpt")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("-o", "--out", type=Path, help="The result; default <stem>.lia.safetensors in the current folder.")
@click.option("--recipe", default="convert", show_default=True, help="A shipped recipe or a .toml file.")
@click.option("--device", default=None, help="cpu, cuda, cuda:1, mps; default: cuda where there is one.")
@click.option("--seed", type=int, help="Of the fit.")
@click.option("--steps", type=int, help="Training steps.")
@click.option("--coupling", help="auto, dense, additive (LIA's own) or affine.")
@labels("the generator to make: a conditional checkpoint becomes one of this label alone")
@click.option("--channel-order", default="rgb", show_default=True, help="bgr where images come out blue for red (mmagic).")
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
    out: Path | None,
    recipe: str,
    device: str | None,
    seed: int | None,
    steps: int | None,
    coupling: str | None,
    label: Label | None,
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
    from lia_adapter.commands.estimates import convert_work, estimate
    from lia_adapter.generators import is_script
    from lia_adapter.lia import load
    from lia_adapter.metrics.features import load_features
    from lia_adapter.report import report_paths, write_convert_report
    from lia_adapter.training.convert import check_convertible, convert_lia
    from lia_adapter.training.mapping import ConvertConfig, pick_coupling

    given = {"seed": seed, "steps": steps, "coupling": coupling}
    config = load_recipe(
        ConvertConfig,
        recipe,
        parse_overrides(overrides) | {key: value for key, value in given.items() if value is not None},
    )
    out = out or Path(f"{source_stem(ckpt)}.lia.safetensors")
    if not out.name.endswith(".safetensors"):
        raise ConfigError(f"-o {out} must end in .safetensors; expected for example {out.name}.safetensors.")
    progress = ProgressLine()
    if is_script(ckpt):
        path = Path(ckpt)
        if sha256:
            raise ConfigError("--sha256 is for files that are read; a Python file that builds a generator is run as it is.")
    else:
        path = fetch(ckpt, sha256=sha256, progress=lambda done, total: progress("download, bytes", done, total))
    progress(f"open {source_stem(ckpt)}", 0, None)
    lia = load(path, device=device_name(device), label=label, channel_order=channel_order, assume=assume)
    if "://" in ckpt:  # without what may be a password or a token
        address = urlsplit(ckpt)
        lia.provenance["address"] = f"{address.scheme}://{address.hostname}{address.path}"
    network = load_features(features)
    for target in (out, *report_paths(out).values()):
        check_writable(target)
    if lia.mapping_is_own:  # the official LIA, or a generator of our own
        if not dry_run:
            lia.save(out)
        click.echo(
            f"{path.name} has an invertible mapping: there is nothing to fit. {'would write' if dry_run else 'wrote'} {out}"
        )
        return
    check_convertible(lia.generator)
    if dry_run:
        kind = pick_coupling(lia.generator, config.coupling)
        click.echo(_describe(lia))
        echo_estimate(estimate(lia, convert_work(lia, config, network)))
        click.echo(f"would fit the mapping {kind!r} on {lia.device} and write {out}, .png, .html and .json, with the recipe:\n")
        click.echo(to_toml(config))
        return
    state = out.with_name(f".{out.name}.fit")
    converted = convert_lia(lia, config, features=network, data=data, state_path=state, progress=progress)
    converted.save(out, adapter_only=adapter_only)
    write_convert_report(converted, out, progress)
    state.unlink(missing_ok=True)
    click.echo(_summary(converted.metrics))
    click.echo(f"wrote {out}, and beside it .png, .html and .json")


@main.command("train-encoder")
@click.argument("lia", metavar="LIA")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--data", type=Path, required=True, help="A folder of images, or a data-set zip of NVlabs' form.")
@click.option("-o", "--out", type=Path, help="The result; default <stem>-encoder.safetensors in the current folder.")
@click.option("--recipe", default="encoder", show_default=True, help="encoder, encoder-cpu or a .toml file.")
@labels("all images, where the data set has no labels")
@bits
@click.option("--features", help="A perceptual network: a file of any torchvision network, vgg16 (fetched), or none.")
@generator_file
@click.option("--device", default=None, help="cpu, cuda, ...; default: cuda where there is one. One for each under torchrun.")
@click.option("--adapter-only", is_flag=True, help="Leave the generator out of the file and bind the file to it by hash.")
@memory
@dry_run
def train_encoder(
    lia: str,
    overrides: Sequence[str],
    data: Path,
    out: Path | None,
    recipe: str,
    label: Label | None,
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
    from lia_adapter.commands.estimates import encoder_estimate
    from lia_adapter.lia import load
    from lia_adapter.report import reconstruction_picture, report_paths, write_encoder_report
    from lia_adapter.training import ranks
    from lia_adapter.training.encoder import EncoderConfig, train_encoder_lia

    given = {"features": features, "label": label, "bits": bits}
    config = load_recipe(
        EncoderConfig,
        recipe,
        parse_overrides(overrides) | {key: value for key, value in given.items() if value is not None},
    )
    out = out or Path(f"{source_stem(lia)}-encoder.safetensors")
    if not out.name.endswith(".safetensors"):
        raise ConfigError(f"-o {out} must end in .safetensors; expected for example {out.name}.safetensors.")
    with ranks.joined(device) as own:
        first = ranks.rank() == 0
        progress = ProgressLine() if first else None
        if progress:
            progress(f"open {source_stem(lia)}", 0, None)
        opened = load(lia, generator=generator, device=device_name(own))
        check_given_label(label, opened.generator.c_dim)
        if first:
            for target in (out, *report_paths(out).values()):
                check_writable(target)
        folder = out.with_name(out.name.removesuffix(".safetensors"))
        if dry_run:
            if first:
                click.echo(_describe(opened))
                echo_estimate(encoder_estimate(opened, config))
                click.echo(f"would train on {data}, on {ranks.count()} x {opened.device}, and write {out}, with the recipe:\n")
                click.echo(to_toml(config))
            return
        trained = train_encoder_lia(opened, data, config, folder=folder, picture=reconstruction_picture, progress=progress)
        if first:
            trained.save(out, adapter_only=adapter_only)
            write_encoder_report(trained, out, folder, progress)
            for name in ("state.safetensors", "checks.json"):
                (folder / name).unlink(missing_ok=True)
            click.echo(_encoder_summary(trained.metrics["encoder"]))
            _list("unreadable", [f"{name}: {why}" for name, why in trained.metrics["encoder"]["unreadable"].items()])
            click.echo(f"wrote {out}, and beside it .png, .html, .json and {folder}{os.sep}")
        ranks.barrier()


@main.command()
@click.argument("lia", metavar="LIA")
@click.argument("images", type=Path)
@click.option("-o", "--out", type=Path, default=Path("codes.safetensors"), show_default=True, help="The codes.")
@click.option("--fit", default="crop", show_default=True, help="crop, letterbox or stretch.")
@click.option("--split", default="all", show_default=True, help='Which images: all, "first 100", "last 100", "list names.txt".')
@labels("all images, where the data set has no labels")
@bits
@click.option("--batch", type=click.IntRange(1), help="Images a pass, at most; default: what memory and speed allow.")
@generator_file
@click.option("--device", default=None, help="cpu, cuda, ...; default: cuda where there is one. One for each under torchrun.")
@memory
@dry_run
def encode(
    lia: str,
    images: Path,
    out: Path,
    fit: str,
    split: str,
    label: Label | None,
    bits: int | None,
    batch: int | None,
    generator: str | None,
    device: str | None,
    dry_run: bool,
) -> None:
    """Encode IMAGES, a folder of any size, a zip or a picture, into y and z.

    More than 8,192 images make several files; those that are finished are kept when the same command is given again.
    """
    from lia_adapter.commands.codes import joined, read_codes
    from lia_adapter.commands.encode import encode_images, unusual_names
    from lia_adapter.commands.estimates import Work, count_images, estimate
    from lia_adapter.lia import load
    from lia_adapter.training import ranks

    if not out.name.endswith(".safetensors"):
        raise ConfigError(f"-o {out} must end in .safetensors; expected for example {out.name}.safetensors.")
    with ranks.joined(device) as own:
        first = ranks.rank() == 0
        progress = ProgressLine() if first else None
        if progress:
            progress(f"open {source_stem(lia)}", 0, None)
        opened = load(lia, generator=generator, device=device_name(own))
        check_writable(out)
        if dry_run:
            if first:
                count = count_images(opened, images, split, label)
                echo_estimate(estimate(opened, Work(drawn=count, encoded=count)))
            return
        paths = encode_images(opened, images, out, fit=fit, split=split, label=label, bits=bits, batch=batch, progress=progress)
        if not first:
            return
        codes = joined([read_codes(path) for path in paths])
        errors = codes.tensors["mse"]
        click.echo(
            f"encoded      {len(codes.names):,} images, mean squared error {errors.mean():.4f}, worst {errors.max():.4f}"
        )
        _list("unreadable", [f"{name}: {why}" for name, why in codes.unreadable.items()])
        _list("unusual", unusual_names(codes), "less usual than 99 % of the training images; of the wrong kind?")
        click.echo(f"wrote {paths[0]}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else ""))


def _list(name: str, lines: Sequence[str], note: str = "") -> None:
    """A count and the first few of many lines."""
    if lines:
        click.echo(f"{name:<12} {len(lines):,}" + (f" ({note})" if note else ""))
    for line in lines[:_LISTED]:
        click.echo(f"             {line}")
    if len(lines) > _LISTED:
        click.echo(f"             and {len(lines) - _LISTED:,} more")


@main.command()
@click.argument("file")
@assume
def inspect(file: str, assume: Mapping[str, str]) -> None:
    """Say what FILE is, what it names and what lia-adapt would do with it. Safe on hostile files."""
    from lia_adapter.checkpoints import inspect_file
    from lia_adapter.lia import from_checkpoint, is_lia_file, read_header
    from lia_adapter.training.convert import obstacle

    path = fetch(file)
    if is_lia_file(path):
        click.echo(_describe_lia(path.name, read_header(path)))
        return
    found = inspect_file(path, assume=assume)
    click.echo(f"file       {found.name}, {found.size:,} bytes, {found.container}")
    click.echo(f"sha256     {found.sha256}")
    verdict = f"refused: {found.problem}"
    if found.checkpoint is not None:
        verdict = f"cannot be converted: it holds {found.checkpoint.content()}, and no generator"
        if found.checkpoint.config["generator"] is not None:
            opened = from_checkpoint(found.checkpoint)
            click.echo(_describe(opened))
            why = None if opened.mapping is not None else obstacle(opened.generator)
            verdict = f"cannot be converted: it {why}" if why else f"can be converted: lia-adapt convert {file}"
            if opened.mapping is not None:
                verdict = f"is a LIA, with an invertible mapping: lia-adapt convert {file} writes it as one file"
        for note in found.checkpoint.notes:
            click.echo(f"note       {note}")
        for assumption in found.checkpoint.assumptions:
            others = " or ".join(option for option in assumption.options if option != assumption.value)
            click.echo(
                f"assumed    {assumption.key} {assumption.value}. {assumption.why} Else: --assume {assumption.key}={others}"
            )
    if found.symbols:
        click.echo(f"names      {len(found.symbols)} classes and functions (none was looked up or called):")
        for symbol in found.symbols:
            click.echo(f"           {symbol}")
    click.echo(f"verdict    {verdict}")
    if found.spoiled:
        raise click.exceptions.Exit(2)  # whoever asks before a long job should not go on


@main.command()
@click.argument("file")
@click.option("--seeds", default="0-15", show_default=True, help="StyleGAN's seeds: 0-63, 1,5,42, or both.")
@click.option("--trunc", type=float, default=1.0, show_default=True, help="Truncation psi.")
@labels("all pictures, for a conditional generator")
@click.option("-o", "--out", required=True, help="A picture of all, .png, or a folder for a picture of each.")
@assume
@generator_file
@click.option("--device", default=None, help="cpu, cuda, ...; default: cuda where there is one.")
@memory
@dry_run
def sample(
    file: str,
    seeds: str,
    trunc: float,
    label: Label | None,
    out: str,
    assume: Mapping[str, str],
    generator: str | None,
    device: str | None,
    dry_run: bool,
) -> None:
    """Draw the seeds of FILE, a LIA file or a plain checkpoint.

    They come on one sheet, OUT.png; more than 64 on several, OUT-00001-of-00016.png and so on; or, where OUT is a folder, in a
    file each: seed0042.png. Files that are there already are replaced.
    """
    files = _sample_files(out, parse_seeds(seeds))
    progress = ProgressLine()
    progress(f"open {source_stem(file)}", 0, None)

    from lia_adapter.commands.estimates import Work, estimate
    from lia_adapter.commands.sample import sample_seeds
    from lia_adapter.lia import load

    lia = load(file, generator=generator, device=device_name(device), assume=assume)
    if (makes := lia.generator.makes) != "images":
        raise LIAError(f"this generator makes {makes}, which only a renderer turns into images. Use it from Python.")
    c_dim = lia.generator.c_dim
    check_given_label(label, c_dim)
    if c_dim and label is None:
        raise ConfigError(
            f"this generator is conditional: give --class 0 to {c_dim - 1} or, where labels are continuous, --label A,B,... of "
            f"{label_words(c_dim)}."
        )
    if dry_run:
        echo_estimate(estimate(lia, Work(drawn=sum(map(len, files.values())))))
        return
    sample_seeds(lia, files, psi=trunc, label=label, progress=progress)
    first, more = next(iter(files)), len(files) - 1
    click.echo(f"wrote {first}{f' and {more:,} more' if more else ''}: {sum(map(len, files.values())):,} pictures")


def _sample_files(out: str, seeds: Sequence[int]) -> dict[Path, Sequence[int]]:
    """Which seeds go into which file.

    Raises:
        LIAError: OUT is neither a .png nor a folder, or a .png that cannot be written.
    """
    path = Path(out)
    if out.endswith(os.sep) or not path.suffix or (path.suffix.lower() != ".png" and path.is_dir()):
        return {path / f"seed{seed:04d}.png": [seed] for seed in seeds}  # named as NVlabs' programs name them
    if path.suffix.lower() != ".png":
        names = f"{path.with_suffix('.png')}, or {out}{os.sep}"
        raise ConfigError(f"-o {out} ends in {path.suffix}; expected a picture or a folder. Name {names}.")
    count = -(-len(seeds) // _SHEET)
    stem, ending = path.stem, path.suffix
    paths = [path] if count == 1 else [path.with_name(f"{stem}-{i:05d}-of-{count:05d}{ending}") for i in range(1, count + 1)]
    check_writable(paths[0])
    return {path: seeds[i * _SHEET : (i + 1) * _SHEET] for i, path in enumerate(paths)}


@main.command()
@click.option("-o", "--out", type=Path, default=Path("demo.safetensors"), show_default=True, help="The result.")
@memory
def demo(out: Path) -> None:
    """Show the whole way on the small model that ships with lia-adapter: convert, train an encoder, reconstruct, edit."""
    from lia_adapter.commands.demo import run_demo, write_demo_report
    from lia_adapter.report import report_paths

    if not out.name.endswith(".safetensors"):
        raise ConfigError(f"-o {out} must end in .safetensors; expected for example {out.name}.safetensors.")
    for target in (out, *report_paths(out).values()):
        check_writable(target)
    shown = run_demo(ProgressLine())
    shown.lia.save(out)
    paths = write_demo_report(shown, out)
    click.echo(_summary(shown.lia.metrics))
    click.echo(_encoder_summary(shown.lia.metrics["encoder"]))
    click.echo(f"wrote {out}; open {paths['html']} in a browser")


@main.command()
def doctor() -> None:
    """Say which versions and devices are here and what will run where."""
    import torch

    from lia_adapter.lia import versions
    from lia_adapter.ops import native

    cuda = "none"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        cuda = f"{', '.join(names)}, CUDA {torch.version.cuda}"
    elif torch.version.cuda:
        cuda = f"torch is built for CUDA {torch.version.cuda}, but sees no GPU"
    lines = {
        "versions": ", ".join(f"{name} {number}" for name, number in versions().items()),
        "CPU": f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "GPU": cuda,
        **native.report(),
        "runs on": device_name(None),
    }
    for name, text in lines.items():
        click.echo(f"{name:<10} {text}")


def _describe(lia: Any) -> str:
    """A generator in a few aligned lines."""
    g = lia.generator
    count = sum(p.numel() for p in g.parameters())
    height, width = g.resolution
    lines = [
        f"family     {lia.family or 'none: a wrapped generator'}, {count:,} parameters",
        f"images     {width} x {height}, {g.channels} channels, {g.num_ws} layers",
        f"codes      z {g.z_dim}, y {g.y_dim}" + (f", {_labels(g)}" if g.c_dim else ", unconditional"),
        f"has        {'discriminator' if lia.discriminator is not None else 'no discriminator'}, "
        f"{'average y' if g.y_mean is not None else 'no average y'}" + (", encoder" if lia.encoder is not None else ""),
    ]
    return "\n".join(lines)


def _labels(generator: Any) -> str:
    """What a conditional generator is given, in words."""
    if generator.makes != "images":
        return f"labels of {label_words(generator.c_dim)}"
    return f"{generator.c_dim} classes (or labels of {label_words(generator.c_dim)})"


def _describe_lia(name: str, header: dict[str, Any]) -> str:
    """What a LIA file's header says, in a few aligned lines."""
    provenance = header["provenance"]
    own = header["config"].get("generator", {}).get("mapping", {})  # of a generator that learnt with an invertible mapping
    mapping = header["mapping"] or (own if "coupling" in own else {"coupling": "not invertible yet", "y_dim": own.get("z_dim")})
    content = "the adapter alone" if header["adapter_only"] else f"{header['family']} generator and adapter"
    lines = [
        f"file       {name}, a LIA file: {content}",
        f"mapping    {mapping.get('coupling')}, z and y {mapping.get('y_dim')}",
        f"source     {provenance.get('source', 'a wrapped generator')}, sha256 {provenance.get('source_sha256', 'unknown')}",
        f"generator  fingerprint {header['generator_sha256']}",
    ]
    if "seeds_raw" in header["metrics"]:  # measured by convert
        lines += _summary(header["metrics"]).splitlines()
    if header.get("encoder"):
        space, made_by = header["encoder"].get("space"), provenance.get("encoder", {})
        lines.append(f"encoder    into {space}, trained on {made_by.get('data', {}).get('images', 0):,} images")
    return "\n".join(lines)


def _summary(metrics: dict[str, Any]) -> str:
    """The figures in a few aligned lines."""
    lines = []
    for name in ("sliced_wasserstein", "frechet", "frechet_images"):
        between = metrics[name].get("interval")
        rough = f", between {between[0]:.2f} and {between[1]:.2f}: {metrics['images']} images a side" if between else ""
        lines.append(f"{name:<20} {metrics[name]['ratio']:.3f} x its noise floor{rough}")
    lines.append(f"{'classifier':<20} {metrics['classifier']['excess']:+.3f} above its noise floor")
    lines.append(f"{'round_trip':<20} {metrics['round_trip']['value']:.1e} standard deviations at most")
    lines.append(f"{'seeds':<20} {metrics['seeds_raw']['value']:.3f} raw, {metrics['seeds_white']['value']:.3f} whitened")
    return "\n".join(lines)


def _encoder_summary(figures: dict[str, Any]) -> str:
    """What a training measured, in a few aligned lines."""
    from lia_adapter.training.encoder import encoder_verdict

    after, before = figures["after"], figures["before"]
    texts = {
        "correlation": f"of found and true y, on the {after['directions']} directions that move pixels",
        "mse": "mean squared error of the generator's own images",
        "mse_of_real_images": "mean squared error of real images",
    }
    lines = [f"{after[key]:<8.4f} {text} (before: {before[key]:.4f})" for key, text in texts.items()]
    return "\n".join([*lines, encoder_verdict(figures)])


for command in (dataset, train, reconstruct, invert, evaluate, export):
    main.add_command(command)
