"""Pictures and the self-contained HTML report of a conversion."""

import base64
import html
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lia_adapter.budget import in_parts
from lia_adapter.files import atomic_write
from lia_adapter.generators.base import one_class
from lia_adapter.generators.labels import Label
from lia_adapter.lia import LIA, seed_to_z
from lia_adapter.resize import resize
from lia_adapter.training.encoder import encoder_verdict

__all__ = [
    "Progress",
    "Sheet",
    "comparison_count",
    "comparison_grid",
    "drawn",
    "html_page",
    "html_picture",
    "image_grid",
    "loss_curves",
    "one_hot",
    "paired_grid",
    "png_bytes",
    "reconstruction_picture",
    "report_paths",
    "samples_picture",
    "save_png",
    "write_convert_report",
    "write_encoder_report",
    "write_report",
]

Progress = Callable[[str, int, int], None]

_COLUMNS = 8
_TILE, _SHEET = 256, 2048  # pixels a side in reports, at most
_FULL_SHEET = 8192  # 64 images of 1024²
_FAST = 1  # of zlib's levels: a 1024² image takes 0.09 s instead of 0.33 s and is an eighth larger
_COLOURS = ("#1f6fb4", "#d0661c", "#2a8f4c", "#8a4fb0", "#777")


def to_uint8(x: Tensor) -> Tensor:
    """Images [N, C, H, W] in [-1, 1] -> uint8 [N, H, W, C], rounded and clamped as StyleGAN's own programs do.

    One channel is gray and becomes RGB, which is what sheets and pages show; three are RGB, and four RGBA.
    """
    x = (x * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x[:, : 4 if x.shape[1] == 4 else 3]
    if x.shape[1] == 2:
        x = torch.cat([x, x[:, :1]], dim=1)
    return x.permute(0, 2, 3, 1).cpu()


class Sheet:
    """One picture of many images in rows, which need not be there at once: of each only its pixels on the sheet are kept.

    Args:
        count: Images of each set; a place that gets none stays white.
        columns: Images in a row; None makes the sheet about square.
        sets: Rows in turn: of the first set, below each the same of the second, and so on.
        full: Images keep their size, up to a sheet of 8,192 pixels a side, rather than shrink to at most 256 pixels a side
            and a sheet of 2,048.
    """

    def __init__(self, count: int, columns: int | None = None, *, sets: int = 1, full: bool = False) -> None:
        self.columns = min(count, columns or math.ceil(math.sqrt(count)))
        self.rows = -(-count // self.columns) * sets
        most = (_FULL_SHEET if full else _SHEET) // max(self.rows, self.columns)
        self._most = max(1, most if full else min(most, _TILE))
        self._filled = [0] * sets
        self._image: Image.Image | None = None

    def add(self, x: Tensor, of: int = 0) -> None:
        """The next images x [n, C, H, W] in [-1, 1] of a set; all images are of one size."""
        for one in x.split(1):  # as what becomes of an image on the way takes as much memory again as it does
            tile = Image.fromarray(to_uint8(resize(one.float(), most=self._most))[0].numpy())
            if self._image is None:
                self._image = Image.new(tile.mode, (self.columns * tile.width, self.rows * tile.height), "white")
            row, column = divmod(self._filled[of], self.columns)
            self._image.paste(tile, (column * tile.width, (row * len(self._filled) + of) * tile.height))
            self._filled[of] += 1

    @property
    def image(self) -> Image.Image:
        """The picture, as far as it is filled.

        Raises:
            ValueError: It is empty.
        """
        if self._image is None:
            raise ValueError("a sheet has no size before its first image.")
        return self._image


def image_grid(x: Tensor, columns: int | None = None) -> Image.Image:
    """One picture of many: images [N, C, H, W] in [-1, 1] in rows.

    Args:
        x: The images.
        columns: Images in a row; None makes the grid about square.
    """
    sheet = Sheet(len(x), columns, full=True)
    sheet.add(x)
    return sheet.image


def png_bytes(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def save_png(path: str | Path, image: Image.Image) -> None:
    """Writes a PNG, whole or not at all.

    Raises:
        LIAError: The file cannot be written.
    """
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG", compress_level=_FAST)


def one_hot(classes: Sequence[int], c_dim: int) -> Tensor | None:
    """Labels c [N, c_dim] of class numbers; None for an unconditional generator."""
    return F.one_hot(torch.tensor(classes), c_dim).float() if c_dim else None


@torch.no_grad()
def drawn(
    lia: LIA, seeds: Sequence[int], *, psi: float = 1.0, label: Label | None = None, original: bool = False
) -> Iterator[Tensor]:
    """Images of seeds, as many at a time as memory and speed allow.

    Args:
        lia: Draws them.
        seeds: N numbers in 0 .. 2³² - 1.
        psi: Truncation; 1 is none.
        label: The class of all images of a conditional generator, or the numbers of their label; None: classes take turns
            with the seeds.
        original: Whether by the generator's own mapping.

    Yields:
        x [n, C, H, W], about in [-1, 1] (not clamped), of the next n seeds.
    """
    g = lia.generator
    turns = [seed % max(g.c_dim, 1) for seed in seeds]
    c = one_hot(turns, g.c_dim) if label is None else one_class(label, g.c_dim, len(seeds), torch.zeros(()))
    if not original:
        yield from lia.pictures(seeds, psi=psi, c=c)
        return

    def draw(part: range) -> Tensor:
        here = slice(part.start, part.stop)
        label = None if c is None else c[here].to(lia.device)
        return lia.synthesize(g.mapping(seed_to_z(seeds[here], g.z_dim).to(lia.device), label), psi=psi, c=label)

    yield from in_parts(draw, range(len(seeds)), lia.at_once("draw"))


def comparison_count(lia: LIA) -> int:
    """How many seeds `comparison_grid` shows."""
    return 32 if max(lia.generator.resolution) <= _TILE else 16  # large ones take seconds each


def comparison_grid(lia: LIA, progress: Progress | None = None) -> Image.Image:
    """The same seeds through both mappings: rows of the original's pictures, each above the invertible mapping's.

    Args:
        lia: Converted.
        progress: Is told the pictures drawn and to draw.
    """
    count = comparison_count(lia)
    sheet, done = Sheet(count, _COLUMNS, sets=2), 0
    if progress:
        progress("pictures", 0, 2 * count)
    for of in (0, 1):
        for x in drawn(lia, range(count), original=of == 0):
            sheet.add(x, of)
            done += len(x)
            if progress:
                progress("pictures", done, 2 * count)
    return sheet.image


def write_convert_report(lia: LIA, out: Path, progress: Progress | None = None) -> dict[str, Path]:
    """Writes the picture, the report and the figures of a conversion beside `out`.

    Args:
        lia: Converted and measured.
        out: The LIA file; its ending .safetensors is replaced by .png, .html and .json.
        progress: Is told the pictures drawn and to draw.

    Returns:
        The three paths by ending.

    Raises:
        LIAError: A file cannot be written.
    """
    picture = png_bytes(comparison_grid(lia, progress))
    return write_report(out, picture, _page(lia, out, picture), {**lia.metrics, "provenance": lia.provenance})


def write_report(out: Path, picture: bytes, page: str, figures: Mapping[str, Any]) -> dict[str, Path]:
    """Writes a picture, a page and figures beside `out`.

    Args:
        out: See `report_paths`.
        picture: The PNG.
        page: The HTML.
        figures: JSON; numbers that are not finite, which JSON has no words for, become null.

    Returns:
        The three paths by ending.

    Raises:
        LIAError: A file cannot be written.
    """
    paths = report_paths(out)
    contents = {"png": picture, "html": page.encode(), "json": json.dumps(_finite(figures), indent=1).encode()}
    for ending, content in contents.items():
        with atomic_write(paths[ending], needs=len(content)) as temporary:
            temporary.write_bytes(content)
    return paths


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def report_paths(out: Path) -> dict[str, Path]:
    """The files of a report, by ending: f.safetensors and f.json have f.png, f.html and f.json."""
    stem = out.name.removesuffix(".safetensors").removesuffix(".json")
    return {ending: out.with_name(f"{stem}.{ending}") for ending in ("png", "html", "json")}


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

_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ddd;padding:.4rem .6rem;text-align:left;
vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}.good{color:#176b2c}.bad{color:#a02020}
img{max-width:100%;image-rendering:pixelated}small,.dim{color:#666}pre{overflow:auto;background:#f6f6f6;padding:1rem}"""


def html_page(title: str, body: str) -> str:
    """A page of HTML that needs nothing but itself; the title is text, the body HTML."""
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>
{body}
</html>
"""


def html_picture(png: bytes, alt: str) -> str:
    """A PNG inside a page, small ones enlarged by whole factors to at most 900 pixels."""
    width, encoded = Image.open(io.BytesIO(png)).width, base64.b64encode(png).decode()
    return f'<img alt="{html.escape(alt)}" width="{width * max(1, 900 // width)}" src="data:image/png;base64,{encoded}">'


def _page(lia: LIA, out: Path, picture: bytes) -> str:
    metrics, provenance = lia.metrics, lia.provenance
    source = html.escape(str(provenance.get("source", "a wrapped generator")))
    body = f"""<h1>{source}, made invertible</h1>
<p>{_verdict(metrics)}</p>
<h2>The same seeds, before and after</h2>
<p>Each pair of rows shows {_COLUMNS} seeds: the original mapping above, the invertible one below.</p>
{html_picture(picture, "samples")}
<h2>Figures</h2>
<p>The <em>noise floor</em> is the same measure between two sets of {metrics["samples"]:,} codes that both come from the
original mapping: it is not zero, because no two random sets are alike. A ratio near 1 means that the new mapping differs
from the original no more than the original differs from itself. All figures are means over
{metrics["evaluation_seeds"]} sets that the training never saw; pictures were compared on {metrics["images"]:,} images a side by
{html.escape(metrics["image_features"])}{_rough(metrics)}.</p>
{_table(metrics)}
<h2>Training</h2>
{loss_curves(metrics.get("losses", {}))}
<p class="dim">{metrics["coupling"]} mapping, {metrics["parameters"]:,} parameters; fitted in
{metrics["seconds"]["fit"]:.0f} s, measured in {metrics["seconds"]["measure"]:.0f} s.</p>
<h2>Provenance</h2>
<pre>{html.escape(json.dumps(provenance, indent=1))}</pre>"""
    return html_page(out.name, body)


def _verdict(metrics: Mapping[str, Any]) -> str:
    """One or two sentences that say what the figures mean."""
    # A ratio whose interval reaches down to what is allowed shows no difference.
    worst = max(_least_ratio(metrics[name]) for name in _MEASURES)
    told_apart = metrics["classifier"]["excess"]
    same = worst <= _LIMIT and told_apart <= 0.03
    first = (
        "The new mapping's codes can't be told from the original's."
        if same
        else f"The new mapping's codes differ measurably from the original's (largest ratio to the noise floor: {worst:.2f})."
    )
    images = metrics["frechet_images"]
    if same and "interval" in images and images["interval"][1] > _LIMIT:
        first += " Whether its pictures can, so few of them do not tell."
    kept = metrics["seeds_raw"]["value"]
    second = f"The same seed gives a code that correlates {kept:.2f} with the original's (1: the same code, 0: unrelated)."
    return f"{first} {second}"


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


def _table(metrics: Mapping[str, Any]) -> str:
    rows = []
    for name, (title, text) in _MEASURES.items():
        m = metrics[name]
        between = f"<br><small>{m['interval'][0]:.2f} to {m['interval'][1]:.2f}</small>" if "interval" in m else ""
        verdict = f"× {m['ratio']:.3f}{between}"
        rows.append(_row(title, text, f"{m['value']:.4g}", f"{m['floor']:.4g}", verdict, _least_ratio(m) <= _LIMIT))
    m = metrics["classifier"]
    rows.append(
        _row(
            "Told apart",
            "How often a small trained network guesses right which mapping a code is from; 50 % is pure guessing.",
            f"{m['value']:.1%}", f"{m['floor']:.1%}", f"{100 * m['excess']:+.1f} points", m["excess"] <= 0.03,
        )
    )  # fmt: skip
    m = metrics["round_trip"]
    text = "Largest error of y → z → y over the original's codes, in standard deviations of y."
    rows.append(_row("There and back", text, f"{m['value']:.1e}", "0", "", m["value"] <= 1e-4))
    m = metrics["typical_z"]
    text = "Size of the z that belongs to one of the original's codes (median); the prior's own is 1."
    rows.append(_row("Usual z", text, f"{m['value']:.2f}", "1", "", None))
    white, raw = metrics["seeds_white"]["value"], metrics["seeds_raw"]["value"]
    text = "Correlation of a seed's code with the original's code of that seed (in brackets: with y whitened)."
    rows.append(_row("Seeds kept", text, f"{raw:.3f} ({white:.3f})", "1", "", None))
    return "<table><tr><th>Measure<th>Value<th>Noise floor<th></tr>" + "".join(rows) + "</table>"


def _row(title: str, text: str, value: str, floor: str, verdict: str, good: bool | None) -> str:
    kind = "" if good is None else " good" if good else " bad"
    return (
        f'<tr><td><b>{title}</b><br><small>{text}</small><td class="n">{value}<td class="n">{floor}'
        f'<td class="n{kind}">{verdict}</tr>'
    )


def loss_curves(losses: Mapping[str, Sequence[float]]) -> str:
    """Losses, or other figures over time, by name, as an inline SVG, each scaled to its own range."""
    width, height = 860, 220
    lines, legend = [], []
    for i, (name, values) in enumerate(losses.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        finite = [v for v in values if math.isfinite(v)]
        if len(finite) < 2:
            continue
        low, high = min(finite), max(finite)
        span = (high - low) or 1.0
        points = " ".join(
            f"{10 + x * (width - 20) / (len(finite) - 1):.1f},{height - 10 - (v - low) / span * (height - 20):.1f}"
            for x, v in enumerate(finite)
        )
        lines.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{points}"/>')
        legend.append(f'<span style="color:{colour}">{html.escape(name)} {finite[0]:.3g} → {finite[-1]:.3g}</span>')
    if not lines:
        return "<p>No steps were trained.</p>"
    return f'<svg viewBox="0 0 {width} {height}" width="100%">{"".join(lines)}</svg><p>{" · ".join(legend)}</p>'


def reconstruction_picture(path: Path, x: Tensor, drawn: Tensor) -> None:
    """Writes a grid of real images x [N, C, H, W], each row above the row of what the generator drew of them.

    Raises:
        LIAError: The file cannot be written.
    """
    save_png(path, paired_grid(x, drawn))


def samples_picture(path: Path, x: Tensor) -> None:
    """Writes a grid of drawn images x [N, C, H, W].

    Raises:
        LIAError: The file cannot be written.
    """
    sheet = Sheet(len(x))
    sheet.add(x)
    save_png(path, sheet.image)


def paired_grid(*sets: Tensor) -> Image.Image:
    """Rows of images in turn: of the first set, below each the same of the second, and so on; each [N, C, H, W]."""
    sheet = Sheet(len(sets[0]), _COLUMNS, sets=len(sets))
    for of, x in enumerate(sets):
        sheet.add(x, of)
    return sheet.image


def write_encoder_report(lia: LIA, out: Path, folder: Path, progress: Progress | None = None) -> dict[str, Path]:
    """Writes the picture, the report and the figures of a training beside `out`.

    Args:
        lia: With a trained encoder.
        out: The LIA file.
        folder: Of the run; its last picture is the report's.
        progress: Where there is none, is told the pictures drawn and to draw.

    Returns:
        The three paths by ending.

    Raises:
        LIAError: A file cannot be written.
    """
    pictures = sorted(folder.glob("reconstructions-*.png"))
    picture = pictures[-1].read_bytes() if pictures else png_bytes(comparison_grid(lia, progress))
    figures = {**lia.metrics["encoder"], "provenance": lia.provenance}
    return write_report(out, picture, _encoder_page(lia, out, picture), figures)


def _encoder_page(lia: LIA, out: Path, picture: bytes) -> str:
    figures, provenance = lia.metrics["encoder"], lia.provenance
    made_by = provenance["encoder"]
    before, after = figures["before"], figures["after"]
    rows = [
        _row(
            "Known answers",
            f"Images that the generator drew are encoded: correlation of the y found with the true one, on the "
            f"{after['directions']} directions of y that make 90 % of what moves pixels.",
            f"{after['correlation']:.3f}", "1", f"before: {before['correlation']:.3f}", None,
        ),
        _row(
            "Drawn images", "Mean squared error of the same images drawn again, on the scale of -1 to 1.",
            f"{after['mse']:.4f}", "0", f"before: {before['mse']:.4f}", None,
        ),
        _row(
            "Real images",
            "The same of real images" + (" that the training did not see." if made_by["recipe"]["split"] != "all" else "."),
            f"{after['mse_of_real_images']:.4f}", "0", f"before: {before['mse_of_real_images']:.4f}", None,
        ),
    ]  # fmt: skip
    table = "<table><tr><th>Measure<th>Value<th>Best<th></tr>" + "".join(rows) + "</table>"
    unreadable = "".join(f"<li>{html.escape(name)}: {html.escape(why)}" for name, why in figures["unreadable"].items())
    body = f"""<h1>An encoder for {html.escape(str(provenance.get("source", "a wrapped generator")))}</h1>
<p>{html.escape(encoder_verdict(figures).capitalize())}</p>
<h2>Real images and their reconstructions</h2>
<p>Each pair of rows: the real images above, what the generator draws from their codes below.</p>
{html_picture(picture, "reconstructions")}
<h2>Figures</h2>
{table}
<h2>Training</h2>
{loss_curves(figures["losses"])}
<p class="dim">{figures["parameters"]:,} parameters, {made_by["data"]["images"]:,} images, {figures["seconds"]:.0f} s on
{html.escape(made_by["device"])}; perceptual network: {html.escape(str(made_by["features"] or "none"))}.</p>
{f"<h2>Images that could not be read</h2><ul>{unreadable}</ul>" if unreadable else ""}
<h2>Provenance</h2>
<pre>{html.escape(json.dumps(provenance, indent=1))}</pre>"""
    return html_page(out.name, body)
