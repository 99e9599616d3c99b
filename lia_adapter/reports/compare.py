"""The report of `compare`."""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from lia_adapter.jobs.compare_statistics import MEASURES
from lia_adapter.jobs.compare_tables import number, shown_measures
from lia_adapter.jobs.run import report_paths
from lia_adapter.pictures import png_bytes
from lia_adapter.reports.page import html_picture, write_page

__all__ = ["write_compare_report"]

_LISTED = 100  # images left out that are named


def write_compare_report(figures: Mapping[str, Any], out: Path) -> Path:
    """Writes the page of `compare` beside `out`.

    Args:
        figures: What `compare` returned.
        out: The .json, beside which it wrote the picture.

    Returns:
        The page.

    Raises:
        LIAError: The file cannot be written.
    """
    images, first = figures["images"], html.escape(figures["reference"])
    others = len(figures["methods"]) > 1
    said = "".join(f"<li>{html.escape(verdict)}</li>" for verdict in figures["verdicts"])
    versions = ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    apart = f"""<h2>Differences to {first}</h2>
<p>Over the same images, with their 95 % intervals; in bold where the interval does not hold 0. Of twenty differences that are
none, one is bold by chance.</p>
{_table(figures, "differences")}
<h2>What they show</h2>
<ul>{said}</ul>"""
    page = f"""<h1>{len(figures["methods"])} methods on {images["count"]:,} images</h1>
<p>Images of {html.escape(images["data"])} (split: {html.escape(images["split"])}), brought to the size of
{html.escape(str(figures["lia"] or "a wrapped generator"))}. All methods are measured on the same images.</p>
{_resized(figures)}
<h2>Pictures</h2>
{_pictures(figures, out)}
<h2>Figures</h2>
<p>Below each, the 95 % interval: what as many other images of this kind would give.</p>
{_table(figures, "methods")}
{apart if others else ""}
<h2>Measures</h2>
<ul>{_measures(figures)}</ul>
{_left_out(figures)}
<p class="dim">Measured in {figures["seconds"]:.0f} s; {html.escape(versions)}.
Generator {figures["generator_sha256"][:12]}, images {images["identity"][:12]}.</p>"""
    return write_page(out, out.name, page)


def _pictures(figures: Mapping[str, Any], out: Path) -> str:
    """A row of the picture for the originals and for each method."""
    names = ["The originals", *figures["methods"]]
    with Image.open(report_paths(out)["png"]) as sheet:
        height = sheet.height // len(names)
        rows = [sheet.crop((0, i * height, sheet.width, (i + 1) * height)) for i in range(len(names))]
    return "\n".join(
        f"<p><b>{html.escape(name)}</b><br>{html_picture(png_bytes(row), name)}</p>"
        for name, row in zip(names, rows, strict=True)
    )


def _table(figures: Mapping[str, Any], what: str) -> str:
    """Measures downwards and methods across: there may be many of the first, and few of the second."""
    if what == "methods":
        columns = {name: method["figures"] for name, method in figures["methods"].items()}
    else:
        columns = figures["differences"]
    keys = [key for key in shown_measures(figures) if any(key in found for found in columns.values())]
    heads = "".join(f"<th>{html.escape(name)}" for name in columns)
    arrows = {1: " ↑", -1: " ↓", 0: ""}
    rows = []
    for key in keys:
        measure = MEASURES[key]
        unit = f" <small>{html.escape(measure.unit)}</small>" if measure.unit else ""
        cells = "".join(f'<td class="n">{_cell(key, found.get(key), what)}' for found in columns.values())
        rows.append(f"<tr><td>{html.escape(measure.title)}{unit}{arrows[measure.better]}{cells}</tr>")
    return f"<table><tr><th>Measure{heads}</tr>{''.join(rows)}</table>"


def _cell(key: str, figure: Mapping[str, Any] | None, what: str) -> str:
    if figure is None:
        return "–"
    text = number(key, figure["value"])
    if figure["interval"] is None:
        return text
    low, high = figure["interval"]
    told = f"<b>{text}</b>" if what == "differences" and not low <= 0 <= high else text
    return f"{told}<br><small>{number(key, low)} to {number(key, high)}</small>"


def _measures(figures: Mapping[str, Any]) -> str:
    networks = figures["networks"]
    by = {**networks, "frechet": networks["sets"], "kid": networks["sets"]}
    items = [
        f"<b>{MEASURES[key].title}</b>: {MEASURES[key].text}" + (f" ({by[key]})" if key in by else "")
        for key in shown_measures(figures)
    ]
    return "".join(f"<li>{html.escape(item).replace('&lt;b&gt;', '<b>').replace('&lt;/b&gt;', '</b>')}" for item in items)


def _resized(figures: Mapping[str, Any]) -> str:
    lines = [
        f"{method['resized']:,} pictures of {html.escape(name)} had another size and were resized."
        for name, method in figures["methods"].items()
        if method["resized"]
    ]
    return f"<p>{' '.join(lines)}</p>" if lines else ""


def _left_out(figures: Mapping[str, Any]) -> str:
    reasons = [f"{MEASURES[key].title}: {why}" for key, why in figures["left_out"].items()]
    for name, method in figures["methods"].items():
        by_reason: dict[str, list[str]] = {}
        for key, why in method["left_out"].items():
            by_reason.setdefault(why, []).append(MEASURES[key].title)
        reasons += [f"{', '.join(titles)} of {name}: {why}" for why, titles in by_reason.items()]
    text = f"<h2>Not measured</h2><ul>{''.join(f'<li>{html.escape(reason)}' for reason in reasons)}</ul>" if reasons else ""
    images = list(figures["images"]["left_out"].items())
    items = "".join(f"<li>{html.escape(name)}: {html.escape(why)}" for name, why in images[:_LISTED])
    more = f"<li>and {len(images) - _LISTED:,} more, named in the .json" if len(images) > _LISTED else ""
    return text + (f"<h2>{len(images):,} images left out</h2><ul>{items}{more}</ul>" if images else "")
