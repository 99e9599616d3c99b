"""A film of what directions do: each source moved along one after another, there and back."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lia_adapter.budget import in_parts
from lia_adapter.editing import Directions, Edit, moved, planned
from lia_adapter.editing.edits import check_layers
from lia_adapter.errors import ConfigError, argument
from lia_adapter.generators.labels import Label
from lia_adapter.jobs.sources import join_sources, open_sources
from lia_adapter.jobs.video import Film, frame_count, frame_rate, made_by
from lia_adapter.lia import LIA
from lia_adapter.pictures import image_grid
from lia_adapter.progress import Progress

__all__ = ["film_of_directions"]


def film_of_directions(
    lia: LIA,
    sources: Sequence[str | Path],
    directions: Directions,
    move: Mapping[str, float],
    *,
    keep: Sequence[str] = (),
    layers: Sequence[int] | None = None,
    seconds: float = 4.0,
    fps: float = 30.0,
    resize_mode: str = "crop",
    split: str = "all",
    label: Label | None = None,
    trust_codes: bool = False,
    psi: float = 1.0,
    progress: Progress | None = None,
) -> Film:
    """Each source moved along each direction: to the strength, back, as far the other way, and back (a sine of time).

    Args:
        lia: With an encoder, if a source are images.
        sources: One or more; see `open_sources`.
        directions: Of this generator; see `lia_adapter.jobs.edit.open_directions`.
        move: How far along which, in standard deviations, in this order.
        keep: Names of directions whose attributes are to stay.
        layers: Which ys move, of directions of s which style layers; None: as each direction says.
        seconds: For one source and one direction.
        fps: Frames a second.
        resize_mode: See `open_sources`.
        split: See `open_sources`.
        label: See `open_sources`.
        trust_codes: See `open_sources`.
        psi: Truncation of what is moved; 1 is none.
        progress: Is told the images encoded.

    Raises:
        LIAError: See `open_sources` and `planned`; no direction, or no frame.
    """
    rate, count = frame_rate(fps), frame_count(seconds, fps)
    if not move:
        raise ConfigError(f"give a direction to move along by {argument('move')}, as in smile=3.")
    if layers is not None:
        check_layers(lia.generator, [directions[name] for name in move], layers)
    edits = planned(directions, move, keep, lia.code_space)
    reading: dict[str, Any] = {"resize_mode": resize_mode, "split": split, "label": label, "trust_codes": trust_codes}
    parts = [open_sources(lia, source, **reading, psi=psi, progress=progress) for source in sources]
    found = join_sources(parts)

    @torch.no_grad()
    def drawn(i: int, edit: Edit, part: range) -> Tensor:
        t = torch.tensor(part, dtype=torch.float64) / count
        c = None if found.c is None else found.c[i].expand(len(part), -1).to(lia.device)
        along = Edit(edit.direction, edit.amount * torch.sin(2 * math.pi * t).to(lia.device))
        ys = found.ys[i].to(lia.device).expand(len(part), -1, -1)
        codes, shift = moved(lia.generator, ys, [along], mapping=lia.mapping, c=c, layers=layers)
        return lia.synthesize(codes, styles=shift).cpu()

    def frames() -> Iterator[Image.Image]:
        for i in range(len(found)):
            for edit in edits:
                for x in in_parts(partial(drawn, i, edit), range(count), lia.at_once("draw")):
                    yield from map(image_grid, x.split(1))

    about = {
        "kind": "directions", "sources": [str(source) for source in sources], "names": found.names, "move": dict(move),
        "keep": list(keep), "layers": None if layers is None else list(layers), "unreadable": dict(found.unreadable),
        **made_by(lia, psi),
    }  # fmt: skip
    inputs = tuple((str(source), part.names) for source, part in zip(sources, parts, strict=True))
    return Film(frames, len(found) * len(edits) * count, rate, about, inputs)
