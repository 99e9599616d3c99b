"""The report of a conversion: verdict, pictures, and figures against their noise floor."""

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from lia_adapter.lia import LIA
from lia_adapter.pictures import COLUMNS, png_bytes
from lia_adapter.reports.page import folded, html_picture, loss_curves, measures_table, page_picture, row, write_page
from lia_adapter.reports.prior import number, prior_rows, prior_verdict

__all__ = ["convert_verdict", "write_convert_report"]

_MEASURES = {
    "sliced_wasserstein": (
        "Shape of the distribution",
        "How far the codes y of the new mapping lie from the original's, seen from 512 random directions (sliced Wasserstein).",
    ),
    "frechet": (
        "Centre and spread",
        "The same by mean and covariance of y alone (Fréchet distance).",
    ),
    "frechet_images": (
        "Pictures",
        "Fréchet distance between pictures drawn with the new mapping and with the original one.",
    ),
}
_LIMIT = 1.05  # of a ratio to the noise floor, above which a difference is told


def write_convert_report(lia: LIA, out: Path, noise: Image.Image | None = None) -> Path:
    """Writes the page of a conversion beside `out`.

    Args:
        lia: What `convert` returned.
        out: The LIA file, beside which `convert` wrote the picture.
        noise: From `noise_picture`; None: it is left out.

    Returns:
        The page.

    Raises:
        LIAError: The file cannot be written.
    """
    metrics, provenance = lia.metrics, lia.provenance
    source = html.escape(str(provenance.get("source", "a wrapped generator")))
    body = f"""<h1>{source}, made invertible</h1>
<p>{convert_verdict(metrics)}</p>
<h2>The same seeds through both mappings</h2>
<p>Each pair of rows shows {COLUMNS} seeds: above by the original mapping, which stays in the file and by which lia-adapt sample
draws them as before; below by the invertible one, which takes the same z for a code's (--mapping invertible).</p>
{page_picture(out, "samples")}
<h2>Figures</h2>
<p>The <em>noise floor</em> is the same measure between two sets of {metrics["samples"]:,} codes that both come from the
original mapping: it is not zero, because no two random sets are alike. A ratio near 1 means that the new mapping differs
from the original no more than the original differs from itself. Of z, the floor is N(0, I) itself. All figures are means over
{metrics["evaluation_seeds"]} sets that the training never saw; pictures were compared on {metrics["images"]:,} images a side by
{html.escape(metrics["image_features"])}{_rough(metrics)}.</p>
{_table(metrics)}
{_noise(metrics, noise)}<h2>Training</h2>
{loss_curves(metrics.get("losses", {}))}
<p class="dim">{metrics["coupling"]} mapping, {metrics["parameters"]:,} parameters; fitted in
{metrics["seconds"]["fit"]:.0f} s, measured in {metrics["seconds"]["measure"]:.0f} s.</p>
{folded("Provenance", json.dumps(provenance, indent=1))}"""
    return write_page(out, out.name, body)


def convert_verdict(metrics: Mapping[str, Any]) -> str:
    """What the figures of a conversion mean, in a few sentences.

    Args:
        metrics: `LIA.metrics`.
    """
    # A ratio whose interval reaches down to what is allowed shows no difference.
    worst = max(_least_ratio(metrics[name]) for name in _MEASURES)
    told_apart = metrics["classifier"]["excess"]
    same = all(_least_ratio(metrics[name]) <= _LIMIT for name in _MEASURES) and told_apart <= 0.03  # not so of nan
    first = (
        "The new mapping's codes can't be told from the original's."
        if same
        else f"The new mapping's codes differ measurably from the original's (largest ratio to the noise floor: {worst:.2f})."
    )
    images = metrics["frechet_images"]
    if same and "interval" in images and images["interval"][1] > _LIMIT:
        first += " Whether its pictures can, so few of them do not tell."
    kept = metrics["seeds_raw"]["value"]
    second = f"Of the same z it makes a code that correlates {kept:.2f} with the original's (1: the same code, 0: unrelated)."
    third = f" {prior_verdict(metrics)}" if "z_size" in metrics else ""  # not in files of earlier versions
    return f"{first} {second}{third}"


