"""The reports of `reconstruct`, `invert` and `evaluate`."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lia_adapter.codes import Codes
from lia_adapter.jobs.evaluate_examples import VARIATION, Examples
from lia_adapter.jobs.invert import SHOWN, invert_figures
from lia_adapter.jobs.reconstruct import GRID
from lia_adapter.pictures import COLUMNS, image_grid, paired_grid, png_bytes
from lia_adapter.reports.page import html_picture, measures_table, page_picture, row, unreadable_list, write_page

__all__ = ["write_evaluate_report", "write_invert_report", "write_reconstruct_report"]


def write_reconstruct_report(figures: Mapping[str, Any], folder: Path) -> Path:
    """Writes grid.html into the folder of `reconstruct`.

    Args:
        figures: What `reconstruct_images` returned.
        folder: Where it wrote, with grid.png.

    Returns:
        The page.

    Raises:
        LIAError: A file cannot be written.
    """
    out = folder / GRID
    paired = figures["shown"]["originals"]
    kinds = "the originals above, what the generator draws of them below" if paired else "what the generator draws"
    error = figures["mse"]
    known = f", with a mean squared error of {error:.4f} on the scale of -1 to 1" if error is not None else ""
    page = f"""<h1>Reconstructions</h1>
<p>{figures["count"]:,} images of {html.escape(figures["source"])}, drawn by {_lia_name(figures)}{known}.
{html.escape(figures["originals"] or "")}</p>
<p>The first {figures["shown"]["count"]}: {kinds}.</p>
{page_picture(out, "originals and reconstructions")}
{unreadable_list(figures["unreadable"])}"""
    return write_page(out, "Reconstructions", page)


def write_invert_report(codes: Codes, out: Path) -> Path:
    """Writes the page of `invert` beside `out`.

    Args:
        codes: What `invert_images` returned.
        out: The file of codes, beside which it wrote the picture.

    Returns:
        The page.

    Raises:
        LIAError: A file cannot be written.
    """
    figures = invert_figures(codes)
    about, means, count = figures["about"], figures["mean"], len(codes.names)
    loss = html.escape(
        f"pixels and {about['features']}" if about["features"] else "pixels and the bands of their Laplacian pyramid"
    )
    weight = about.get("prior_weight")
    loss += f"; and {weight:g} times the prior's part" if weight else ""
    rows = [
        row("Loss", f"Mean over the images; compared are {loss}.", f"{means['start_loss']:.4f} → {means['loss']:.4f}"),
        row("Squared error", "Mean over the images, on the scale of -1 to 1.", f"{means['mse']:.4f}"),
        row(
            "Size of z", "Mean |z|² / D; 1 is usual, and the larger it is, the less the code is one that the prior draws.",
            f"{means['z_size']:.3g}",
        ),
    ]  # fmt: skip
    if weight:
        rows.insert(1, row("Prior", "Its part: mean log(1 + |z|² / D); 0.69 is usual.", f"{means['prior']:.3f}"))
    if about["encoder_sha256"] is not None:
        rows.append(
            row("Typicality", "Mean rank among the codes of training images; 0.5 is usual.", f"{means['typicality']:.2f}")
        )
    if "prior_p" in means:
        rows.append(row("Prior p", f"Mean over the images. {_PRIOR_P}", f"{means['prior_p']:.2f}"))
    rows += [
        row(
            f"Rung: {rung['name']}", f"Mean loss there, without the prior's part; {rung['ended_here']:,} images ended here.",
            f"{rung['loss']:.4f}",
        )
        for rung in figures.get("rungs", ())
    ]  # fmt: skip
    page = f"""<h1>Codes found by optimisation</h1>
