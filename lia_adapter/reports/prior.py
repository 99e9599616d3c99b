"""What the measures of z say, in words: for the report and for the terminal."""

import math
from collections.abc import Mapping
from typing import Any

from lia_adapter.reports.page import row

__all__ = ["USUAL", "number", "prior_rows", "prior_verdict"]

USUAL: Mapping[str, tuple[float, float]] = {
    "z_size": (0.95, 1.05),
    "z_size_95": (0.95, 1.05),
    "z_spread": (0.95, 1.05),
    "z_spread_largest": (0.95, 1.05),
    "z_classifier": (-math.inf, 0.03),
    "z_sliced_wasserstein": (-math.inf, 1.05),
}
"""Within what a measure's ratio to that of N(0, I) lies where z is usual; of the classifier, its excess."""

_MEASURES = {
    "z_size": ("Size of z, median", "|z|² / d of the original's own codes; right is what samples of N(0, I) have."),
    "z_size_95": ("Size of z, 95 %", "That which 95 % of these codes stay below; right is what samples of N(0, I) have."),
    "z_spread": (
        "Spread of z, median",
        "Eigenvalues of z's covariance: how far z reaches in its directions; right is as N(0, I).",
    ),
    "z_spread_largest": ("Spread of z, largest", "The direction in which z reaches furthest; right is as N(0, I)."),
    "z_classifier": (
        "Classifier of z",
        "How often a small trained network tells these z from samples of N(0, I); right is 50 %, pure guessing.",
    ),
    "z_sliced_wasserstein": (
        "Shape of z",
        "How far these z lie from samples of N(0, I), seen from 512 random directions; right is × 1.",
    ),
}


def number(value: float | None, form: str, other: str = "too large") -> str:
    """A figure in a format; other words where it is not finite, which JSON says as null."""
    return other if value is None or not math.isfinite(value) else format(value, form)


def prior_verdict(metrics: Mapping[str, Any]) -> str:
    """A sentence that says whether the z of the original's codes are usual, as far as the figures show it.

    Args:
        metrics: What `compare_mappings` measured.
    """
    found = {name: _within(metrics[name], *limits) for name, limits in USUAL.items()}
    if odd := [_MEASURES[name][0] for name, usual in found.items() if usual is False]:
        return f"The z of the original's codes is not usual: it differs from N(0, I) in {', '.join(odd)}."
    if None in found.values():
        unsure = ", ".join(_MEASURES[name][0] for name, usual in found.items() if usual is None)
        seeds = metrics["evaluation_seeds"]
        return f"Whether the z of the original's codes is usual, {seeds} evaluation seeds do not tell ({unsure})."
    return "The z of the original's codes is usual: by all measures within a few per cent of samples of N(0, I)."


def _within(measure: Mapping[str, Any], low: float, high: float) -> bool | None:
    """Whether a ratio or difference is within limits; None where its interval lies on both sides of one."""
    value = measure.get("ratio", measure.get("excess"))
    if value is None or not math.isfinite(value):
        return False
    least, most = measure.get("interval", (value, value))
    if low <= least and most <= high:
        return True
    return False if most < low or high < least else None


def prior_rows(metrics: Mapping[str, Any]) -> str:
    """Rows of the report's table: HTML.

    Args:
        metrics: What `compare_mappings` measured.
    """
    rows = []
    for name, (title, text) in _MEASURES.items():
        m, share = metrics[name], name == "z_classifier"
        form = ".1%" if share else ".4g"
        verdict = f"{number(100 * m['excess'], '+.1f')} points" if share else f"× {number(m['ratio'], '.4g')}"
        if "interval" in m:
            low, high = (100 * end if share else end for end in m["interval"])
            verdict += f"<br><small>{low:.3g} to {high:.3g}</small>"
        if "of each class" in m:
            of_each = ", ".join(
                f"{i}: {number(value, '.3f')}" for i, value in enumerate(m["of each class"]) if value is not None
            )
            text += f" Of each class: {of_each}."
        rows.append(
            row(title, text, number(m["value"], form), number(m["floor"], form), verdict, good=_within(m, *USUAL[name]))
        )
    m = metrics["log_likelihood"]
    text = (
        "log p of these codes in nats a dimension of whitened y: higher is better. Beside it that of the Gaussian with "
        "their mean and covariance, which a mapping should not be below."
    )
    value, gain = (number(m[name], form, "too small") for name, form in (("value", ".5g"), ("excess", "+.3g")))
    rows.append(row("Likelihood", text, value, f"{m['gaussian']:.5g}", gain, good=_within(m, 0, math.inf)))
    return "".join(rows)
