"""`video`: through key frames, on a closed walk in z, or a video drawn again, frame by frame."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lia_adapter.budget import in_parts
from lia_adapter.data import fit_image, paste_back, to_floats
from lia_adapter.editing.walks import closed_walk, smoothed, spline, spline_in_z
from lia_adapter.encoder import for_layers, one_code
from lia_adapter.errors import ConfigError, LIAError, argument, check_choice
from lia_adapter.files import check_writable
from lia_adapter.generators import broadcast, fingerprint
from lia_adapter.generators.base import one_class
from lia_adapter.generators.labels import Label, check_given_label
from lia_adapter.jobs.animation import check_animation, holds_sound, write_animation
from lia_adapter.jobs.footage import Footage
from lia_adapter.jobs.run import check_inputs_kept, report_paths, write_json
from lia_adapter.jobs.sample import check_samples
from lia_adapter.jobs.sources import Sources, join_sources, open_sources, truncated, why_no_z
from lia_adapter.lia import LIA
from lia_adapter.pictures import Sheet, image_grid, png_bytes
from lia_adapter.progress import Progress

__all__ = [
    "FILM_SPACES", "Film", "film_of_footage", "film_of_keys", "film_of_walk", "figures_path", "frame_count", "frame_rate",
    "made_by", "write_film",
]  # fmt: skip

FILM_SPACES = ("y", "z")
"""Where a way through key frames may go."""
_SHOWN = 8  # frames on the page
_TURN = 5.0  # seconds in which a walk goes once around, at its slowest


@dataclass(frozen=True)
class Film:
    """Moving pictures that are drawn while they are written.

    Attributes:
        frames: Draws them, one after another.
        count: How many.
        fps: A second.
        about: What it shows, as JSON.
        inputs: Files that it reads: data sets, and the names of images in them.
        sound: A video whose sound goes along.
    """

    frames: Callable[[], Iterator[Image.Image]]
    count: int
    fps: Fraction
    about: dict[str, Any]
    inputs: tuple[tuple[str, tuple[str, ...]], ...] = ()
    sound: Footage | None = None


def film_of_keys(
    lia: LIA,
    sources: Sequence[str | Path],
    *,
    frames: int = 30,
    fps: float = 30.0,
    loop: bool = False,
    space: str | None = None,
    resize_mode: str = "crop",
    split: str = "all",
    label: Label | None = None,
    trust_codes: bool = False,
    psi: float = 1.0,
    progress: Progress | None = None,
) -> Film:
    """A smooth way through key frames, which are there exactly.

    Args:
        lia: With an encoder, if a source are images.
        sources: Of all the pictures, codes and seeds, in order, at least two; see `open_sources`.
        frames: From one key frame to the next.
        fps: Frames a second.
        loop: Whether the last is followed by the first.
        space: z (`spline_in_z`) or y; None: z where the codes have any, else y. What layers differ by goes through y.
        resize_mode: See `open_sources`.
        split: See `open_sources`.
        label: See `open_sources`.
        trust_codes: See `open_sources`.
        psi: Truncation of the key frames; 1 is none.
        progress: Is told the images encoded.

    Raises:
        LIAError: See `open_sources`; fewer than two key frames, or no z to go through.
    """
    if frames < 1:
        raise ConfigError(f"{argument('frames')} is {frames}; expected 1 or more from one key frame to the next.")
    rate = frame_rate(fps)
    reading: dict[str, Any] = {"resize_mode": resize_mode, "split": split, "label": label, "trust_codes": trust_codes}
    parts = [open_sources(lia, source, **reading, psi=psi, progress=progress) for source in sources]
    keys = join_sources(parts)
    if len(keys) < 2:
        raise ConfigError(f"there is one key frame, {keys.names[0]}; expected two or more to go between. Give another source.")
    why = why_no_z(lia, keys)
    if space is None:
        space = "y" if why else "z"
    check_choice("space", space, FILM_SPACES)
    if space == "z" and why:
        raise LIAError(f"there is no way through z. {why} Or give {argument('space')} y.")
    count = len(keys) * frames if loop else (len(keys) - 1) * frames + 1
    z = keys.z(lia) if space == "z" else None
    times = torch.arange(count, dtype=torch.float64) / frames
    about = {
        "kind": "keys", "sources": [str(source) for source in sources], "names": keys.names, "space": space, "loop": loop,
        "frames": frames, "z_left_out": why or None, "unreadable": dict(keys.unreadable),
    }  # fmt: skip
    inputs = tuple((str(source), part.names) for source, part in zip(sources, parts, strict=True))

    def codes(part: range) -> Tensor:
        return key_codes(lia, keys, z, times[part.start : part.stop], loop)

    return Film(lambda: _drawn(lia, codes, count), count, rate, about | made_by(lia, psi), inputs)


def key_codes(lia: LIA, keys: Sources, z: Tensor | None, t: Tensor, loop: bool) -> Tensor:
    """ys [T, num_ws, y_dim] of the way through key frames, at times t [T] (`spline`).

    Args:
        lia: Whose codes they are.
        keys: The key frames.
        z: Of theirs [N, y_dim], to go through; None: y.
        t: 0 is the first of them, 1 the second.
        loop: Whether the last is followed by the first.
    """
    if z is None:
        return spline(keys.ys, t, closed=loop)
    c = None if keys.c is None else keys.c[:1].expand(len(t), -1)
    y = lia.to_y(spline_in_z(z, t, closed=loop), c).cpu()
    return for_layers(y, keys.ys) + spline(keys.beside, t, closed=loop)


def film_of_walk(
    lia: LIA, *, seconds: float = 10.0, fps: float = 30.0, seed: int = 0, label: Label | None = None, psi: float = 1.0
) -> Film:
    """A closed walk through z (`closed_walk`), each frame of which is one that the generator might draw of a seed.

    It goes through the original mapping, as seeds do, converted or not.

    Args:
        lia: Draws it.
        seconds: How long it takes; a longer one is no slower, but goes farther.
        fps: Frames a second.
        seed: Of the walk (not StyleGAN's).
        label: The class of all frames, or the numbers of their label, for a conditional generator.
        psi: Truncation; 1 is none.

    Raises:
        LIAError: No label for a conditional generator, or no frame.
    """
    check_samples(lia, label)
    rate, g = frame_rate(fps), lia.generator
    count = frame_count(seconds, fps)
    turns = max(1, round(seconds / _TURN))

    def codes(part: range) -> Tensor:
        t = torch.tensor(part, dtype=torch.float64) / count
        z = closed_walk(g.z_dim, t, turns, torch.Generator().manual_seed(seed)).float().to(lia.device)
        c = None if label is None else one_class(label, g.c_dim, len(z), z)
        return truncated(lia, broadcast(g.mapping(z, c), g.num_ws, g.y_dim), psi, c)

    about = {"kind": "walk", "seconds": seconds, "seed": seed, "space": "z", "loop": True, **made_by(lia, psi)}
    return Film(lambda: _drawn(lia, codes, count), count, rate, about)


@torch.no_grad()
def film_of_footage(
    lia: LIA,
    source: str | Path,
    *,
    smooth: float = 2.0,
    resize_mode: str = "crop",
    label: Label | None = None,
    psi: float = 1.0,
    progress: Progress | None = None,
) -> Film:
    """A video as the generator sees it: each frame encoded, codes smoothed over time, drawn, and pasted back into its frame.

    Args:
        lia: With an encoder.
        source: The video, see `Footage`. It is read twice; its sound goes along into a file that has any.
        smooth: Standard deviation of the Gaussian window over the codes' z, in frames; of their y before conversion. 0 is none.
        resize_mode: How frames come to the size: crop, letterbox or stretch.
        label: The class of all frames of a conditional generator, or the numbers of their label; smoothing z needs it.
        psi: Truncation; 1 is none.
        progress: Is told the frames encoded.

    Raises:
        LIAError: No encoder, no video that can be read, or no label where one is needed.
    """
    if lia.encoder is None:
        raise LIAError("this file has no encoder. Run lia-adapt train-encoder on it first.")
    if not (math.isfinite(smooth) and smooth >= 0):
        raise ConfigError(f"{argument('smooth')} is {smooth}; expected 0, for none, or a number of frames.")
    g, video = lia.generator, Footage(source)
    check_given_label(label, g.c_dim)
    found = torch.cat(list(_encoded(lia, video, resize_mode, progress)))
    y, count = one_code(found), len(found)
    c = None if label is None else one_class(label, g.c_dim, count, torch.zeros(()))
    ys = broadcast(found, g.num_ws)
    space = "y" if why_no_z(lia, Sources((), ys, y, c)) else "z"
    if smooth:
        beside = smoothed(found - for_layers(y, found), smooth)
        moved = smoothed(y, smooth) if space == "y" else lia.to_y(smoothed(lia.to_z(y, c), smooth), c).cpu()
        ys = broadcast(for_layers(moved, found) + beside, g.num_ws)

    def frames() -> Iterator[Image.Image]:
        n, batch, done = lia.at_once("draw"), [], 0
        placement = None
        for i, frame in enumerate(video, 1):
            batch.append(frame)
            placement = placement or fit_image(frame, g.resolution, g.channels, resize_mode)[1]
            if len(batch) < n and i < count:
                continue
            drawn = _drawn_parts(lia, truncated(lia, ys[done : done + len(batch)], psi, None))
            for picture, x in zip(batch, itertools.chain.from_iterable(drawn), strict=True):
                yield paste_back(picture, x, placement)
            done, batch = done + len(batch), []

    about = {"kind": "footage", "sources": [str(source)], "smooth": smooth, "space": space, **made_by(lia, psi)}
    return Film(frames, count, video.fps, about, ((str(source), ()),), video if video.has_sound else None)


def write_film(film: Film, out: str | Path, progress: Progress | None = None) -> tuple[dict[str, Any], bytes]:
    """Writes a film, and figures (.json) beside it.

    Args:
        film: What is written.
        out: The file, see `check_animation`.
        progress: Is told the frames written.

    Returns:
        What the .json says; and some frames on a sheet, as PNG, for the page.

    Raises:
        LIAError: See `check_animation`; or what it is written to is one of the inputs.
    """
    path = check_animation(out, film.fps)
    target = figures_path(path)
    for ending in ("html", "json"):
        check_writable(report_paths(target)[ending])
    for data, names in film.inputs:
        check_inputs_kept([path, *(report_paths(target)[ending] for ending in ("html", "json"))], data, names)
    shown = {round(i * (film.count - 1) / max(1, _SHOWN - 1)) for i in range(_SHOWN)}
    sheet, size = Sheet(len(shown), len(shown)), (0, 0)

    def watched() -> Iterator[Image.Image]:
        nonlocal size
        for i, frame in enumerate(film.frames()):
            size = frame.size
            if i in shown:
                pixels = torch.from_numpy(np.array(frame.convert("RGB")))  # [H, W, 3]
                sheet.add(to_floats(pixels.permute(2, 0, 1)[None]))
            if progress:
                progress("frames", i, film.count)
            yield frame

    sound = film.sound if holds_sound(path) else None
    write_animation(path, watched(), film.fps, sound)
    if progress:
        progress("frames", film.count, film.count)
    figures = {
        **film.about, "file": path.name, "count": film.count, "fps": float(film.fps), "width": size[0], "height": size[1],
        "seconds": float(film.count / film.fps), "shown": sorted(shown),
        **({} if film.sound is None else {"sound": sound is not None}),
    }  # fmt: skip
    write_json(target, figures)
    return figures, png_bytes(sheet.image)


def figures_path(out: str | Path) -> Path:
    """The .json beside a film; its page is beside that."""
    return Path(out).with_suffix(".json")


@torch.no_grad()
def _drawn(lia: LIA, codes: Callable[[range], Tensor], count: int) -> Iterator[Image.Image]:
    for x in in_parts(lambda part: lia.synthesize(codes(part)).cpu(), range(count), lia.at_once("draw")):
        yield from map(image_grid, x.split(1))


@torch.no_grad()
def _drawn_parts(lia: LIA, ys: Tensor) -> Iterator[Tensor]:
    yield from in_parts(lambda part: lia.synthesize(part).cpu(), ys, len(ys))


@torch.no_grad()
def _encoded(lia: LIA, video: Footage, resize_mode: str, progress: Progress | None) -> Iterator[Tensor]:
    """Codes of the frames of a video, some at a time: y [n, y_dim], or ys [n, num_ws, y_dim] of an encoder into ys."""
    g, n, frames = lia.generator, lia.at_once("reconstruct"), iter(video)
    done, total = 0, video.count
    while batch := [fit_image(frame, g.resolution, g.channels, resize_mode)[0] for frame in itertools.islice(frames, n)]:
        yield from in_parts(lambda x: lia.encode(x).cpu(), torch.stack(batch), len(batch))
        done += len(batch)
        if progress:  # a file may say a wrong number
            progress("encode", done, total if total and done < total else None)
    if progress:
        progress("encode", done, done)


def frame_rate(fps: float) -> Fraction:
    """Frames a second as a fraction of small numbers, such as videos have.

    Raises:
        ConfigError: They are not 0.1 to 120.
    """
    if not 0.1 <= fps <= 120:
        raise ConfigError(f"{argument('fps')} is {fps:g}; expected 0.1 to 120 frames a second.")
    return Fraction(fps).limit_denominator(1001)


def frame_count(seconds: float, fps: float) -> int:
    """How many frames a walk of so many seconds has.

    Raises:
        ConfigError: Not one.
    """
    if not (math.isfinite(seconds) and seconds * fps >= 1):
        raise ConfigError(f"{argument('seconds')} is {seconds:g}, which is not one frame at {fps:g} a second; give more.")
    return round(seconds * fps)


def made_by(lia: LIA, psi: float) -> dict[str, Any]:
    """What the figures of each film say of its generator."""
    return {"lia": lia.provenance.get("source"), "generator_sha256": fingerprint(lia.generator), "psi": psi}