<p>{count:,} images of {html.escape(about["data"])}, drawn by {_lia_name(about)}: {_way(about)}, from
{_STARTS[about["start"]]}.</p>
<p>The first {min(count, SHOWN)}, in rows of three: the originals, the start, and what was found.</p>
{page_picture(out, "originals, starts and results")}
<h2>Figures</h2>
{measures_table(("Value",), rows)}
{_left_out(figures["left_out"])}{unreadable_list(figures["unreadable"])}"""
    return write_page(out, out.name, page)


def _way(about: Mapping[str, Any]) -> str:
    """How the codes were found, in words."""
    method = about.get("method", "search")
    if method == "ladder":
        return f"the ladder of methods, quality {about['quality']}"
    return f"{about['steps']:,} steps " + (f"in {about['space']}" if method == "search" else f"by {html.escape(method)}")


_PRIOR_P = (
    "Share of the generator's own codes, with a little noise, that the mapping finds less likely: 0.5 is usual, and near 0 the "
    "code is one that the prior hardly draws; it does not tell whether the image is of the right kind, nor is near 1 better."
)
_STARTS = {"encoder": "the encoder's codes", "mean": "the mean", "random": "random codes"}


def write_evaluate_report(figures: Mapping[str, Any], examples: Examples, out: Path) -> Path:
    """Writes the page of `evaluate` beside `out`.

    Args:
        figures: What `evaluate` returned.
        examples: What `write_evaluation` returned.
        out: The .json.

    Returns:
        The page.

    Raises:
        LIAError: The file cannot be written.
    """
    by = "perceptual distance" if "perceptual" in figures["of_each"] else "squared error"
    pictures = {
        title: f"<h3>{title}</h3>\n{html_picture(png_bytes(paired_grid(*pair)), f'{title} reconstructions')}\n"
        for title, pair in examples.pairs.items()
    }
    by_error, by_prior = (
        "".join(pictures[title] for title in titles) for titles in (("Typical", "Best", "Worst"), ("Likeliest", "Least likely"))
    )
    variations, paths = (png_bytes(image_grid(x, COLUMNS)) for x in (examples.variations, examples.paths))
    images, typicality, answer = figures["images"], figures["typicality"], figures["known_answer"]
    versions = ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    page = f"""<h1>How well {_lia_name(figures)} redraws images</h1>
