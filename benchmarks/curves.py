"""Fréchet distances while generators were trained, in one plot with common axes.

    python benchmarks/curves.py additive.safetensors mlp.safetensors [-o benchmarks/curves.svg]

Each file is one that `lia-adapt train` wrote; its curve is in it. The distances are only comparable where the features and the
number of images behind them are the same, which is checked.
"""

import argparse
import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from lia_adapter.lia_file import read_header

__all__ = ["plot"]

_COLOURS = ("#1f6fb4", "#d0661c", "#3a8f4d", "#8a4fb0")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 380, 70, 50, 20, 50


def plot(curves: Mapping[str, Sequence[tuple[float, float]]], what: str) -> str:
    """An SVG of curves over the images seen, on a logarithmic scale.

    Args:
        curves: (images, distance) in order, by name.
        what: What the distances are of.
    """
    points = [point for curve in curves.values() for point in curve]
    most = max(images for images, _ in points)
    low, high = (math.log10(pick(value for _, value in points)) for pick in (min, max))
    across, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(images: float) -> float:
        return _LEFT + across * images / most

    def y(value: float) -> float:
        return _TOP + tall * (high - math.log10(value)) / ((high - low) or 1)

    drawn = []
    for power in range(math.floor(low), math.ceil(high) + 1):
        for digit in (1, 2, 5):
            value = digit * 10.0**power
            if low <= math.log10(value) <= high:
                drawn.append(f'<path d="M{_LEFT} {y(value):.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
                drawn.append(f'<text x="{_LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:,.0f}</text>')
    for part in range(5):
        images = most * part / 4
        label = f"{images:,.0f}" if part < 4 else f"{images:,.0f} images"
        drawn.append(f'<text x="{x(images):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{label}</text>')
    for i, (name, curve) in enumerate(curves.items()):
        colour, line = _COLOURS[i % len(_COLOURS)], " ".join(f"{x(images):.1f},{y(value):.1f}" for images, value in curve)
        drawn.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{line}"/>')
        drawn.append(
            f'<text x="{_WIDTH - _RIGHT}" y="{_TOP + 18 + 18 * i}" text-anchor="end" fill="{colour}">'
            f"{html.escape(name)}: {curve[-1][1]:,.0f}</text>"
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(drawn)}'
        f'<text x="{_LEFT}" y="{_HEIGHT - 8}" font-size="10">{html.escape(what)}</text></svg>'
    )


def main() -> None:
    """Reads the files, prints the curves and writes the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("curves.svg"))
    args = parser.parse_args()
    curves, measures = {}, set()
    for path in args.files:
        header = read_header(path)
        recipe, measured = header["provenance"]["training"]["recipe"], header["metrics"]["training"]
        name = recipe["mapping"]
        curves[name if name not in curves else path.stem] = measured["curve"]
        measures.add(f"Fréchet distance ({measured['features']}; {recipe['metric_images']:,} images)")
    if len(measures) > 1:
        parser.error("these are different distances:\n" + "\n".join(sorted(measures)))
    for name, curve in curves.items():
        print(name, " ".join(f"{images / 1000:.0f}k:{value:,.0f}" for images, value in curve))
    args.out.write_text(plot(curves, measures.pop()))


if __name__ == "__main__":
    main()
