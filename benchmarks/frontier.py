"""Seeds against the prior: how much of a z's picture a mapping keeps, over how well its z are told from N(0, I).

    python benchmarks/frontier.py flow=flow.json dense=dense.json ... [-o docs/frontier.svg]

Each file is one that `benchmarks/mapping.py --json` wrote for one checkpoint; of each coupling in it, a point is the mean over
fits.
"""

import argparse
import html
import json
from collections.abc import Mapping
from pathlib import Path

__all__ = ["plot"]

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 400, 70, 160, 20, 60
_COLOUR = "#1f6fb4"
_LABEL = (60, 14)  # width and height of a label, about


def plot(points: Mapping[str, tuple[float, float]]) -> str:
    """An SVG of points by name: accuracy above chance, 0 to 0.5, and seeds kept, 0 to 1."""

    def x(told: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * max(0.0, min(0.5, told)) / 0.5

    def y(seeds: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - max(0.0, min(1.0, seeds)))

    drawn = []
    for part in range(6):
        told, seeds = part / 10, part / 5
        drawn += [
            f'<path d="M{_LEFT} {y(seeds):.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>',
            f'<text x="{_LEFT - 8}" y="{y(seeds) + 4:.1f}" text-anchor="end">{seeds:.1f}</text>',
            f'<text x="{x(told):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{told:.1f}</text>',
        ]
    labels: list[tuple[float, float]] = []
    for name, (told, seeds) in sorted(points.items(), key=lambda item: item[1]):
        left, top = x(told) + 9, y(seeds) + 4
        while any(abs(left - a) < _LABEL[0] and abs(top - b) < _LABEL[1] for a, b in labels):
            top -= _LABEL[1]  # above those of points that are near
        labels.append((left, top))
        drawn += [
            f'<circle cx="{x(told):.1f}" cy="{y(seeds):.1f}" r="5" fill="{_COLOUR}"/>',
            f'<text x="{left:.1f}" y="{top:.1f}">{html.escape(name)}</text>',
        ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(drawn)}'
        f'<text x="{_LEFT}" y="{_HEIGHT - 20}">z told from N(0, I), accuracy above chance (0 is right, 0.5 is always)</text>'
        f'<text x="14" y="{_TOP + 12}" transform="rotate(-90 14 {_TOP + 12})" text-anchor="end">seeds kept (whitened y)</text>'
        "</svg>"
    )


def main() -> None:
    """Reads the files, prints the points and writes the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="NAME=FILE")
    parser.add_argument("-o", "--out", type=Path, default=Path("frontier.svg"))
    args = parser.parse_args()
    points = {}
    for item in args.files:
        name, _, path = item.partition("=")
        (couplings,) = json.loads(Path(path).read_text()).values()
        for coupling, runs in couplings.items():
            told = sum(run["z_classifier"]["excess"] for run in runs) / len(runs)
            seeds = sum(run["seeds_white"]["value"] for run in runs) / len(runs)
            points[name if len(couplings) == 1 else f"{name}, {coupling}"] = told, seeds
            print(f"{name}, {coupling}: told {told:+.3f}, seeds {seeds:.3f}")
    args.out.write_text(plot(points))


if __name__ == "__main__":
    main()
