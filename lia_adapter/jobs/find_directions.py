"""`directions find`: directions of a generator's codes by any method, measured, with a page of pictures."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lia_adapter.budget import affordable, in_parts, seconds_of
from lia_adapter.config import load_recipe, stored
from lia_adapter.direction_keys import FindConfig
from lia_adapter.editing import Direction, Directions, Edit, Metric, Task, edited, moved
from lia_adapter.editing.edits import layer_count
from lia_adapter.editing.measures import STRENGTHS, identity_kept, leakage, measure_effects, moved_pictures
from lia_adapter.editing.methods import METHODS
from lia_adapter.encoder import one_code
from lia_adapter.errors import ConfigError, LIAError
from lia_adapter.generators import (
    Generator,
    MappingSampler,
    at_rest,
    broadcast,
    draw_reduced,
    fingerprint,
    shifted_styles,
    styles_of,
)
from lia_adapter.jobs.direction_examples import gather_examples
from lia_adapter.jobs.run import checked_out, write_results
from lia_adapter.lia import LIA
from lia_adapter.loop import step_generator
from lia_adapter.metrics.features import Features
from lia_adapter.metrics.identity import load_identity
from lia_adapter.metrics.scorers import Scorer, load_scorer
from lia_adapter.pictures import Sheet, png_bytes
from lia_adapter.progress import Progress
from lia_adapter.tensorfile import DIRECTIONS

__all__ = ["SHOWN", "find_directions", "measure_directions"]

SHOWN = 16
"""Directions in the picture and in the tables, at most."""
_BASES = 3  # codes in the picture, of each direction
_LEAST, _MOST, _SECONDS = 4, 200, 60.0  # codes that are measured, and about how long that may take
_NUMBER = 2**32  # of the random stream of codes that are measured
_Reader = Callable[[Tensor, Tensor | None], Tensor]
_REACHING = 64  # codes that are moved until they are improbable
_USUAL = 0.01  # p below which a code is improbable


def find_directions(
    lia: LIA | Generator,
    method: str = "pca",
    *,
    data: str | Path | None = None,
    than: str | Path | None = None,
    labels: str | Path | None = None,
    scorer: str | Path | Scorer | None = None,
    identity: str | Path | None = None,
    split: str = "all",
    recipe: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Directions:
    """Finds directions of codes that change pictures in one way, and measures what they do.

    Args:
        lia: Of any kind; methods that learn from photographs need an encoder, and directions of z an invertible mapping.
        method: One of `lia_adapter.direction_keys.FIND_METHODS`.
        data: Photographs: of boundary and regress with their attributes (see `read_attributes`); of difference the group that
            has what is wanted.
        than: difference: the photographs that lack it.
        labels: boundary, regress: a CSV of attributes of the images in `data`.
        scorer: What gives pictures attributes (see `load_scorer`): of boundary and regress without data it scores drawn
            pictures; of all methods it measures what directions do.
        identity: A network that tells whether pictures still show the same one (see `load_identity`).
        split: Which images of `data`.
        recipe: A .toml; None: `directions-METHOD`.
        overrides: Keys of the recipe and their values.
        out: File for the directions, .safetensors, and beside it a picture and figures; a search that trains and was stopped
            goes on where it was. None: nothing is written.
        progress: Is told what is done.

    Returns:
        Directions, each with what was measured of it in `about`.

    Raises:
        LIAError: The method lacks something, or a file cannot be read or written.
    """
    if method not in METHODS:
        raise ConfigError(f"there is no method {method!r}; expected one of {', '.join(METHODS)}.")
    config = load_recipe(FindConfig, recipe or f"directions-{method}", {**(overrides or {}), "method": method})
    lia = lia if isinstance(lia, LIA) else LIA(lia)
    target = None if out is None else checked_out(out, "", kind=DIRECTIONS)
    judge = load_scorer(scorer) if isinstance(scorer, (str, Path)) else scorer
    look = None if identity is None else load_identity(identity).to(lia.device)
    if config.space == "z" and lia.mapping is None:
        raise LIAError("directions of z need an invertible mapping. Run lia-adapt convert on this file first.")
    count = layer_count(lia.generator, config.space)
    if config.layers is not None and (wrong := max(config.layers)) >= count:  # before hours of work
        raise ConfigError(f"layers has {wrong}; this generator's are 0 to {count - 1}.")
    owner = fingerprint(lia.generator)
    with at_rest([lia.generator]):
        examples = gather_examples(lia, config, data, than, labels, judge, split, progress)
        state = None if target is None else target.with_name(f".{target.name}.find")
        task = Task(lia.generator, config, examples, state, _identity(owner, config), progress)
        found = METHODS[method](task)
        measured, figures = measure_directions(lia, found, task.metric, judge, progress, look=look)
        about = {"source": lia.provenance.get("source"), "recipe": stored(config), "data": None if data is None else str(data)}
        directions = Directions(owner, tuple(measured), about)
        picture = None if target is None else _picture(lia, measured[:SHOWN], progress)
    if target is not None and picture is not None:
        directions.save(target)
        write_results(target, picture, {"about": about, "directions": [_told(one) for one in directions], **figures})
        if state is not None:
            state.unlink(missing_ok=True)
    return directions


def measure_directions(
    lia: LIA,
    found: Sequence[Direction],
    space: Metric,
    judge: Scorer | None,
    progress: Progress | None = None,
    seconds: float = _SECONDS,
    look: Features | None = None,
) -> tuple[list[Direction], dict[str, Any]]:
    """What directions do to drawn pictures.

    Attributes of pictures are what the scorer says; without one, what the directions' own readers say of the codes that the
    encoder gives the pictures; without readers or encoder nothing is known but how much changes. With a network to look with,
    whether pictures show the same one after edits of equal effect.

    Returns:
        The directions, with their own measures in `about`, and tables: agreement, and leakage where there are attributes.
    """
    read, names, own = _reader(lia, found, judge)
    shown = list(found[:SHOWN])
    ys, c = _bases(lia, _MOST)
    # A scorer takes pictures of any size, the encoder those of the generator's own.
    draw = lia.synthesize if read is not None and judge is None else partial(draw_reduced, lia.generator)
    each = seconds_of(lambda: draw(ys[:1]) if read is None else read(draw(ys[:1]), _of(c, range(1))))
    seen = 0.0 if look is None or read is None else seconds_of(lambda: look(draw(ys[:1])))
    n = affordable(seconds, (each * len(STRENGTHS) + 3 * seen) * max(len(shown), 1), least=_LEAST, most=_MOST)
    values, reaches, changes = [], [], []
    for i, direction in enumerate(shown):
        if progress:
            progress("measure directions", i, len(shown))
        few = range(min(_LEAST, len(ys)))
        sides = [_drawn(lia, ys[few.start : few.stop], _of(c, few), direction, side) for side in (-1.0, 1.0)]
        changes.append(float((sides[1] - sides[0]).square().mean().sqrt() / 2))
        reaches.append(_reach(lia, ys[:_REACHING], None if c is None else c[:_REACHING], direction))
        if read is not None:
            judged = partial(_looked_at, lia, direction, draw, read, ys, c)
            values.append(torch.cat(list(in_parts(judged, range(n), lia.at_once("draw" if judge else "reconstruct")))))
    figures: dict[str, Any] = {
        "codes": n,
        "shown": len(shown),
        "agreement": _agreement(shown, space),
        "attributes": list(names),
        "identity": _identity_by(look, bool(values)),
    }
    told: list[dict[str, Any]] = [{"change": change, "reach": reach} for change, reach in zip(changes, reaches, strict=True)]
    if values:
        effects = measure_effects(torch.stack(values))
        figures["effects"], figures["errors"] = effects.slopes.tolist(), effects.errors.tolist()
        leaks = leakage(effects, own[: len(shown)])
        figures["leakage"] = leaks.tolist()
        for i, more in enumerate(told):
            mine = int(effects.slopes[i].abs().argmax()) if own[i] is None else int(own[i] or 0)
            others = [float(leaks[i, k]) for k in range(leaks.shape[1]) if k != mine]
            more |= {
                "attribute": names[mine], "effect": float(effects.slopes[i, mine]),
                "monotone": float(effects.monotone[i, mine]), "leakage": sum(others) / len(others) if others else None,
                "most_leakage": max(others, default=None),
            }  # fmt: skip
            if look is not None:
                more["identity"] = _identity_kept(lia, shown[i], draw, look, ys[:n], c, more["effect"])
    if progress:
        progress("measure directions", len(shown), len(shown))
    measured = [replace(one, about={**one.about, **more}) for one, more in zip(shown, told, strict=True)]
    return [*measured, *found[len(shown) :]], figures


def _of(c: Tensor | None, part: range) -> Tensor | None:
    """The labels of some codes."""
    return None if c is None else c[part.start : part.stop]


def _moved(
    lia: LIA, draw: Callable[[Tensor], Tensor], direction: Direction, c: Tensor | None, ys: Tensor, strength: float
) -> Tensor:
    """Pictures of codes that were moved, or of their moved styles."""
    codes, shift = moved(lia.generator, ys, [Edit(direction, strength)], mapping=lia.mapping, c=c)
    with shifted_styles(lia.generator, shift):
        return draw(codes)


@torch.no_grad()
def _looked_at(
    lia: LIA, direction: Direction, draw: Callable[[Tensor], Tensor], read: _Reader, ys: Tensor, c: Tensor | None, part: range
) -> Tensor:
    """Attributes [n, len(STRENGTHS), F] of the pictures of some codes, moved along a direction."""
    labels = _of(c, part)
    return moved_pictures(partial(_moved, lia, draw, direction, labels), lambda x: read(x, labels), ys[part.start : part.stop])


@torch.no_grad()
def _identity_kept(
    lia: LIA,
    direction: Direction,
    draw: Callable[[Tensor], Tensor],
    look: Features,
    ys: Tensor,
    c: Tensor | None,
    effect: float,
) -> float | None:
    """Mean over codes of `identity_kept`."""

    def part(some: range) -> Tensor | None:
        there = partial(_moved, lia, draw, direction, _of(c, some))
        return identity_kept(there, look, ys[some.start : some.stop], effect)

    found = [one for one in in_parts(part, range(len(ys)), lia.at_once("draw")) if one is not None]
    return float(torch.cat(found).mean()) if found else None


def _identity_by(look: Features | None, known: bool) -> dict[str, str]:
    """By which network it is told whether pictures show the same one, or why it is not."""
    if look is None:
        return {"left_out": "no network was given that tells who, or what, a picture shows"}
    if not known:
        return {"left_out": "nothing tells attributes of pictures, by which edits of equal effect are known; a scorer does"}
    return {"network": look.name}


def _reader(
    lia: LIA, found: Sequence[Direction], judge: Scorer | None
) -> tuple[_Reader | None, tuple[str, ...], list[int | None]]:
    """What reads attributes of pictures [n, C, H, W] with labels -> [n, F], their names, which is each direction's own."""
    if judge is not None:
        judge(draw_reduced(lia.generator, _bases(lia, 1)[0]))
        names = judge.names
        return lambda x, _: judge(x), names, [names.index(one.name) if one.name in names else None for one in found]
    readers = [one for one in found if one.reader is not None]
    if lia.encoder is None or not readers:
        return None, (), [None] * len(found)
    names = tuple(one.name for one in readers)
    weights = torch.stack([one.reader.double() for one in readers if one.reader is not None]).to(lia.device)
    biases = torch.tensor([one.bias for one in readers], dtype=torch.float64, device=lia.device)

    def read(x: Tensor, c: Tensor | None) -> Tensor:
        codes = one_code(lia.encode(x.clamp(-1, 1)))
        if readers[0].space == "z":
            codes = lia.to_z(codes, c)
        elif readers[0].space == "s":
            codes = styles_of(lia.generator, broadcast(codes, lia.generator.num_ws))
        return codes.double() @ weights.t() + biases

    return read, names, [names.index(one.name) if one.name in names else None for one in found]


