"""The pictures in which `evaluate` shows what its figures say."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lia_adapter.data import Batch, in_batches, open_images
from lia_adapter.editing import between, vary
from lia_adapter.encoder import for_layers, one_code
from lia_adapter.errors import LIAError
from lia_adapter.jobs.run import write_results
from lia_adapter.lia import LIA
from lia_adapter.pictures import COLUMNS, paired_grid, png_bytes
from lia_adapter.progress import Progress
from lia_adapter.resize import resize

__all__ = ["VARIATION", "Examples", "Pair", "write_evaluation"]

VARIATION = 0.4
"""How far variations are from a code: the share of z's standard deviation that is new."""
_SHOWN = 8  # images of a kind
_VARIED = 3  # images that are varied, and paths between two

Pair = tuple[Tensor, Tensor]
"""Images and their reconstructions, each [n, C, H, W]."""


@dataclass(frozen=True)
class Examples:
    """Images of at most 256 pixels a side.

    Attributes:
        pairs: Reconstructions by title: Typical, Best and Worst, by perceptual distance where there is one, else by squared
            error; Likeliest and Least likely, by the prior.
        variations: Rows of eight: a reconstruction, and what is drawn of codes near its own (`vary`) [n, C, H, W].
        paths: Rows of eight: from one reconstruction to another, through the prior (`between`) [n, C, H, W].
    """

    pairs: dict[str, Pair]
    variations: Tensor
    paths: Tensor


@torch.no_grad()
def write_evaluation(lia: LIA, figures: Mapping[str, Any], out: Path, progress: Progress | None = None) -> Examples:
    """Writes figures, and beside them a picture of typical, best and worst reconstructions, and of the most and least likely.

    Args:
        lia: That was measured.
        figures: What `evaluate` returned.
        out: The .json.
        progress: Is told what is drawn.

    Returns:
        What the report shows.

    Raises:
        LIAError: An image cannot be read again, or a file cannot be written.
    """
    shown = _Shown(lia, figures, progress)
    measure = "perceptual" if "perceptual" in figures["of_each"] else "mse"
    order, likely = (torch.tensor(figures["of_each"][name]).argsort(stable=True).tolist() for name in (measure, "prior_p"))
    n = min(_SHOWN, len(order))
    middle = (len(order) - n) // 2
    typical = order[middle : middle + n]
    chosen = {
        "Typical": typical, "Best": order[:n], "Worst": order[-n:][::-1], "Likeliest": likely[-n:][::-1],
        "Least likely": likely[:n],
    }  # fmt: skip
    examples = Examples(
        {title: shown.pair(places) for title, places in chosen.items()},
        torch.cat([shown.variations(place) for place in typical[:_VARIED]]),
        torch.cat([shown.path(a, b) for a, b in zip(typical[:_VARIED], typical[1 : 1 + _VARIED], strict=False)]),
    )
    sides = (torch.cat(side) for side in zip(*examples.pairs.values(), strict=True))
    write_results(out, png_bytes(paired_grid(*sides)), figures)
    return examples


class _Shown:
    """Draws images of an evaluated set, by their places in the figures; one by one, as they are few, and maybe large."""

    def __init__(self, lia: LIA, figures: Mapping[str, Any], progress: Progress | None) -> None:
        self.lia, self.figures, self.progress, self.done = lia, figures, progress, 0
        g, about = lia.generator, figures["images"]
        self.images = open_images(
            about["data"], g.resolution, g.channels, resize_mode=about["fit"], split=about["split"], c_dim=g.c_dim,
            label=about.get("label"), bits=about.get("bits"), align=about.get("align"), landmarks=about.get("landmarks"),
        )  # fmt: skip
        self.number = {name: i for i, name in enumerate(self.images.names)}

    def pair(self, places: Sequence[int]) -> Pair:
        """Images and their reconstructions."""
        batches = list(self._batches(places))
        drawn = [self._draw(self.lia.encode(batch.x)) for batch in batches]
        return torch.cat([resize(batch.x.cpu()) for batch in batches]), torch.cat(drawn)

    def variations(self, place: int) -> Tensor:
        """A reconstruction, and its variations, always the same."""
        (batch,) = self._batches([place])
        code, z = self._code(batch)
        random = torch.Generator(z.device).manual_seed(place)
        many = torch.cat([z, *(vary(z, VARIATION, random) for _ in range(COLUMNS - 1))])
        return self._along(code, many, batch.c)

    def path(self, a: int, b: int) -> Tensor:
        """From one reconstruction to another: what layers of ys differ by goes over, too; a class is the first one's."""
        first, last = self._batches([a, b])
        (code, z), (end, z_end) = self._code(first), self._code(last)
        t = torch.linspace(0, 1, COLUMNS).to(code).reshape(-1, *[1] * (code.ndim - 1))
        flat = [x - for_layers(one_code(x), x) for x in (code, end)]
        y = self.lia.to_y(between(z[0], z_end[0], COLUMNS), None if first.c is None else first.c.expand(COLUMNS, -1))
        codes = flat[0] * (1 - t) + flat[1] * t + for_layers(y, code)
        return torch.cat([self._draw(one) for one in codes.split(1)])

    def _along(self, code: Tensor, z: Tensor, c: Tensor | None) -> Tensor:
        y = self.lia.to_y(z, None if c is None else c.expand(len(z), -1))
        moved = y - y[:1]  # the first is the code's own
        return torch.cat([self._draw(one) for one in (code + for_layers(moved, code)).split(1)])

    def _code(self, batch: Batch) -> tuple[Tensor, Tensor]:
        code = self.lia.encode(batch.x)
        return code, self.lia.to_z(one_code(code), batch.c)

    def _draw(self, code: Tensor) -> Tensor:
        self.done += 1
        if self.progress:
            self.progress("examples", self.done, None)
        return resize(self.lia.synthesize(code).cpu())

    def _batches(self, places: Sequence[int]) -> Iterator[Batch]:
        """Each image by itself."""
        for place in places:
            name = self.figures["of_each"]["name"][place]
            found = list(in_batches(self.images, [self.number[name]], 1, self.lia.device))
            if not found:
                why = self.images.unreadable[name]
                raise LIAError(f"cannot read {name!r} of {self.images.path} any more: {why}. Run lia-adapt evaluate again.")
            yield found[0]
