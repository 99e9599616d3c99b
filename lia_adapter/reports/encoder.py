"""The report of an encoder's training, and what its figures say in a sentence."""

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lia_adapter.lia import LIA
from lia_adapter.reports.page import loss_curves, page_picture, row, unreadable_list, write_page

__all__ = ["encoder_verdict", "write_encoder_report"]

# Of the verdict: least correlation, or share of the first error; ratio of errors above which the generator is to blame.
_FOUND, _REDRAWN, _FAR = 0.8, 0.25, 2.0
_WIDE = 0.1  # an interval of the correlation on both sides of the least, above which nothing is claimed


def write_encoder_report(lia: LIA, out: Path) -> Path:
    """Writes the page of a training beside `out`.

    Args:
        lia: What `train_encoder` returned.
        out: The LIA file, beside which `train_encoder` wrote the picture.

    Returns:
        The page.

    Raises:
        LIAError: The file cannot be written.
    """
    figures, provenance = lia.metrics["encoder"], lia.provenance
    made_by = provenance["encoder"]
    before, after = figures["before"], figures["after"]
    rows = [
        row(
            "Known answers",
            f"Images that the generator drew are encoded: correlation of the y found with the true one, on the "
            f"{after['directions']} directions of y that make 90 % of what moves pixels.",
            f"{after['correlation']:.3f}", "1", f"before: {before['correlation']:.3f}",
        ),
        row(
            "Drawn images", "Mean squared error of the same images drawn again, on the scale of -1 to 1.",
            f"{after['mse']:.4f}", "0", f"before: {before['mse']:.4f}",
        ),
        row(
            "Real images",
            "The same of real images" + (" that the training did not see." if made_by["recipe"]["split"] != "all" else "."),
            f"{after['mse_of_real_images']:.4f}", "0", f"before: {before['mse_of_real_images']:.4f}",
        ),
    ]  # fmt: skip
    table = "<table><tr><th>Measure<th>Value<th>Best<th></tr>" + "".join(rows) + "</table>"
    body = f"""<h1>An encoder for {html.escape(str(provenance.get("source", "a wrapped generator")))}</h1>
<p>{html.escape(encoder_verdict(figures).capitalize())}</p>
<h2>Real images and their reconstructions</h2>
<p>Each pair of rows: the real images above, what the generator draws from their codes below.</p>
{page_picture(out, "reconstructions")}
<h2>Figures</h2>
{table}
<h2>Training</h2>
{loss_curves(figures["losses"])}
<p class="dim">{figures["parameters"]:,} parameters, {made_by["data"]["images"]:,} images, {figures["seconds"]:.0f} s on
{html.escape(made_by["device"])}; perceptual network: {html.escape(str(made_by["features"] or "none"))}.</p>
{unreadable_list(figures["unreadable"])}
<h2>Provenance</h2>
<pre>{html.escape(json.dumps(provenance, indent=1))}</pre>"""
    return write_page(out, out.name, body)


def encoder_verdict(figures: Mapping[str, Any]) -> str:
    """What the known-answer test says, in a sentence.

    Args:
        figures: `LIA.metrics["encoder"]`.
    """
    after, before = figures["after"], figures["before"]
    drawn, real = after["mse"], after["mse_of_real_images"]
    low, high = after["interval"]
    if low < _FOUND <= high and high - low > _WIDE:
        return (
            f"whether the codes of the generator's own images are found, {after['images']} images do not tell: the correlation "
            f"lies between {low:.2f} and {high:.2f}. A longer training measures more of them."
        )
    # An encoder into ys may draw the image from other codes than a single y.
    if after["correlation"] < _FOUND and drawn > _REDRAWN * before["mse"]:
        return "the encoder does not find the codes of the generator's own images yet: train longer."
    if real > _FAR * drawn:
        return (
            f"codes of the generator's own images are found, but real images come back {real / drawn:.1f} times worse: "
            "the generator cannot draw all of them (or they are of another kind)."
        )
    return "codes are found, and real images come back as well as the generator's own."
