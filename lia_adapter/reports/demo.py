"""The report of the demo."""

import html
from pathlib import Path

from lia_adapter.data.toyfaces import FACTORS
from lia_adapter.jobs.demo import FITTED, MOVED, Demo
from lia_adapter.pictures import png_bytes
from lia_adapter.reports.encoder import encoder_verdict
from lia_adapter.reports.page import html_picture, page_picture, write_page

__all__ = ["write_demo_report"]


def write_demo_report(demo: Demo, out: Path) -> Path:
    """Writes the page beside `out`.

    Args:
        demo: From `run_demo`.
        out: The LIA file.

    Returns:
        The page.

    Raises:
        LIAError: A file cannot be written.
    """
    lia, figures = demo.lia, demo.figures
    metrics, after = lia.metrics, figures["encoder"]["after"]
    verdict = encoder_verdict(figures["encoder"]).capitalize()
    rows = "".join(
        f'<tr><td>{html.escape(factor.name.replace("_", " "))}<td class="dim">{html.escape(factor.text)}'
        f'<td class="n">{figures["factors"][factor.name]:.2f}</tr>'
        for factor in FACTORS
    )
    moved = "".join(
        f"<h3>{html.escape(name.replace('_', ' '))}</h3>{html_picture(png_bytes(demo.pictures[name]), name)}" for name in MOVED
    )
    body = f"""<h1>lia-adapter: a StyleGAN, made invertible</h1>
<p>This run took {figures["seconds"] / 60:.1f} minutes on this machine. It began with an ordinary StyleGAN2 checkpoint of
drawn faces, which ships with lia-adapter; with a checkpoint of yours, the same steps are <code>lia-adapt convert</code> and
<code>lia-adapt train-encoder</code>.</p>
<h2>1. The mapping, replaced by one that has an inverse</h2>
<p>Each pair of rows shows the same seeds: above by the original mapping, which draws them as before, below by the invertible
one. Its codes of the same z correlate {metrics["seeds_raw"]["value"]:.2f} with the original's, and z → y → z comes back to
{metrics["round_trip"]["value"]:.0e} standard deviations.</p>
{html_picture(png_bytes(demo.pictures["seeds"]), "the same seeds through both mappings")}
<h2>2. Faces it has never seen, encoded in one pass</h2>
<p>Each pair of rows: new faces above, what the generator draws from their codes y below. Mean squared error on 1,000 of them:
{figures["mse"]:.4f} (images from −1 to 1). Codes of the generator's own images are found with a correlation of
{after["correlation"]:.2f} ({after["all"]:.2f} on all directions). {html.escape(verdict)}</p>
{page_picture(out, "faces and their reconstructions")}
<h2>3. One thing changed at a time</h2>
<p>The first column is the face, the next its reconstruction, the others its code moved along one direction of y, which a linear
regression found on {FITTED:,} encoded faces.</p>
{moved}
<h3>What codes tell about faces</h3>
<p>Share of each factor's variance that a linear function of y explains, on faces that it was not fitted to.</p>
<table><tr><th>Factor<th><th>R²</tr>{rows}</table>"""
    return write_page(out, "lia-adapter: demo", body)