<p>{images["count"]:,} images of {html.escape(images["data"])} (split: {html.escape(images["split"])}), encoded in one pass and
drawn again. {_verdict(figures["mse"], answer["mse"])}</p>
<h2>Originals above, reconstructions below</h2>
<p>The best and the worst by {by}, and those in the middle.</p>
{by_error}
<h2>By the prior</h2>
<p>The images whose codes the generator's mapping makes the most and the least of; the order of all is in
{html.escape(out.name)}, prior_p of of_each.</p>
{by_prior}
<h3>Variations</h3>
<p>A reconstruction on the left, and beside it codes that the prior has near its own: z is moved by {VARIATION:.0%} of the
prior's standard deviation.</p>
{html_picture(variations, "variations of reconstructions")}
<h3>From one to another</h3>
<p>In equal steps through z, on a great circle, so that the sizes of z that lie between are between those of the ends.</p>
{html_picture(paths, "paths from one reconstruction to another")}
<h2>Figures</h2>
{measures_table(("Value",), _evaluate_rows(figures))}
<h2>How usual the images are</h2>
<p>Each image's code has a rank among the codes of the training images: at 0.3, 70 % of them are more usual. Images of the same
kind fill all ranks alike (the dashed line); those of another kind crowd at 0. {typicality["unusual"]:.1%} lie below 0.01, where
1 % is to be expected.</p>
{_histogram(typicality["histogram"])}
{_left_out(figures["left_out"])}{unreadable_list(images["unreadable"])}
<p class="dim">Measured in {figures["seconds"]:.0f} s; {html.escape(versions)}.
Generator {figures["generator_sha256"][:12]}, encoder {figures["encoder_sha256"][:12]}, images {images["identity"][:12]}.</p>"""
    return write_page(out, out.name, page)


def _verdict(real: float, drawn: float) -> str:
    """What the two errors say, and what they do not."""
    return (
        f"They come back with a mean squared error of {real:.4f}; images that the generator itself drew, with {drawn:.4f}. "
        "The second is the encoder's own error, on images that the generator can draw. Whose the first is, only a search "
        "tells: <code>lia-adapt invert</code> gives what is left of it."
    )


def _evaluate_rows(figures: Mapping[str, Any]) -> list[str]:
    swd, frechet, answer = figures["swd"], figures["frechet"], figures["known_answer"]
    by = html.escape(f"Features: {frechet['features']}.")
    rough = {
        name: f"<br><small>{low:.3g} to {high:.3g} (95 %): so few images that it is rough, and larger than of many</small>"
        for name, (low, high) in frechet.get("interval", {}).items()
    }
    rows = [
        row("Squared error (MSE)", "Mean over pixels, on the scale of -1 to 1; 0 is the same image.", f"{figures['mse']:.4f}"),
        row("PSNR", "The same in decibels; more is better.", f"{figures['psnr']:.2f} dB"),
        row("SSIM", "Likeness of structure in small windows; 1 is the same image.", f"{figures['ssim']:.4f}"),
    ]
    if "perceptual" in figures:
        text = f"Difference of what a network sees (LPIPS without learned weights); 0 is the same image. {figures['network']}."
        rows.append(row("Perceptual distance", html.escape(text), f"{figures['perceptual']:.4f}"))
    levels = ", ".join(f"{level} px: {value:.2f}" for level, value in swd["levels"].items())
    rows += [
        row(
            "Patches (SWD)",
            f"Sliced Wasserstein distance × 1000 between patches of {swd['images']:,} images and their reconstructions, "
            f"at each scale ({levels}); 0 is no difference.",
            f"{swd['mean']:.2f}",
        ),
        row(
            "Reconstructions as a set",
            f"Fréchet distance to the images; only figures by the same features and number of images compare. {by}",
            f"{frechet['reconstructions']:.4g}{rough.get('reconstructions', '')}",
        ),
        row(
            "Random samples as a set",
            f"Fréchet distance from images of as many random z of codes to the images: how like them the LIA draws. {by}",
            f"{frechet['samples']:.4g}{rough.get('samples', '')}",
        ),
    ]
    if "path_length" in figures:
        path = figures["path_length"]
        for space, shape in (("z", "an arc"), ("y", "a straight line")):
            text = (
                f"How unevenly the image changes along {shape} between random codes ({path['pairs']:,} pairs); less is better."
            )
            rows.append(row(f"Path length in {space}", text, f"{path[space]:.1f}"))
    rows += [
        row(
            "Round trip", "Largest error of y → z → y over the images' codes, in standard deviations of y.",
            f"{figures['round_trip']:.1e}",
        ),
        row(
            "Known answers",
            f"{answer['images']:,} drawn images are encoded: correlation of the y found with the true one, on the "
            f"{answer['directions']} directions that make 90 % of what moves pixels; 1 is perfect.",
            f"{answer['correlation']:.3f}",
        ),
        row(
            "Size of z", "Median |z|² / D of the images' codes; the prior's own is 1.",
            f"{figures['typicality']['z_size']:.3g}",
        ),
        row("Prior p", f"Median over the images. {_PRIOR_P}", f"{figures['typicality']['prior_p']:.3f}"),
    ]  # fmt: skip
    return rows


def _histogram(counts: Sequence[int]) -> str:
    """Bars over 0..1 as an inline SVG, with a line at their mean."""
    width, height, left, bottom = 860, 220, 50, 30
    step, top = (width - left - 10) / len(counts), max(counts)
    scale = (height - bottom - 20) / top
    bars = "".join(
        f'<rect x="{left + i * step + 1:.1f}" y="{height - bottom - n * scale:.1f}" width="{step - 2:.1f}" '
        f'height="{n * scale:.1f}" fill="#1f6fb4"><title>{i / len(counts):.2f} to {(i + 1) / len(counts):.2f}: '
        f"{n:,} images</title></rect>"
        for i, n in enumerate(counts)
    )
    level = height - bottom - sum(counts) / len(counts) * scale
    ticks = "".join(
        f'<text x="{left + t * (width - left - 10):.1f}" y="{height - 10}" text-anchor="middle">{t:g}</text>'
        for t in (0, 0.25, 0.5, 0.75, 1)
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" width="100%" font-size="13" fill="#666" role="img" '
        f'aria-label="histogram of typicality">{bars}'
        f'<line x1="{left}" x2="{width - 10}" y1="{level:.1f}" y2="{level:.1f}" stroke="#222" stroke-dasharray="5 4"/>'
        f'<line x1="{left}" x2="{width - 10}" y1="{height - bottom}" y2="{height - bottom}" stroke="#999"/>{ticks}'
        f'<text x="{left - 6}" y="24" text-anchor="end">{top:,}</text></svg>'
    )


def _lia_name(about: Mapping[str, Any]) -> str:
    return html.escape(str(about["lia"] or "a wrapped generator"))


def _left_out(reasons: Mapping[str, str]) -> str:
    items = "".join(f"<li>{html.escape(what)}: {html.escape(why)}" for what, why in reasons.items())
    return f"<h2>Not measured</h2><ul>{items}</ul>\n" if items else ""