@torch.no_grad()
def _bases(lia: LIA, n: int) -> tuple[Tensor, Tensor | None]:
    random = step_generator(0, _NUMBER, lia.device)
    _, y, c = MappingSampler(lia.generator).pairs(n, random)
    return broadcast(y, lia.generator.num_ws, lia.generator.y_dim), c


@torch.no_grad()
def _drawn(lia: LIA, ys: Tensor, c: Tensor | None, direction: Direction, strength: float) -> Tensor:
    def draw(codes: Tensor) -> Tensor:
        return torch.cat(list(in_parts(partial(draw_reduced, lia.generator), codes, lia.at_once("draw"))))

    return _moved(lia, draw, direction, c, ys, strength)


def _reach(lia: LIA, ys: Tensor, c: Tensor | None, direction: Direction) -> float | None:
    """The largest strength either way at which half of the codes are still probable; None before conversion, and of s."""
    if lia.mapping is None or direction.space == "s":
        return None
    far = 0.0
    for strength in (1.0, 2.0, 3.0, 4.0, 6.0, 8.0):
        sides = [one_code(edited(ys, [Edit(direction, sign * strength)], mapping=lia.mapping, c=c)) for sign in (-1, 1)]
        if min(float(lia.prior_p(side, c).median()) for side in sides) < _USUAL:
            break
        far = strength
    return far


