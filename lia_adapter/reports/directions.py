"""The report of `directions find`."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lia_adapter.editing.measures import STRENGTHS
from lia_adapter.jobs.run import report_paths
from lia_adapter.reports.page import page_picture, write_page

__all__ = ["write_directions_report"]

_MEASURES = {
    "r2": ("R²", "share of the attribute's variance that codes tell, on images it was not fitted to"),
    "accuracy": ("accuracy", "extremes that it was not fitted to told apart; 0.5 is chance"),
    "separation": ("separation", "standard deviations between the means of the two groups"),
    "share_of_variance": ("variance", "share of the variance that lies along it"),
    "share_of_change": ("pixels", "share of all change of pixels that lies along it"),
    "eigenvalue": ("eigenvalue", "how strongly the styles move along it"),
    "explained": ("explained", "share of the wanted change of the picture that it makes"),
    "change": ("change", "root mean squared change of pixels on [−1, 1] for one standard deviation"),
    "reach": ("reach", "standard deviations to go until half of the codes are improbable (p below 0.01)"),
    "effect": ("effect", "change of its attribute, in standard deviations, for a strength of 1"),
    "monotone": ("monotone", "share of codes whose attribute goes one way at each step"),
    "leakage": ("leakage", "mean change of the other attributes for equal effect on its own"),
    "identity": ("identity", "cosine of what a network sees before and after its attribute goes by one deviation; 1 is kept"),
}


def write_directions_report(out: Path) -> Path:
    """Writes the page of `directions find` beside `out`, from the picture and the figures there.

    Args:
        out: The file of directions.

    Returns:
        The page.

    Raises:
        LIAError: A file cannot be written.
    """
    figures = json.loads(report_paths(out)["json"].read_text())
    found, about = figures["directions"], figures["about"]
    shown = found[: figures["shown"]]
    body = f"""<h1>Directions: {html.escape(about["recipe"]["method"])}</h1>
<p>{len(found)} directions of {html.escape(str(about.get("source") or "a wrapped generator"))}. Rows: three codes moved along
each, in the order of the table; columns: by {", ".join(f"{s:g}" for s in STRENGTHS)} standard deviations of the prior.</p>
{page_picture(out, "codes moved along each direction")}
<h2>What each does</h2>
{_measures(shown)}
{_identity(figures["identity"])}
{_leakage(shown, figures)}
<h2>How alike they are</h2>
<p>|cos| of the angle between two, where the prior has the same spread all ways; 0 is unrelated.</p>
{_matrix([one["name"] for one in shown], [one["name"] for one in shown], figures["agreement"])}"""
    return write_page(out, "Directions", body)


def _measures(found: Sequence[Mapping[str, Any]]) -> str:
    there = [key for key in _MEASURES if any(one.get(key) is not None for one in found)]
    head = "".join(f'<th title="{_MEASURES[key][1]}">{_MEASURES[key][0]}' for key in there)
    rows = "".join(
        f"<tr><td>{html.escape(one['name'])}" + "".join(f'<td class="n">{_number(one.get(key))}' for key in there)
        for one in found
    )
    words = "; ".join(f"{_MEASURES[key][0]}: {_MEASURES[key][1]}" for key in there)
    return f"<table><tr><th>direction{head}</tr>{rows}</table><p class=dim>{words}.</p>"


def _identity(about: Mapping[str, str]) -> str:
    """By what identity is measured, or why it is not."""
    if "left_out" in about:
        return f"<p>Whether pictures still show the same one is left out: {html.escape(about['left_out'])}.</p>"
    return (
        f"<p>Identity is by {html.escape(about['network'])}, where 8 standard deviations or fewer change the attribute by one "
        "of its own.</p>"
    )


def _leakage(found: Sequence[Mapping[str, Any]], figures: Mapping[str, Any]) -> str:
    """The leakage matrix, where attributes of pictures are known."""
    if "leakage" not in figures:
        return (
            "<p>Nothing tells attributes of pictures here: with a scorer this page says what else each direction changes.</p>"
        )
    return f"""<h2>What else changes</h2>
<p>Leakage: the change of each attribute for a change of 1 of the direction's own, both in standard deviations, on
{figures["codes"]} drawn pictures.</p>{_matrix([one["name"] for one in found], figures["attributes"], figures["leakage"])}"""


def _matrix(rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]]) -> str:
    """A table; what is no number in the figures, such as the change of an attribute that a scorer does not tell, is empty."""
    head = "".join(f"<th>{html.escape(name)}" for name in columns)
    lines = "".join(
        f"<tr><td>{html.escape(name)}"
        + "".join(
            "<td>"
            if value is None
            else f'<td class="n" style="background:rgba(31,111,180,{min(value, 1) * 0.6:.2f})">{value:.2f}'
            for value in line
        )
        for name, line in zip(rows, values, strict=True)
    )
    return f"<table><tr><th>{head}</tr>{lines}</table>"


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else ""
