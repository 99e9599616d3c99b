"""`mix`: pictures that have the coarse layers of one source and the fine ones of another (Karras 2019, sec. 3.1)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lia_adapter.budget import in_parts
from lia_adapter.errors import ConfigError, LIAError, argument
from lia_adapter.files import check_writable, make_folder
from lia_adapter.generators import Generator, StyleGAN1, StyleGAN2, fingerprint
from lia_adapter.generators.labels import Label
from lia_adapter.jobs.reconstruct import picture_stems
from lia_adapter.jobs.run import check_inputs_kept, made_before, report_paths, write_json, write_results
from lia_adapter.jobs.sources import Sources, open_sources
from lia_adapter.lia import LIA
from lia_adapter.pictures import Sheet, image_grid, png_bytes, save_png
from lia_adapter.progress import Progress
from lia_adapter.resize import resize

__all__ = ["GROUPS", "MIX", "MOST", "chosen_layers", "layer_groups", "mix_styles", "mixed"]

GROUPS = ("coarse", "middle", "fine")
"""Ranges of layers, as StyleGAN's figure of style mixing has them."""
MIX = "mix.json"
"""Figures in the folder, with .png and .html beside them."""
MOST = 16
"""Pictures of each source, at most."""

_STYLEGAN = (4, 8)  # the first layer of middle (16²) and of fine (64²): two a resolution, from 4² on
_GAP = 8  # pixels between grids


def layer_groups(generator: Generator) -> dict[str, list[int]]:
    """Which layers are coarse, middle and fine.

    StyleGAN's own ranges where they apply: coarse 4² to 8², middle 16² to 32², fine 64² and up (Karras 2019, fig. 3), which are
    layers 0-3, 4-7 and 8 on. Of a generator with fewer layers, of StyleGAN3, all of whose layers are of nearly one kind, and of
    a wrapped one, thirds.

    Returns:
        By name, layers of ys; names without any are left out.
    """
    n = generator.num_ws
    known = isinstance(generator, (StyleGAN1, StyleGAN2)) and n > _STYLEGAN[1]
    ends = (0, *_STYLEGAN, n) if known else (0, round(n / 3), round(2 * n / 3), n)
    found = {name: list(range(a, b)) for name, a, b in zip(GROUPS, ends[:-1], ends[1:], strict=True)}
    return {name: layers for name, layers in found.items() if layers}


def mixed(first: Tensor, second: Tensor, layers: Sequence[int]) -> Tensor:
    """ys [N, num_ws, y_dim] of the first, but in some layers those of the second."""
    ys = first.clone()
    ys[:, list(layers)] = second[:, list(layers)]
    return ys