def _agreement(found: Sequence[Direction], space: Metric) -> list[list[float]]:
    """|cos| between directions of one code, in white coordinates."""
    steps = torch.stack([one.step.double().to(space.mean.device) for one in found if one.step.ndim == 1])
    return space.alike(steps, steps).abs().tolist()


def _picture(lia: LIA, found: Sequence[Direction], progress: Progress | None) -> bytes:
    """Rows of the same codes moved along each direction, from the least strength to the largest."""
    ys, c = _bases(lia, _BASES)
    sheet = Sheet(len(found) * _BASES * len(STRENGTHS), len(STRENGTHS))
    for i, direction in enumerate(found):
        for k in range(_BASES):
            one, label = ys[k : k + 1], None if c is None else c[k : k + 1]
            for strength in STRENGTHS:
                sheet.add(_drawn(lia, one, label, direction, strength))
        if progress:
            progress("pictures", i + 1, len(found))
    return png_bytes(sheet.image)


def _told(direction: Direction) -> dict[str, Any]:
    layers = None if direction.layers is None else list(direction.layers)
    return {"name": direction.name, "space": direction.space, "layers": layers, **direction.about}


def _identity(owner: str, config: FindConfig) -> str:
    return hashlib.sha256(json.dumps([owner, stored(config)], sort_keys=True).encode()).hexdigest()
