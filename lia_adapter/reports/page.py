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

__all__ = ["html_page", "html_picture", "loss_curves", "page_picture", "row", "unreadable_list", "write_page"]

_COLOURS = ("#1f6fb4", "#d0661c", "#2a8f4c", "#8a4fb0", "#777")
_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ddd;padding:.4rem .6rem;text-align:left;
vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}.good{color:#176b2c}.bad{color:#a02020}
img{max-width:100%;image-rendering:pixelated}small,.dim{color:#666}pre{overflow:auto;background:#f6f6f6;padding:1rem}"""


def html_page(title: str, body: str) -> str:
    """A page of HTML that needs nothing but itself; the title is text, the body HTML."""
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>
{body}
</html>
"""


def html_picture(png: bytes, alt: str) -> str:
    """A PNG inside a page, small ones enlarged by whole factors to at most 900 pixels."""
    width, encoded = Image.open(io.BytesIO(png)).width, base64.b64encode(png).decode()
    return f'<img alt="{html.escape(alt)}" width="{width * max(1, 900 // width)}" src="data:image/png;base64,{encoded}">'


def loss_curves(losses: Mapping[str, Sequence[float]]) -> str:
    """Losses, or other figures over time, by name, as an inline SVG, each scaled to its own range."""
    width, height = 860, 220
    lines, legend = [], []
    for i, (name, values) in enumerate(losses.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        finite = [v for v in values if math.isfinite(v)]
        if len(finite) < 2:
            continue
        low, high = min(finite), max(finite)
        span = (high - low) or 1.0
        points = " ".join(
            f"{10 + x * (width - 20) / (len(finite) - 1):.1f},{height - 10 - (v - low) / span * (height - 20):.1f}"
            for x, v in enumerate(finite)
        )
        lines.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{points}"/>')
        legend.append(f'<span style="color:{colour}">{html.escape(name)} {finite[0]:.3g} → {finite[-1]:.3g}</span>')
    if not lines:
        return "<p>No steps were trained.</p>"
    return f'<svg viewBox="0 0 {width} {height}" width="100%">{"".join(lines)}</svg><p>{" · ".join(legend)}</p>'


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
