"""The commands that go from one picture to another: `mix`, `interpolate` and `video`."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lia_adapter.cli import moving
from lia_adapter.cli.options import (
    Job,
    device,
    dry_run,
    echo_estimate,
    echo_list,
    finite,
    flag,
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
    from lia_adapter.lia import LIA

__all__ = ["interpolate", "mix", "video"]

_SPACES = ("y", "z")
_KEYS, _WALK, _FOOTAGE = "a way through key frames", "a walk without sources", "a video as the source"
_MOVES = "what directions do"
_READING = ("resize_mode", "split", "trust_codes")
_OF: Mapping[str, tuple[str, ...]] = {
    _KEYS: ("frames", "loop", "space", "fps", *_READING),
    _WALK: ("seconds", "seed", "fps"),
    _FOOTAGE: ("smooth", "resize_mode"),
    _MOVES: ("move", "directions", "keep", "layers", "seconds", "fps", *_READING),
}
"""The options of each kind of video."""


def _echo_work(lia: "LIA", sources: Sequence[str], drawn: Callable[[Sequence[int]], int], reading: Mapping[str, Any]) -> None:
    """Prints what a job would take that draws so many pictures of sources with so many things each."""
    from lia_adapter.jobs.estimates import Work, estimate
    from lia_adapter.jobs.sources import count_sources

    known = {key: value for key, value in reading.items() if key in ("split", "label", "trust_codes")}
    counts = [count_sources(lia, source, **known) for source in sources]
    work = Work(drawn=drawn([count for count, _ in counts]), encoded=sum(encoded for _, encoded in counts))
    echo_estimate(estimate(lia, work))


def _sources(command: Callable[..., None]) -> Callable[..., None]:
    """The options of how sources are read and drawn; of the first three, the command gets as `reading` those that are given."""

    @resize_mode(None, " Default crop.")
    @split(None, " Default all.")
    @click.option("--trust-codes", is_flag=True, default=None, help="Say that codes of another program are of LIA's generator.")
    @labels("all pictures or seeds, for a conditional generator")
    @truncation
    @generator_file
    @device
    @memory
    @dry_run
    @functools.wraps(command)
    def run(*args: Any, resize_mode: str | None, split: str | None, trust_codes: bool | None, **kwargs: Any) -> None:
        given = {"resize_mode": resize_mode, "split": split, "trust_codes": trust_codes}
        command(*args, reading={key: value for key, value in given.items() if value is not None}, **kwargs)

    return run


@click.command(cls=Job)
@click.argument("file", metavar="LIA")
@click.argument("first", metavar="COARSE")
@click.argument("second", metavar="FINE")
@out("Folder for the pictures", "mix")
@click.option("--layers", metavar="LIST", help="Of FINE, by number: 0-3, 5 or both; one grid.")
@click.option("--coarse", is_flag=True, help="A grid with the coarse layers of FINE, of 4² and 8².")
@click.option("--middle", is_flag=True, help="A grid with its middle ones, of 16² and 32².")
@click.option("--fine", is_flag=True, help="A grid with its fine ones, from 64² on.")
@_sources
def mix(
    file: str,
    first: str,
    second: str,
    out: str | None,
    layers: str | None,
    coarse: bool,
    middle: bool,
    fine: bool,
    reading: Mapping[str, Any],
    generator: str | None,
    device: str | None,
    dry_run: bool,
    **given: Any,
) -> None:
    """Draw each of COARSE with some layers of each of FINE; with no options, three grids: its coarse, middle and fine ones.

    COARSE and FINE are each a folder, a zip, a picture, a file of codes, or seeds as in seeds:0-3; at most 16 pictures. Where
    a generator has fewer layers than StyleGAN at 128², or others, coarse, middle and fine are thirds of them. Writes into the
    folder OUT a PNG of each mixture, and mix.png, mix.html and mix.json.
    """
    from lia_adapter.config import parse_seeds
    from lia_adapter.devices import device_name
    from lia_adapter.errors import ConfigError
    from lia_adapter.jobs.mix import GROUPS, chosen_layers, mix_styles
    from lia_adapter.loading import load
    from lia_adapter.reports.moves import layer_words, write_mix_report

    groups = [name for name, wanted in zip(GROUPS, (coarse, middle, fine), strict=True) if wanted]
    if layers is not None and groups:
        raise ConfigError(f"--layers and --{groups[0]} both say which layers are of FINE; give one of them.")
    numbers = None if layers is None else parse_seeds(layers)
    folder, progress = Path(out or "mix"), ProgressLine()
    progress(f"open {Path(file).name}", 0, None)
    lia = load(file, generator=generator, device=device_name(device))
    chosen: dict[str, Any] = {"groups": groups} if groups else {}
    if dry_run:
        each = len(chosen_layers(lia.generator, groups or GROUPS, numbers))
        _echo_work(lia, [first, second], lambda n: sum(n) + each * math.prod(n), {**reading, **given})
        return
    figures, grids = mix_styles(lia, first, second, folder, layers=numbers, progress=progress, **chosen, **reading, **given)
    page = write_mix_report(figures, grids, folder)
    for name, of in figures["layers"].items():
        click.echo(f"{name:<10} {layer_words(of)} of {figures['num_ws']} from {second}")
    _echo_unreadable(figures["unreadable"])
    count = sum(map(len, figures["files"].values()))
    click.echo(f"wrote {count:,} mixtures into {folder}; open {page} in a browser")


@click.command(cls=Job)
@click.argument("file", metavar="LIA")
@click.argument("sources", metavar="FROM [TO]...", nargs=-1, required=True)
@out("Folder for the pictures", "path")
@click.option("--steps", type=click.IntRange(min=2), default=7, show_default=True, help="Pictures a way, both ends included.")
@click.option("--features", type=Path, help="A torchvision network (.pth, .safetensors), to measure what it sees.")
@_sources
def interpolate(
    file: str,
    sources: Sequence[str],
    out: str | None,
    steps: int,
    features: Path | None,
    reading: Mapping[str, Any],
    generator: str | None,
    device: str | None,
    dry_run: bool,
    **given: Any,
) -> None:
    """Draw the way from one picture to another, straight in y and along a great circle in z, and measure both.

    FROM, TO and those that follow are each a picture, a file of codes with one, or a seed as in seeds:7; or FROM alone is a
    folder, a zip, a file of codes or seeds with several. Writes into the folder OUT a PNG of each picture, y-01-001.png and so
    on, and path.png, path.html and path.json.
    """
    from lia_adapter.devices import device_name
    from lia_adapter.jobs.interpolate import SPACES, interpolate_sources
    from lia_adapter.loading import load
    from lia_adapter.reports.moves import write_interpolate_report

    folder, progress = Path(out or "path"), ProgressLine()
    progress(f"open {Path(file).name}", 0, None)
    lia = load(file, generator=generator, device=device_name(device))
    if dry_run:
        ways = 2 if lia.mapping is not None else 1
        _echo_work(lia, sources, lambda n: ways * steps * (sum(n) - 1), {**reading, **given})
        return
    figures = interpolate_sources(lia, sources, folder, steps=steps, features=features, progress=progress, **reading, **given)
    page = write_interpolate_report(figures, folder)
    for pair in figures["pairs"]:
        lengths = ", ".join(f"{length:.4g} {SPACES[space]}" for space, length in pair["length"].items())
        click.echo(f"length     {lengths}: {pair['from']} to {pair['to']}")
    click.echo(f"           sums over {steps - 1} steps of the {figures['measure']}")
    for space, why in figures["left_out"].items():
        click.echo(f"left out   the way through {space}. {why}")
    _echo_unreadable(figures["unreadable"])
    click.echo(f"wrote {len(figures['pairs'])} pairs into {folder}; open {page} in a browser")


@click.command(cls=Job)
@click.argument("file", metavar="LIA")
@click.argument("sources", metavar="[SOURCE]...", nargs=-1)
@out("The video: .webp, .apng, .gif, .mp4 or .webm", "video.webp")
@click.option("--frames", type=click.IntRange(min=1), help="From one key frame to the next; default 30.")
@moving.move
@moving.directions_files
@moving.keep
@moving.layers
@click.option("--loop", is_flag=True, default=None, help="Go from the last key frame back to the first.")
@click.option("--space", type=click.Choice(_SPACES), help="Between key frames; default z, and y where LIA is not converted.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    callback=finite,
    help="Of the walk without sources, default 10; with --move, of each direction and source, default 4.",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Of that walk; default 0.")
@click.option(
    "--smooth",
    type=click.FloatRange(min=0),
    callback=finite,
    help="A Gaussian's width over a video's codes, in frames; default 2.",
)
@click.option(
    "--fps", type=click.FloatRange(0.1, 120), callback=finite, help="Frames a second; default 30, or those of a video."
)
@_sources
def video(
    file: str,
    sources: Sequence[str],
    out: str | None,
    reading: Mapping[str, Any],
    label: Any,
    psi: float,
    generator: str | None,
    device: str | None,
    dry_run: bool,
    **flags: Any,
) -> None:
    """Film the way through key frames, a closed walk through z, what directions do, or a video as LIA sees it.

    Each SOURCE is a picture, a folder, a zip, a file of codes, or seeds as in seeds:0-3: all that they hold are key frames,
    and the way between them is smooth. Without any, the video is a walk among what the generator draws that ends where it
    begins. One SOURCE that is a video (.mp4, .mov, .webm, ...) is encoded frame by frame, its codes are smoothed over time, and
    what they draw is pasted back. With --move, each SOURCE is moved along one direction after the other, there and back.

    Beside OUT comes a page (.html) and figures (.json). .mp4 and .webm, also as a SOURCE, need lia-adapter[video].
    """
    from lia_adapter.devices import device_name
    from lia_adapter.errors import ConfigError
    from lia_adapter.jobs.animation import check_animation
    from lia_adapter.jobs.directions_film import film_of_directions
    from lia_adapter.jobs.edit import open_directions
    from lia_adapter.jobs.estimates import Work, estimate
    from lia_adapter.jobs.footage import footage_count, is_footage
    from lia_adapter.jobs.run import check_inputs_kept
    from lia_adapter.jobs.video import film_of_footage, film_of_keys, film_of_walk, frame_count, frame_rate, write_film
    from lia_adapter.loading import load
    from lia_adapter.reports.moves import film_words, write_video_report

    videos = [source for source in sources if is_footage(source)]
    if videos and len(sources) > 1:
        raise ConfigError(f"{videos[0]} is a video, which is drawn by itself; leave the other sources out.")
    kind = _FOOTAGE if videos else _MOVES if flags["move"] else _KEYS if sources else _WALK
    given = {key: value for key, value in flags.items() if value not in (None, (), [], {})} | dict(reading)
    if wrong := [key for key in given if key not in _OF[kind]]:
        takes = ", ".join(map(flag, _OF[kind]))
        raise ConfigError(f"{flag(wrong[0])} is not for {kind}, which takes {takes}. Leave it out.")
    if kind == _MOVES and not sources:
        raise ConfigError("--move needs a SOURCE to move: a picture, codes, or seeds as in seeds:0-3.")
    target = check_animation(out or "video.webp", frame_rate(given.get("fps", 1)))
    for source in sources:
        check_inputs_kept([target], source, ())  # before anything takes long
    progress = ProgressLine()
    progress(f"open {Path(file).name}", 0, None)
    lia = load(file, generator=generator, device=device_name(device))
    if kind == _MOVES:
        given["directions"] = open_directions(lia, given.get("directions", ["directions.safetensors"]))
    if dry_run:
        frames, loop = given.get("frames", 30), given.get("loop", False)
        if videos:
            count = footage_count(videos[0])
            echo_estimate(estimate(lia, Work(drawn=count, encoded=count)))
        elif kind == _MOVES:
            count = frame_count(given.get("seconds", 4.0), given.get("fps", 30.0)) * len(given["move"])
            _echo_work(lia, sources, lambda n: count * sum(n), {**given, "label": label})
        elif sources:
            _echo_work(lia, sources, lambda n: frames * (sum(n) - (not loop)) + (not loop), {**given, "label": label})
        else:
            echo_estimate(estimate(lia, Work(drawn=film_of_walk(lia, label=label, psi=psi, **given).count)))
        return
    if videos:
        film = film_of_footage(lia, videos[0], label=label, psi=psi, progress=progress, **given)
    elif kind == _MOVES:
        film = film_of_directions(lia, sources, label=label, psi=psi, progress=progress, **given)
    elif sources:
        film = film_of_keys(lia, sources, label=label, psi=psi, progress=progress, **given)
    else:
        film = film_of_walk(lia, label=label, psi=psi, **given)
    figures, sheet = write_film(film, target, progress)
    page = write_video_report(figures, sheet, target)
    click.echo(f"film       {film_words(figures)}")
    _echo_unreadable(figures.get("unreadable", {}))
    size = f"{figures['width']} x {figures['height']}"
    click.echo(f"wrote {target}: {figures['count']:,} frames of {size}, {figures['seconds']:.1f} s; open {page} in a browser")


def _echo_unreadable(reasons: Mapping[str, str]) -> None:
    echo_list("unreadable", [f"{name!r}: {why}" for name, why in reasons.items()])
