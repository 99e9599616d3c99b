"""The self-contained HTML report of a training from scratch."""

import html
import json
from pathlib import Path

from lia_adapter.lia import LIA
from lia_adapter.report import Progress, Sheet, drawn, html_page, html_picture, loss_curves, png_bytes, write_report

__all__ = ["write_training_report"]

_SAMPLES = 64


def write_training_report(lia: LIA, out: Path, folder: Path, progress: Progress | None = None) -> dict[str, Path]:
    """Writes the picture, the report and the figures of a training beside `out`.

    Args:
        lia: From `train`.
        out: The LIA file.
        folder: Of the run; its first and last pictures of reconstructions are shown where there is an encoder.
        progress: Is told the pictures drawn and to draw.

    Returns:
        The three paths by ending.

    Raises:
        LIAError: A file cannot be written.
    """
    sheet, done = Sheet(_SAMPLES), 0
    if progress:
        progress("pictures", 0, _SAMPLES)
    for x in drawn(lia, range(_SAMPLES)):
        sheet.add(x)
        done += len(x)
        if progress:
            progress("pictures", done, _SAMPLES)
    picture = png_bytes(sheet.image)
    figures = {**lia.metrics, "provenance": lia.provenance}
    return write_report(out, picture, _page(lia, out, picture, folder), figures)


def _page(lia: LIA, out: Path, picture: bytes, folder: Path) -> str:
    figures, made_by = lia.metrics["training"], lia.provenance["training"]
    mapping = "StyleGAN's own mapping" if lia.mapping is None else f"an invertible mapping ({lia.mapping.coupling})"
    body = f"""<h1>{html.escape(out.name)}: {html.escape(lia.provenance["source"])}</h1>
<p>{figures["parameters"]:,} parameters with {mapping}; {figures["images"]:,} images seen in {figures["seconds"]:,.0f} s on
{html.escape(made_by["device"])}.</p>
<h2>Samples</h2>
{html_picture(picture, "samples")}
{_distance(figures)}
{_reconstructions(folder / "encoder")}
<h2>Losses</h2>
{loss_curves(figures["losses"])}
<h2>Provenance</h2>
<pre>{html.escape(json.dumps(lia.provenance, indent=1))}</pre>"""
    return html_page(out.name, body)


def _distance(figures: dict[str, list[tuple[int, float]]]) -> str:
    if not figures["curve"]:
        return ""
    shown, last = figures["curve"][-1]
    return f"""<h2>Distance from the training images</h2>
<p>Fréchet distance of drawn images from training images, by {html.escape(str(figures["features"]))}: {last:.4g} after
{shown:,} images.</p>
{loss_curves({"Fréchet distance": [distance for _, distance in figures["curve"]]})}"""


def _reconstructions(folder: Path) -> str:
    pictures = sorted(folder.glob("reconstructions-*.png"))
    if not pictures:
        return ""
    return f"""<h2>Reconstructions</h2>
<p>Each pair of rows: real images above, what the generator draws from their codes below.</p>
{html_picture(pictures[-1].read_bytes(), "reconstructions")}"""