def _least_ratio(measure: Mapping[str, Any]) -> float:
    """A ratio, or the least that it may be where it is known roughly."""
    return float(measure["interval"][0] if "interval" in measure and measure["ratio"] > _LIMIT else measure["ratio"])


def _rough(metrics: Mapping[str, Any]) -> str:
    """What to say of images that are not whole, or few."""
    small = " (at most 256 pixels a side, by the generator's lower layers)" if metrics["image_layers"] == "lower" else ""
    if "interval" not in metrics["frechet_images"]:
        return small
    low, high = metrics["frechet_images"]["interval"]
    rough = f"its ratio lies between {low:.2f} and {high:.2f} with a confidence of 95 %"
    return f"{small}: so few that the figure is rough ({rough})"


def _noise(metrics: Mapping[str, Any], picture: Image.Image | None) -> str:
    """What z was measured with, and how that looks."""
    if "noise" not in metrics:
        return ""
    noise = metrics["noise"]
    text = f"""<h2>The noise that z was measured with</h2>
<p>Codes of the original mapping lie on a surface, where a mapping can make z look right and still throw a code beside it far
away. So z was measured on {metrics["z_samples"]:,} codes with normal noise of {noise["sigma"]:g} standard deviations of y.
Pictures with it and without it have a PSNR of {number(noise["psnr"], ".1f")} dB (mean of {noise["images"]})."""
    if picture is None:
        return f"{text}</p>\n"
    rows = "Rows: pictures of codes, the same with noise, and ten times the difference about grey.</p>"
    return f"{text} {rows}\n{html_picture(png_bytes(picture), 'the noise in pictures')}\n"


def _table(metrics: Mapping[str, Any]) -> str:
    rows = []
    for name, (title, text) in _MEASURES.items():
        m = metrics[name]
        between = f"<br><small>{m['interval'][0]:.2f} to {m['interval'][1]:.2f}</small>" if "interval" in m else ""
        verdict = f"× {m['ratio']:.3f}{between}"
        rows.append(row(title, text, f"{m['value']:.4g}", f"{m['floor']:.4g}", verdict, good=_least_ratio(m) <= _LIMIT))
    m = metrics["classifier"]
    rows.append(
        row(
            "Two-sample classifier",
            "How often a small trained network guesses right which mapping a code is from; 50 % is pure guessing.",
            f"{m['value']:.1%}", f"{m['floor']:.1%}", f"{100 * m['excess']:+.1f} points",
            good=m["excess"] <= 0.03,
        )
    )  # fmt: skip
    m = metrics["round_trip"]
    text = "Largest error of y → z → y over the original's codes, in standard deviations of y."
    rows.append(row("Round trip", text, f"{m['value']:.1e}", "0", "", good=m["value"] <= 1e-4))
    if "z_size" in metrics:
        m, z = metrics["round_trip_float32"], metrics["round_trip_z_float32"]
        text = "The same where z is rounded to float32 on the way (in brackets: z → y → z, in and out in float32)."
        rows.append(row("Round trip in float32", text, f"{number(m['value'], '.1e')} ({number(z['value'], '.1e')})", "0", ""))
        rows.append(prior_rows(metrics))
    m = metrics["typical_z"]
    text = "|z| / √d of the original's codes without noise (median): 1 is necessary, and not enough."
    rows.append(row("Length of z, without noise", text, number(m["value"], ".2f"), "1", ""))
    white, raw = metrics["seeds_white"]["value"], metrics["seeds_raw"]["value"]
    text = "Correlation of the codes that both mappings make of a seed's z (in brackets: with y whitened)."
    rows.append(row("The same z", text, f"{raw:.3f} ({white:.3f})", "1", ""))
    return measures_table(("Value", "Noise floor", ""), rows)
