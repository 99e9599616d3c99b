"""The reports of `reconstruct`, `invert` and `evaluate`: a picture, a page and figures each."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lia_adapter.data import open_images
from lia_adapter.errors import LIAError
from lia_adapter.lia import LIA
from lia_adapter.report import html_page, html_picture, paired_grid, png_bytes, write_report
from lia_adapter.resize import resize

__all__ = ["write_evaluate_report", "write_invert_report", "write_reconstruct_report"]

_SHOWN = 8  # images of a kind


def write_reconstruct_report(out: Path, figures: Mapping[str, Any], sets: Sequence[Tensor]) -> dict[str, Path]:
    """Writes what `reconstruct` made beside `out`.

    Args:
        out: See `report_paths`.
        figures: What `reconstruct_images` returns.
        sets: Originals, where they are at hand, and reconstructions, each [n, C, H, W].

    Returns:
        The three paths by ending.

    Raises:
        LIAError: A file cannot be written.
    """
    picture = png_bytes(paired_grid(*sets))
    kinds = "the originals above, what the generator draws of them below" if len(sets) > 1 else "what the generator draws"
    error = figures["mse"]
    known = f", with a mean squared error of {error:.4f} on the scale of -1 to 1" if error is not None else ""
    page = f"""<h1>Reconstructions</h1>
<p>{figures["count"]:,} images of {html.escape(figures["source"])}, drawn by {_lia_name(figures)}{known}.
{html.escape(figures["originals"] or "")}</p>
<p>The first {len(sets[0])}: {kinds}.</p>
{html_picture(picture, "originals and reconstructions")}
{_unreadable(figures["unreadable"])}"""
    return write_report(out, picture, html_page("Reconstructions", page), figures)


def write_invert_report(out: Path, figures: Mapping[str, Any], sets: Sequence[Tensor]) -> dict[str, Path]:
    """Writes what `invert` found beside `out`.

    Args:
        out: The file of codes.
        figures: Their `about`, mean figures, figures of_each image and the unreadable ones.
        sets: Originals, starts and results, each [n, C, H, W].

    Returns:
        The three paths by ending.

    Raises:
        LIAError: A file cannot be written.
    """
    about, means, count = figures["about"], figures["mean"], len(figures["of_each"]["name"])
    picture = png_bytes(paired_grid(*sets))
    loss = html.escape(f"pixels and {about['features']}" if about["features"] else "pixels alone")
    rows = [
        _row("Loss", f"Mean over the images; compared are {loss}.", f"{means['start_loss']:.4f} → {means['loss']:.4f}"),
        _row("Squared error", "Mean over the images, on the scale of -1 to 1.", f"{means['mse']:.4f}"),
        _row(
            "Size of z", "Mean |z|² / D; 1 is usual, and the larger it is, the less the code is one that the prior draws.",
            f"{means['z_size']:.3g}",
        ),
    ]  # fmt: skip
    if about["encoder_sha256"] is not None:
        rows.append(
            _row("Typicality", "Mean rank among the codes of training images; 0.5 is usual.", f"{means['typicality']:.2f}")
        )
    page = f"""<h1>Codes found by optimisation</h1>
<p>{count:,} images of {html.escape(about["data"])}, drawn by {_lia_name(about)}: {about["steps"]:,} steps in
{about["space"]}, from {_STARTS[about["start"]]}.</p>
<p>The first {len(sets[0])}, in rows of three: the originals, the start, and what was found.</p>
{html_picture(picture, "originals, starts and results")}
<h2>Figures</h2>
<table><tr><th>Measure<th>Value</tr>{"".join(rows)}</table>
{_unreadable(figures["unreadable"])}"""
    return write_report(out, picture, html_page(out.name, page), figures)


_STARTS = {"encoder": "the encoder's codes", "mean": "the mean", "random": "random codes"}


def write_evaluate_report(lia: LIA, figures: Mapping[str, Any], out: Path) -> dict[str, Path]:
    """Writes what `evaluate` measured beside `out`, with the best, typical and worst reconstructions.

    Args:
        lia: That was measured.
        figures: What `evaluate` returned.
        out: The .json.

    Returns:
        The three paths by ending.

    Raises:
        LIAError: A file cannot be written, or an image not be read again.
    """
    measure = "perceptual" if "perceptual" in figures["of_each"] else "mse"
    order = torch.tensor(figures["of_each"][measure]).argsort(stable=True).tolist()
    n = min(_SHOWN, len(order))
    middle = (len(order) - n) // 2
    chosen = {"Typical": order[middle : middle + n], "Best": order[:n], "Worst": order[-n:][::-1]}
    sets = {title: _redrawn(lia, figures, places) for title, places in chosen.items()}
    by = "perceptual distance" if measure == "perceptual" else "squared error"
    pictures = "".join(
        f"<h3>{title}</h3>\n{html_picture(png_bytes(paired_grid(*pair)), f'{title} reconstructions')}\n"
        for title, pair in sets.items()
    )
    images, typicality, answer = figures["images"], figures["typicality"], figures["known_answer"]
    versions = ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    page = f"""<h1>How well {_lia_name(figures)} redraws images</h1>
