"""The report of a training from scratch."""

import html
import json
from pathlib import Path

from lia_adapter.jobs.run import run_folder
from lia_adapter.lia import LIA
from lia_adapter.reports.page import folded, html_picture, loss_curves, page_picture, write_page

__all__ = ["write_training_report"]


def write_training_report(lia: LIA, out: Path) -> Path:
    """Writes the page of a training from scratch beside `out`.

    Args:
        lia: What `train` returned.
        out: The LIA file, beside which `train` wrote the picture and the folder of the run; the last picture of reconstructions
            in it is shown where there is an encoder.

    Returns:
        The page.

    Raises:
        LIAError: The file cannot be written.
    """
    figures, made_by = lia.metrics["training"], lia.provenance["training"]
    mapping = "StyleGAN's own mapping" if lia.mapping is None else f"an invertible mapping ({lia.mapping.coupling})"
    body = f"""<h1>{html.escape(out.name)}: {html.escape(lia.provenance["source"])}</h1>
<p>{figures["parameters"]:,} parameters with {mapping}; {figures["images"]:,} images seen in {figures["seconds"]:,.0f} s on
{html.escape(made_by["device"])}.</p>
<h2>Samples</h2>
{page_picture(out, "samples")}
{_distance(figures)}
{_reconstructions(run_folder(out) / "encoder")}
<h2>Losses</h2>
{loss_curves(figures["losses"])}
{folded("Provenance", json.dumps(lia.provenance, indent=1))}"""
    return write_page(out, out.name, body)


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
