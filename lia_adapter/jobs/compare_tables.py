"""The table of `compare` for spreadsheets (.csv) and for papers (.tex)."""

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lia_adapter.files import atomic_write
from lia_adapter.jobs.compare_statistics import MEASURES
from lia_adapter.jobs.run import report_paths

__all__ = ["number", "shown_measures", "table_paths", "write_tables"]

_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "×": r"$\times$",
}  # fmt: skip
_ARROWS = {1: r" $\uparrow$", -1: r" $\downarrow$", 0: ""}


def table_paths(out: Path) -> dict[str, Path]:
    """The tables beside `out`, by ending."""
    return {ending: report_paths(out)["json"].with_suffix(f".{ending}") for ending in ("csv", "tex")}


def shown_measures(figures: Mapping[str, Any]) -> list[str]:
    """The measures that any method has, in order."""
    return [key for key in MEASURES if any(key in method["figures"] for method in figures["methods"].values())]


def number(key: str, value: float | None) -> str:
    """A figure of a measure in its digits; infinity of equal images in a word; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    return format(value, MEASURES[key].digits) if math.isfinite(value) else "∞" if value > 0 else "-∞"


def write_tables(figures: Mapping[str, Any], out: Path) -> None:
    """Writes both beside `out`.

    Args:
        figures: What `compare` returned.
        out: Its .json.

    Raises:
        LIAError: A file cannot be written.
    """
    for ending, text in {"csv": _csv(figures), "tex": _tex(figures)}.items():
        with atomic_write(table_paths(out)[ending]) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")


def _csv(figures: Mapping[str, Any]) -> str:
    """A line for each method and measure, with intervals and the difference to the first method."""
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow(
        ["method", "measure", "images", "value", "low", "high", "reference", "difference", "difference_low", "difference_high"]
    )
    for name, method in figures["methods"].items():
        differences = figures["differences"].get(name, {})
        for key, figure in method["figures"].items():
            gap = differences.get(key, {"value": None, "interval": None})
            reference = figures["reference"] if key in differences else ""
            lines.writerow(
                [name, key, figures["images"]["count"], figure["value"], *(figure["interval"] or ("", "")), reference]
                + [gap["value"], *(gap["interval"] or ("", ""))]
            )
    return text.getvalue()


def _tex(figures: Mapping[str, Any]) -> str:
    """For the package booktabs: a row a method, and half the width of each interval behind its figure."""
    keys = shown_measures(figures)
    heads = [f"{_escaped(_head(key))}{_ARROWS[MEASURES[key].better]}" for key in keys]
    rows = []
    for name, method in figures["methods"].items():
        cells = [_tex_cell(key, method["figures"].get(key)) for key in keys]
        rows.append(" & ".join([_escaped(name), *cells]) + r" \\")
    lines = [
        f"% lia-adapt compare: {figures['images']['count']} images; mean and half the width of its 95 % interval",
        rf"\begin{{tabular}}{{l{'r' * len(keys)}}}", r"\toprule", " & ".join(["Method", *heads]) + r" \\", r"\midrule", *rows,
        r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _tex_cell(key: str, figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return "--"
    text = number(key, figure["value"]).replace("–", "--").replace("-∞", r"$-\infty$").replace("∞", r"$\infty$")
    if figure["interval"] is None:
        return text
    low, high = figure["interval"]
    return rf"{text} {{\scriptsize $\pm$ {number(key, (high - low) / 2)}}}"


def _head(key: str) -> str:
    measure = MEASURES[key]
    return f"{measure.title} ({measure.unit})" if measure.unit else measure.title


def _escaped(text: str) -> str:
    return "".join(_TEX.get(letter, letter) for letter in text)