<p>{images["count"]:,} images of {html.escape(images["data"])} (split: {html.escape(images["split"])}), encoded in one pass and
drawn again. {_verdict(figures["mse"], answer["mse"])}</p>
<h2>Originals above, reconstructions below</h2>
<p>The best and the worst by {by}, and those in the middle.</p>
{pictures}
<h2>Figures</h2>
<table><tr><th>Measure<th>Value</tr>{_evaluate_rows(figures)}</table>
<h2>How usual the images are</h2>
<p>Each image's code has a rank among the codes of the training images: at 0.3, 70 % of them are more usual. Images of the same
kind fill all ranks alike (the dashed line); those of another kind crowd at 0. {typicality["unusual"]:.1%} lie below 0.01, where
1 % is to be expected.</p>
{_histogram(typicality["histogram"])}
{_left_out(figures["left_out"])}{_unreadable(images["unreadable"])}
<p class="dim">Measured in {figures["seconds"]:.0f} s; {html.escape(versions)}.
Generator {figures["generator_sha256"][:12]}, encoder {figures["encoder_sha256"][:12]}, images {images["identity"][:12]}.</p>"""
    whole = png_bytes(paired_grid(*(torch.cat(part) for part in zip(*sets.values(), strict=True))))
    return write_report(out, whole, html_page(out.name, page), figures)


def _verdict(real: float, drawn: float) -> str:
    """Whose fault an error is: with images that the generator can draw, it is the encoder's."""
    return (
        f"They come back with a mean squared error of {real:.4f}; images that the generator itself drew, with {drawn:.4f}. "
        "The second is the encoder's own error; the rest is of images that the generator may not be able to draw."
    )


def _evaluate_rows(figures: Mapping[str, Any]) -> str:
    swd, frechet, answer = figures["swd"], figures["frechet"], figures["known_answer"]
    by = html.escape(f"Features: {frechet['features']}.")
    rough = {
        name: f"<br><small>{low:.3g} to {high:.3g} (95 %): so few images that it is rough, and larger than of many</small>"
        for name, (low, high) in frechet.get("interval", {}).items()
    }
    rows = [
        _row("Squared error (MSE)", "Mean over pixels, on the scale of -1 to 1; 0 is the same image.", f"{figures['mse']:.4f}"),
        _row("PSNR", "The same in decibels; more is better.", f"{figures['psnr']:.2f} dB"),
        _row("SSIM", "Likeness of structure in small windows; 1 is the same image.", f"{figures['ssim']:.4f}"),
    ]
    if "perceptual" in figures:
        text = f"Difference of what a network sees (LPIPS without learned weights); 0 is the same image. {figures['network']}."
        rows.append(_row("Perceptual distance", html.escape(text), f"{figures['perceptual']:.4f}"))
    levels = ", ".join(f"{level} px: {value:.2f}" for level, value in swd["levels"].items())
    rows += [
        _row(
            "Patches (SWD)",
            f"Sliced Wasserstein distance × 1000 between patches of {swd['images']:,} images and their reconstructions, "
            f"at each scale ({levels}); 0 is no difference.",
            f"{swd['mean']:.2f}",
        ),
        _row(
            "Reconstructions as a set",
            f"Fréchet distance to the images; only figures by the same features and number of images compare. {by}",
            f"{frechet['reconstructions']:.4g}{rough.get('reconstructions', '')}",
        ),
        _row(
            "Random samples as a set",
            f"Fréchet distance from images of as many random z to the images: how like them the generator draws. {by}",
            f"{frechet['samples']:.4g}{rough.get('samples', '')}",
        ),
    ]
    if "path_length" in figures:
        path = figures["path_length"]
        for space, shape in (("z", "an arc"), ("y", "a straight line")):
            text = (
                f"How unevenly the image changes along {shape} between random codes ({path['pairs']:,} pairs); less is better."
            )
            rows.append(_row(f"Path length in {space}", text, f"{path[space]:.1f}"))
    rows += [
        _row(
            "There and back", "Largest error of y → z → y over the images' codes, in standard deviations of y.",
            f"{figures['round_trip']:.1e}",
        ),
        _row(
            "Known answers",
            f"{answer['images']:,} drawn images are encoded: correlation of the y found with the true one, on the "
            f"{answer['directions']} directions that make 90 % of what moves pixels; 1 is perfect.",
            f"{answer['correlation']:.3f}",
        ),
        _row(
            "Size of z", "Median |z|² / D of the images' codes; the prior's own is 1.",
            f"{figures['typicality']['z_size']:.3g}",
        ),
    ]  # fmt: skip
    return "".join(rows)


def _redrawn(lia: LIA, figures: Mapping[str, Any], places: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Some images and their reconstructions, by their places in the figures."""
    g, about = lia.generator, figures["images"]
    images = open_images(
        about["data"], g.resolution, g.channels, fit=about["fit"], split=about["split"], bits=about.get("bits")
    )
    number = {name: i for i, name in enumerate(images.names)}
    x = []
    for place in places:
        item = images.load(number[figures["of_each"]["name"][place]])
        if item is None:
            name, why = next(iter(images.unreadable.items()))
            raise LIAError(f"cannot read {name!r} of {images.path} any more: {why}. Run lia-adapt evaluate again.")
        x.append(item.x)
    pairs = [(image[None], lia.reconstruct(image[None]).cpu()) for image in x]  # one by one: few, and maybe large
    return torch.cat([resize(a) for a, _ in pairs]), torch.cat([resize(b) for _, b in pairs])


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


def _row(title: str, text: str, value: str) -> str:
    return f'<tr><td><b>{title}</b><br><small>{text}</small><td class="n">{value}</tr>'


def _lia_name(about: Mapping[str, Any]) -> str:
    return html.escape(str(about["lia"] or "a wrapped generator"))


def _left_out(reasons: Mapping[str, str]) -> str:
    items = "".join(f"<li>{html.escape(what)}: {html.escape(why)}" for what, why in reasons.items())
    return f"<h2>Not measured</h2><ul>{items}</ul>\n" if items else ""


def _unreadable(reasons: Mapping[str, str]) -> str:
    items = "".join(f"<li>{html.escape(name)}: {html.escape(why)}" for name, why in reasons.items())
    return f"<h2>Images that could not be read</h2><ul>{items}</ul>" if items else ""
