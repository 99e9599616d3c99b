"""The report of the demo."""

import html
from pathlib import Path

from lia_adapter.data.toyfaces import FACTORS
from lia_adapter.jobs.demo import DIRECTIONS, FITTED, Demo
from lia_adapter.jobs.run import run_folder
from lia_adapter.pictures import png_bytes
from lia_adapter.reports.convert import convert_verdict
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
    told = figures["factors"]
    rows = "".join(
        f'<tr><td>{html.escape(factor.name.replace("_", " "))}<td class="dim">{html.escape(factor.text)}'
        f'<td class="n">{told[factor.name]["r2"]:.2f}<td class="n">{told[factor.name]["leakage"]:.2f}'
        f"<td>{told[factor.name]['method'] if told[factor.name]['found'] else 'not found'}</tr>"
        for factor in FACTORS
    )
    moved = "".join(
        f"<h3>{html.escape(name.replace('_', ' '))}: leakage {told[name]['leakage']:.2f}</h3>"
        f"{html_picture(png_bytes(demo.pictures[name]), name)}"
        for name in demo.directions.names
    )
    missed = [factor.name.replace("_", " ") for factor in FACTORS if not told[factor.name]["found"]]
    files = html.escape(str(run_folder(out) / DIRECTIONS))
    body = f"""<h1>lia-adapter: a picture, its code, its edits</h1>
<p>This run took {figures["seconds"] / 60:.1f} minutes on this machine. It began with an ordinary StyleGAN2 checkpoint of
drawn faces, which ships with lia-adapter; with a checkpoint of yours, the same steps are <code>lia-adapt convert</code>,
<code>lia-adapt train-encoder</code>, <code>lia-adapt directions find</code> and <code>lia-adapt edit</code>.</p>
<h2>1. Pictures it has never seen, encoded in one pass</h2>
<p>Each pair of rows: new faces above, what the generator draws from their codes y below. Mean squared error on 1,000 of them:
{figures["mse"]:.4f} (images from −1 to 1). Codes of the generator's own images are found with a correlation of
{after["correlation"]:.2f} ({after["all"]:.2f} on all directions). {html.escape(verdict)}</p>
{page_picture(out, "faces and their reconstructions")}
<h2>2. Edited</h2>
<p>The first column is the face, the next its reconstruction, the others its code moved along a direction, from −3 to 3 standard
deviations, with all other factors kept. Directions were found on {FITTED:,} encoded faces with known factors. Leakage is what
the other factors change, in the mean, for equal effect on its own, as the encoder reads it: 0 would be one thing at a time.
{html.escape(f"Not found: {', '.join(missed)}." if missed else "")}</p>
{moved}
<p>The directions are in <code>{files}</code>; <code>lia-adapt edit</code> moves pictures of yours along them.</p>
<h3>What codes tell about faces</h3>
<p>R²: share of each factor's variance that a linear function of y explains, on faces not fitted to. A factor counts as
found where that is 0.3 or more and its direction changes nothing else as much as it.</p>
<table><tr><th>Factor<th><th>R²<th>leakage<th>by</tr>{rows}</table>
<h2>3. The mapping, replaced by one that has an inverse</h2>
<p>Each pair of rows shows the same seeds: above by the original mapping, which draws them as before, below by the invertible
one. {convert_verdict(metrics)} A code y comes back from its z (y → z → y) to {metrics["round_trip"]["value"]:.0e} standard
deviations; a conversion of more steps than this demo's comes nearer to the original: <code>lia-adapt convert</code>.</p>
{html_picture(png_bytes(demo.pictures["seeds"]), "the same seeds through both mappings")}"""
    return write_page(out, "lia-adapter: demo", body)
