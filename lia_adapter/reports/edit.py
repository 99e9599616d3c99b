"""The report of `edit`: a contact sheet with names and strengths."""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lia_adapter.jobs.reconstruct import GRID
from lia_adapter.pictures import COLUMNS
from lia_adapter.reports.page import page_picture, unreadable_list, write_page

__all__ = ["write_edit_report"]

_ROWS = {2: "what the generator draws of the code, and the edit below it", 3: "the picture, its reconstruction, and the edit"}


def write_edit_report(figures: Mapping[str, Any], folder: Path) -> Path:
    """Writes grid.html into the folder of `edit`.

    Args:
        figures: What `edit_images` returned.
        folder: Where it wrote, with grid.png.

    Returns:
        The page.

    Raises:
        LIAError: A file cannot be written.
    """
    options, shown = figures["run"]["options"], figures["shown"]
    moves = [f"{html.escape(name)} by {strength:g}" for name, strength in options["move"].items()]
    moves += [f"{html.escape(name)} to {value:g}" for name, value in options["to"].items()]
    kept = f", keeping {html.escape(', '.join(options['keep']))}" if options["keep"] else ""
    layers = "" if options["layers"] is None else f", in layers {', '.join(map(str, options['layers']))}"
    names = list(figures["images"])
    rows = "".join(
        f"<tr><td>{html.escape(name)}<td>{', '.join(f'{html.escape(k)} {v:+.2f}' for k, v in one['strengths'].items())}"
        f'<td class="n">{_p(one["prior_p"][0])}<td class="n">{_p(one["prior_p"][1])}</tr>'
        for name, one in list(figures["images"].items())[: shown["count"]]
    )
    body = f"""<h1>Edits</h1>
<p>{figures["count"]:,} images of {html.escape(figures["source"])}, drawn by
{html.escape(str(figures["lia"] or "a wrapped generator"))}: {"; ".join(moves)} (standard deviations of the
prior){kept}{layers}. {html.escape(figures["originals"] or "")}</p>
{_warned(figures)}
<p>The first {shown["count"]}, {COLUMNS} in a row; below each other {_ROWS[shown["rows"]]}.</p>
{page_picture(folder / GRID, "pictures, reconstructions and edits")}
<h2>Names and strengths</h2>
<p>p: how likely the code is among the generator's own, before and after the edit; below 0.01 it is one that the generator's
mapping hardly makes.</p>
<table><tr><th>image<th>strengths<th>p before<th>p after</tr>{rows}</table>
{"<p>…</p>" if len(names) > shown["count"] else ""}
{unreadable_list(figures["unreadable"])}"""
    return write_page(folder / GRID, "Edits", body)


def _warned(figures: Mapping[str, Any]) -> str:
    found = []
    if improbable := figures["improbable"]:
        found.append(f"{len(improbable):,} of the codes became improbable by the edit: it goes beyond what the prior has.")
    if unreached := figures["unreached"]:
        found.append(f"{len(unreached):,} do not reach the wanted value within 8 standard deviations: the nearest is drawn.")
    return "".join(f'<p class="bad">{line}</p>' for line in found)


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
