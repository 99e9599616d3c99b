"""The report of an encoder's training, and what its figures say in a sentence."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lia_adapter.lia import LIA
from lia_adapter.reports.page import folded, loss_curves, measures_table, page_picture, row, unreadable_list, write_page

__all__ = ["encoder_verdict", "real_images_words", "write_encoder_report"]


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
            f"{after['correlation']:.3f}", "1", f"before: {before['correlation']:.3f}; {_interval(after['interval'], '.3f')}",
        ),
        row("On all directions", "The same.", f"{after['all']:.3f}", "1", f"before: {before['all']:.3f}"),
        row(
            "Drawn images", "Mean squared error of the same images drawn again, on the scale of -1 to 1.",
            f"{after['mse']:.4f}", "0", f"before: {before['mse']:.4f}",
        ),
        row(
            "Real images", html.escape(f"The same of {real_images_words(figures)}."),
            f"{after['mse_of_real_images']:.4f}", "0", f"before: {before['mse_of_real_images']:.4f}",
        ),
        *_search_rows(figures),
    ]  # fmt: skip
    below = "below" if figures["search"] is None else "below, and under those what it draws from the codes that a search found"
    kind = figures["real_images"]["kind"]
    table = measures_table(("Value", "Best", ""), rows)
    body = f"""<h1>An encoder for {html.escape(str(provenance.get("source", "a wrapped generator")))}</h1>
<p>{html.escape(encoder_verdict(figures).capitalize())}</p>
<h2>Real images and their reconstructions</h2>
<p>Rows in turn: {kind} images above, what the generator draws from the encoder's codes {below}.</p>
{page_picture(out, "reconstructions")}
<h2>Figures</h2>
{table}
<h2>Training</h2>
{loss_curves(figures["losses"])}
<p class="dim">{figures["parameters"]:,} parameters, {made_by["data"]["images"]:,} images, {figures["seconds"]:.0f} s on
{html.escape(made_by["device"])}; perceptual network: {html.escape(str(made_by["features"] or "none"))}.</p>
{unreadable_list(figures["unreadable"])}
{folded("Provenance", json.dumps(provenance, indent=1))}"""
    return write_page(out, out.name, body)


def encoder_verdict(figures: Mapping[str, Any]) -> str:
    """What the search from the encoder's codes says of whose the errors of real images are, in a sentence.

    It claims what the images looked at show: a gain whose interval (95 %) lies above 0, and that is more than rounding costs.

    Args:
        figures: `LIA.metrics["encoder"]`.
    """
    search = figures["search"]
    if search is None:
        return "how much of the error is the encoder's was not looked at: no real image could be read."
    images = f"{search['images']} {figures['real_images']['kind']} images"
    change = f"{search['encoder']:.3g} -> {search['found']:.3g}"
    what = f"a search of {search['steps']} steps from the encoder's codes"
    if search["gain_interval"] is None:
        return f"{what} changes the {search['measure']} of {images} {change}: too few images to tell whose the error is."
    low, high = search["gain_interval"]
    if low <= 0:
        return (
            f"{what} gains nothing that {images} show: their {search['measure']} goes {change}, which is {_between(low, high)} "
            f"less (95 %)."
        )
    if search["gain"] < search["rounding"]:
        return f"{what} gains less on {images} than values rounded to 8 bits: their {search['measure']} goes {change}."
    least, most = (f"{100 * end:.0f}" for end in search["share_interval"])
    return (
        f"{what} changes the {search['measure']} of {images} {change} ({_between(low, high)} less, 95 %): "
        f"{search['share']:.0%} ({least} to {most}) of it is the encoder's, or more; the rest, {search['found']:.3g}, "
        f"no {search['space']} that the search found draws better."
    )


def real_images_words(figures: Mapping[str, Any]) -> str:
    """What the real images are that were measured.

    Args:
        figures: `LIA.metrics["encoder"]`.
    """
    about = figures["real_images"]
    if about["held_out"]:
        return f"real images that the training did not see ({about['held_out']:,} are held out)"
    return f"training images, as {about['why']}"


def _between(low: float, high: float) -> str:
    return f"{low:.3g} to {high:.3g}"


def _interval(between: Sequence[float] | None, form: str) -> str:
    """An interval in words; nothing where there is none."""
    return "" if between is None else f"between {between[0]:{form}} and {between[1]:{form}} (95 %)"


def _search_rows(figures: Mapping[str, Any]) -> list[str]:
    search = figures["search"]
    if search is None:
        return []
    measure = search["measure"].capitalize() if search["measure"] != "loss" else "What the training minimised, by images alone"
    texts = {
        "encoder": ("From the encoder's codes", f"{measure}, of {search['images']} {figures['real_images']['kind']} images."),
        "found": ("After a search", f"The same images, {search['steps']} steps on from the encoder's codes."),
        "gain": ("What the search gains", "The difference: the encoder missed codes that are better by this much."),
    }
    rows = [
        row(title, text, f"{search[name]:.4g}", "", _interval(search[f"{name}_interval"], ".3g"))
        for name, (title, text) in texts.items()
    ]
    if search["measure"] != "mean squared error":
        error = search["mse"]
        text = "From the encoder's codes, and after the search."
        rows.append(row("Mean squared error of them", text, f"{error['encoder']:.4f}, {error['found']:.4f}", "0", ""))
    return rows
