"""What every report is made of: a page of HTML that needs nothing but itself, with tables, curves and pictures in it."""

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from lia_adapter.files import atomic_write
from lia_adapter.jobs.run import report_paths

__all__ = [
    "folded",
    "html_page",
    "html_picture",
    "loss_curves",
    "measures_table",
    "page_picture",
    "row",
    "unreadable_list",
    "write_page",
]

_STYLE = """:root{color-scheme:light dark;--back:#fff;--text:#222;--dim:#595959;--line:#d5d5d5;--panel:#f4f4f4;--good:#176b2c;
--bad:#a02020;--curve:#1f6fb4}
@media (prefers-color-scheme:dark){:root{--back:#17191b;--text:#e4e4e4;--dim:#a9a9a9;--line:#44484c;--panel:#24272a;
--good:#6fcf87;--bad:#ff9a92;--curve:#6db3f2}}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:var(--text);
background:var(--back);overflow-wrap:break-word}
table{border-collapse:collapse;display:block;overflow-x:auto}td,th{border-bottom:1px solid var(--line);padding:.4rem .6rem;
text-align:left;vertical-align:top}
td.n,.measures th+th{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.good{color:var(--good)}.bad{color:var(--bad)}
small,.dim{color:var(--dim)}pre{overflow:auto;background:var(--panel);padding:1rem}
img{max-width:100%;height:auto;image-rendering:pixelated;cursor:zoom-in}
.large input{position:absolute;opacity:0}.large input:focus-visible+img{outline:3px solid var(--curve)}
.large input:checked+img{position:fixed;inset:0;margin:auto;z-index:1;width:100vw;height:100vh;max-width:none;
object-fit:contain;background:var(--back);cursor:zoom-out}
.curves{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,17rem),1fr));gap:1rem}figure{margin:0}
svg text{font:12px system-ui,sans-serif;fill:var(--dim)}svg line{stroke:var(--line)}
svg polyline{fill:none;stroke:var(--curve);stroke-width:1.5}
@media (max-width:40rem){.measures tbody{display:block}.measures tr{display:flex;flex-wrap:wrap}
.measures td,.measures th{flex:1 0 0;white-space:normal;box-sizing:border-box}.measures th:first-child{display:none}
.measures td:first-child{flex:1 0 100%;border:0;padding-bottom:0}}
@media print{body{max-width:none;margin:0}img,figure,tr{break-inside:avoid}}"""
_FRAME, _LEFT, _TOP, _RIGHT, _BOTTOM = (320, 160), 52, 8, 312, 138  # of a curve: its picture, and the box within it


def html_page(title: str, body: str) -> str:
    """A page of HTML that needs nothing but itself, for screens of any width, light and dark.

    Args:
        title: Text.
        body: HTML.
    """
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{html.escape(title)}</title><style>{_STYLE}</style>
{body}
</html>
"""


def html_picture(png: bytes, alt: str) -> str:
    """A PNG inside a page, small ones enlarged by whole factors to at most 900 pixels; a click shows it as large as the window.

    That needs no script: it is a checkbox whose label is the picture.
    """
    width, encoded = Image.open(io.BytesIO(png)).width, base64.b64encode(png).decode()
    words, shown = html.escape(alt), width * max(1, 900 // width)
    image = f'<img alt="{words}" width="{shown}" src="data:image/png;base64,{encoded}">'
    return f'<label class="large"><input type="checkbox" aria-label="large: {words}">{image}</label>'


def loss_curves(losses: Mapping[str, Sequence[float]]) -> str:
    """Losses, or other figures over time, by name: a small chart each with its range, as inline SVG."""
    charts = [_curve(name, finite) for name, values in losses.items() if len(finite := list(filter(math.isfinite, values))) > 1]
    return f'<div class="curves">{"".join(charts)}</div>' if charts else "<p>No steps were trained.</p>"


def _curve(name: str, values: Sequence[float]) -> str:
    """One of them; at least two numbers."""
    (width, height), low, high = _FRAME, min(values), max(values)
    span, last = (high - low) or 1.0, len(values) - 1
    points = " ".join(
        f"{_LEFT + x * (_RIGHT - _LEFT) / last:.1f},{_BOTTOM - (v - low) / span * (_BOTTOM - _TOP):.1f}"
        for x, v in enumerate(values)
    )
    words = f"{html.escape(name)}: {values[0]:.3g} → {values[-1]:.3g}"
    corners = ((_RIGHT, _BOTTOM), (_LEFT, _TOP))
    axes = "".join(f'<line x1="{_LEFT}" y1="{_BOTTOM}" x2="{x}" y2="{y}"/>' for x, y in corners)
    ticks = [(_LEFT - 4, _TOP + 10, "end", f"{high:.3g}"), (_LEFT - 4, _BOTTOM, "end", f"{low:.3g}")]
    ticks += [(_LEFT, height - 6, "start", "start"), (_RIGHT, height - 6, "end", "end of the run")]
    labels = "".join(f'<text x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>' for x, y, anchor, text in ticks)
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="{words}">{axes}{labels}'
        f'<polyline points="{points}"/></svg><figcaption>{words}</figcaption></figure>'
    )


def folded(title: str, text: str) -> str:
    """Text that few want to see, such as provenance, behind its title."""
    return f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(text)}</pre></details>"


def page_picture(out: Path, alt: str) -> str:
    """The picture that the job wrote beside `out`, inside a page."""
    return html_picture(report_paths(out)["png"].read_bytes(), alt)


def write_page(out: Path, title: str, body: str) -> Path:
    """Writes a page beside `out` and tells where.

    Raises:
        LIAError: The file cannot be written.
    """
    path, content = report_paths(out)["html"], html_page(title, body).encode()
    with atomic_write(path, needs=len(content)) as temporary:
        temporary.write_bytes(content)
    return path


def measures_table(columns: Sequence[str], rows: Sequence[str]) -> str:
    """A table of figures: on a narrow screen each measure's words stand above its values.

    Args:
        columns: What the values are, HTML.
        rows: From `row`.
    """
    heads = "".join(f"<th>{column}" for column in ("Measure", *columns))
    return f'<table class="measures"><tr>{heads}</tr>{"".join(rows)}</table>'


def row(title: str, text: str, *values: str, good: bool | None = None) -> str:
    """A row of a table of figures.

    Args:
        title: Of the measure, HTML.
        text: What it says, HTML.
        values: HTML, a column each.
        good: Whether the last value is good; None where nothing is to be said.
    """
    kinds = [""] * (len(values) - 1) + ["" if good is None else " good" if good else " bad"]
    columns = "".join(f'<td class="n{kind}">{value}' for kind, value in zip(kinds, values, strict=True))
    return f"<tr><td><b>{title}</b><br><small>{text}</small>{columns}</tr>"


def unreadable_list(reasons: Mapping[str, str]) -> str:
    """Images that could not be read, and why; nothing where there are none."""
    items = "".join(f"<li>{html.escape(name)}: {html.escape(why)}" for name, why in reasons.items())
    return f"<h2>Images that could not be read</h2><ul>{items}</ul>" if items else ""