@torch.no_grad()
def mix_styles(
    lia: LIA,
    first: str | Path,
    second: str | Path,
    out: str | Path,
    *,
    groups: Sequence[str] = GROUPS,
    layers: Sequence[int] | None = None,
    resize_mode: str = "crop",
    split: str = "all",
    label: Label | None = None,
    trust_codes: bool = False,
    psi: float = 1.0,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Draws each of a first set with some layers of each of a second.

    Args:
        lia: With an encoder, if a source are images.
        first: The rows; at most 16 pictures, codes or seeds, see `open_sources`.
        second: The columns, likewise.
        out: Folder, made where there is none. It gets a PNG of each mixture, and mix.png and mix.json. What an earlier call
            wrote there is replaced; other pictures are not.
        groups: For a grid each: which layers are the second's, of `layer_groups`.
        layers: For one grid, layers of the second by number, instead.
        resize_mode: See `open_sources`.
        split: See `open_sources`.
        label: See `open_sources`.
        trust_codes: See `open_sources`.
        psi: Truncation; 1 is none.
        progress: Is told the pictures drawn and to draw.

    Returns:
        What mix.json says: names, layers and files of each grid; and each grid as PNG.

    Raises:
        LIAError: See `open_sources`; unknown layers, a generator with one layer, or a file that cannot be written.
    """
    chosen, folder = chosen_layers(lia.generator, groups, layers), Path(out)
    reading: dict[str, Any] = {
        "resize_mode": resize_mode, "split": split, "label": label, "trust_codes": trust_codes, "psi": psi, "most": MOST,
        "progress": progress,
    }  # fmt: skip
    rows, columns = (open_sources(lia, source, **reading) for source in (first, second))
    files = _files(rows, columns, list(chosen))
    targets = [folder / name for names in files.values() for name in names]
    figures = {
        "first": str(first), "second": str(second), "lia": lia.provenance.get("source"),
        "generator_sha256": fingerprint(lia.generator), "psi": psi, "rows": rows.names, "columns": columns.names,
        "layers": chosen, "num_ws": lia.generator.num_ws, "files": files,
        "unreadable": dict(rows.unreadable + columns.unreadable),
    }  # fmt: skip
    make_folder(folder)
    for source, found in ((first, rows), (second, columns)):
        check_inputs_kept([*targets, *report_paths(folder / MIX).values()], source, found.names)
    figures["earlier"] = made_before(folder / MIX, targets)
    for path in report_paths(folder / MIX).values():
        check_writable(path)
    write_json(folder / MIX, figures)  # before the pictures, so that the same call may go over what an interrupted one left
    sheets = _Grids(lia, rows, columns, len(chosen), progress)
    grids = {name: sheets.drawn(at, [folder / file for file in files[name]]) for name, at in chosen.items()}
    write_results(folder / MIX, png_bytes(_below_each_other(list(grids.values()))), figures)
    return figures, {name: png_bytes(image) for name, image in grids.items()}


class _Grids:
    """Draws the grids, the sources' own pictures once."""

    def __init__(self, lia: LIA, rows: Sources, columns: Sources, count: int, progress: Progress | None) -> None:
        self.lia, self.rows, self.columns, self.progress = lia, rows, columns, progress
        self.done, self.total = 0, len(rows) + len(columns) + count * len(rows) * len(columns)
        # Small ones: those of 1024² would fill the memory.
        self.heads = [torch.cat([resize(x) for x in self._drawn(found.ys)]) for found in (columns, rows)]

    def drawn(self, layers: Sequence[int], files: Sequence[Path]) -> Image.Image:
        """One grid; each mixture goes to its file."""
        columns, rows = self.heads
        sheet, left = Sheet((1 + len(self.rows)) * (1 + len(self.columns)), 1 + len(self.columns)), iter(files)
        sheet.add(torch.cat([torch.ones_like(columns[:1]), columns]))  # a white corner
        for i, row in enumerate(rows.split(1)):
            sheet.add(row)
            for x in self._drawn(mixed(self.rows.ys[i].expand_as(self.columns.ys), self.columns.ys, layers)):
                save_png(next(left), image_grid(x))
                sheet.add(x)
        return sheet.image

    def _drawn(self, ys: Tensor) -> Iterator[Tensor]:
        """The images of codes, one by one [1, C, H, W]."""
        for x in in_parts(lambda part: self.lia.synthesize(part).cpu(), ys, self.lia.at_once("draw")):
            self.done += len(x)
            if self.progress:
                self.progress("pictures", self.done, self.total)
            yield from x.split(1)


def chosen_layers(generator: Generator, groups: Sequence[str], layers: Sequence[int] | None) -> dict[str, list[int]]:
    """The layers of each grid, by its name; see `mix_styles`."""
    n, known = generator.num_ws, layer_groups(generator)
    if n == 1:
        raise LIAError("this generator has one layer that takes a y, so that there is nothing to mix; expected two or more.")
    if layers is not None:
        if wrong := [layer for layer in layers if not 0 <= layer < n]:
            raise ConfigError(f"{argument('layers')} names layer {wrong[0]}; this generator has 0 to {n - 1}.")
        return {"layers": sorted(set(layers))}
    if wrong_names := [name for name in groups if name not in known]:
        raise ConfigError(
            f"this generator, of {n} layers, has none that are {wrong_names[0]}; expected {' or '.join(known)}, or numbers by "
            f"{argument('layers')}."
        )
    return {name: known[name] for name in groups}


def _files(rows: Sources, columns: Sources, grids: Sequence[str]) -> dict[str, list[str]]:
    """The file of each mixture, row by row, by grid: a+b.coarse.png of a.jpg and b.jpg."""
    firsts, seconds = ([stem.replace("/", "_") for stem in picture_stems(found.names)] for found in (rows, columns))
    names = [f"{a}+{b}.{grid}.png" for grid in grids for a in firsts for b in seconds]
    stems, n = picture_stems(names), len(rows) * len(columns)
    return {grid: [f"{stem}.png" for stem in stems[i * n : (i + 1) * n]] for i, grid in enumerate(grids)}


def _below_each_other(images: Sequence[Image.Image]) -> Image.Image:
    height = sum(image.height for image in images) + _GAP * (len(images) - 1)
    whole, top = Image.new(images[0].mode, (images[0].width, height), "white"), 0
    for image in images:
        whole.paste(image, (0, top))
        top += image.height + _GAP
    return whole
