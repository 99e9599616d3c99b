"""The reports of `mix`, `interpolate` and `video`."""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lia_adapter.jobs.interpolate import PATH, SPACES
from lia_adapter.jobs.mix import MIX
from lia_adapter.jobs.video import figures_path
from lia_adapter.reports.page import html_picture, page_picture, row, unreadable_list, write_page

__all__ = ["film_words", "layer_words", "write_interpolate_report", "write_mix_report", "write_video_report"]


def write_mix_report(figures: Mapping[str, Any], grids: Mapping[str, bytes], folder: Path) -> Path:
    """Writes mix.html into the folder of `mix`.

    Args:
        figures: What `mix_styles` returned.
        grids: Likewise.
        folder: Where it wrote.

    Returns:
        The page.

    Raises:
        LIAError: The file cannot be written.
    """
    parts = "".join(
        f"<h2>{name.capitalize()}: {layer_words(figures['layers'][name])} from the row above</h2>\n"
        f"{html_picture(png, f'mixture of {name} layers')}\n"
        for name, png in grids.items()
    )
    page = f"""<h1>Mixtures of styles</h1>
<p>Drawn by {_name(figures)}, whose {figures["num_ws"]} layers each take a y. In each grid, on the left
{html.escape(figures["first"])}, above {html.escape(figures["second"])}, as the generator draws them; each other picture has the
layers named from the one above it, and all others from the one on its left.</p>
{parts}{unreadable_list(figures["unreadable"])}"""
    return write_page(folder / MIX, "Mixtures of styles", page)


def layer_words(layers: list[int]) -> str:
    """Layers in words.

    >>> layer_words([0, 1, 2, 3]), layer_words([5]), layer_words([0, 2, 3])
    ('layers 0-3', 'layer 5', 'layers 0, 2-3')
    """
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    names = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
    return f"layer{'s' if len(layers) > 1 else ''} {names}"


def write_interpolate_report(figures: Mapping[str, Any], folder: Path) -> Path:
    """Writes path.html into the folder of `interpolate`.

    Args:
        figures: What `interpolate_sources` returned.
        folder: Where it wrote, with path.png.

    Returns:
        The page.

    Raises:
        LIAError: The file cannot be written.
    """
    out, spaces = folder / PATH, list(figures["pairs"][0]["length"])
    rows = "".join(
        row(
            f"{html.escape(pair['from'])} → {html.escape(pair['to'])}",
            "",
            *(f"{pair['length'][space]:.4g}" for space in spaces),
        )
        for pair in figures["pairs"]
    )
    heads = "".join(f"<th>{SPACES[space].capitalize()}" for space in spaces)
    left_out = "".join(f"<p>There is no way through z. {html.escape(why)}</p>" for why in figures["left_out"].values())
    page = f"""<h1>From one picture to another</h1>
<p>Drawn by {_name(figures)}, {figures["steps"]} pictures a way. {" Below it, ".join(_ROWS[space] for space in spaces)}</p>
{left_out}{page_picture(out, "ways from one picture to another")}
<h2>How long the ways are</h2>
<p>The sum of the distances of each picture to the next: {html.escape(figures["measure"])}. On a shorter
way less happens, which is no proof that it is the better one. A perceptual distance is one of squares: its sum falls with more
steps, so that only figures of as many steps, by the same measure, compare.</p>
<table><tr><th>Pair{heads}</tr>{rows}</table>
{unreadable_list(figures["unreadable"])}"""
    return write_page(out, "From one picture to another", page)


_ROWS = {"y": "Each pair has a row that goes straight in y.", "z": "one along a great circle in z, where the prior has codes."}


def write_video_report(figures: Mapping[str, Any], sheet: bytes, out: Path) -> Path:
    """Writes the page of `video` beside the film.

    Args:
        figures: What `write_film` returned.
        sheet: Likewise.
        out: The film.

    Returns:
        The page.

    Raises:
        LIAError: The file cannot be written.
    """
    unreadable = figures.get("unreadable", {})
    page = f"""<h1>{html.escape(figures["file"])}</h1>
<p>{figures["count"]:,} frames of {figures["width"]} x {figures["height"]} at {figures["fps"]:g} a second, drawn by
{_name(figures)}: {html.escape(film_words(figures))}.</p>
<p>{len(figures["shown"])} of them, in order:</p>
{html_picture(sheet, "frames of the video")}
{unreadable_list(unreadable)}"""
    return write_page(figures_path(out), figures["file"], page)


def film_words(figures: Mapping[str, Any]) -> str:
    """What a film shows, in words."""
    if figures["kind"] == "walk":
        return f"a closed walk through z, seed {figures['seed']}"
    if figures["kind"] == "directions":
        ways = ", ".join(f"{name} ± {abs(amount):g}" for name, amount in figures["move"].items())
        kept = f", {', '.join(figures['keep'])} kept" if figures["keep"] else ""
        return f"{', '.join(figures['names'])} along {ways} standard deviations{kept}, there and back"
    if figures["kind"] == "footage":
        how = f"smoothed in {figures['space']} over {figures['smooth']:g} frames" if figures["smooth"] else "not smoothed"
        sound = ", with its sound" if figures.get("sound") else ""
        if figures.get("sound") is False:
            sound = ", without its sound, for which .mp4 and .webm have a place"
        return f"{figures['sources'][0]}, each frame encoded, {how}, and pasted back{sound}"
    closed = ", closed" if figures["loop"] else ""
    why = f". {figures['z_left_out']}" if figures["z_left_out"] else ""
    return f"a spline in {figures['space']} through {len(figures['names'])} key frames{closed}{why.rstrip('.')}"


def _name(figures: Mapping[str, Any]) -> str:
    return html.escape(str(figures["lia"] or "a wrapped generator"))
