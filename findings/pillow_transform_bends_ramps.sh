#!/usr/bin/env bash
# Pillow's Image.transform truncates 8-bit values, and its bicubic kernel bends a straight ramp; Image.resize does neither.
#
# Versions: pillow 13.0.0, numpy 2.4.6; Python 3.11.
# Guess before the run: transform interpolates as resize does, with the same kernel for bicubic and with values that are rounded, so
#   that a ramp moved by a part of a pixel differs from the exact one by at most half a level, and by nothing on average.
# Seen: values are truncated: each is darker by the part of a level that it has, the ramp moved by a quarter of a pixel by half a
#   level, and noise moved by half a pixel by 0.38 levels on average. Bicubic of transform is another kernel than that of resize: its weights do not keep a straight line. Of a ramp of 30
#   levels a pixel, moved by a quarter or by three quarters of one, it is off by +2.5 and -3.5 levels; resize by at most half a
#   level. Whoever cuts faces out by their landmarks (FFHQ's way: transform with a quadrilateral) gets slightly darker pictures,
#   and with bicubic edges that wave with the place in a pixel.
# Output seen:
#   transform bilinear  moved 0.25: mean  -0.50  moved 0.50: mean   0.00  moved 0.75: mean  -0.50
#   transform bicubic   moved 0.25: mean   2.50  moved 0.50: mean   0.00  moved 0.75: mean  -3.50
#   resize bicubic      moved 0.25: worst   0.50  moved 0.50: worst   0.00  moved 0.75: worst   0.50
#   noise, bilinear, moved by half a pixel each way: mean -0.38
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pillow==13.0.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
from PIL import Image

SLOPE, WIDTH = 30, 8
ramp = Image.fromarray(np.tile((np.arange(WIDTH) * SLOPE + 10).astype(np.uint8), (8, 1)))


def error(moved, shift):
    """Of the columns in the middle, which have all their neighbours."""
    exact = np.arange(WIDTH) * SLOPE + 10 + SLOPE * shift
    return (moved[4] - exact)[2:5]


def transformed(kernel, shift):
    return np.asarray(ramp.transform(ramp.size, Image.Transform.AFFINE, (1, 0, shift, 0, 1, 0), kernel)).astype(float)


def resized(shift):
    box = (shift, 0, WIDTH - 1 + shift, 8)
    return np.pad(np.asarray(ramp.resize((WIDTH - 1, 8), Image.Resampling.BICUBIC, box)).astype(float), ((0, 0), (0, 1)))


same = True
for name, move, how, expected in (
    ("transform bilinear", lambda s: transformed(Image.Resampling.BILINEAR, s), "mean", (-0.5, 0.0, -0.5)),
    ("transform bicubic", lambda s: transformed(Image.Resampling.BICUBIC, s), "mean", (2.5, 0.0, -3.5)),
    ("resize bicubic", resized, "worst", (0.5, 0.5, 0.5)),
):
    found = []
    for shift in (0.25, 0.5, 0.75):
        off = error(move(shift), shift)
        found.append(off.mean() if how == "mean" else np.abs(off).max())
    print(f"{name:<19} " + "  ".join(f"moved {s:.2f}: {how} {v:6.2f}" for s, v in zip((0.25, 0.5, 0.75), found)))
    same &= all(v <= e + 0.01 if how == "worst" else abs(v - e) < 0.01 for v, e in zip(found, expected))

noise = np.random.default_rng(0).integers(0, 256, (256, 256), dtype=np.uint8)
moved = Image.fromarray(noise).transform((256, 256), Image.Transform.AFFINE, (1, 0, 0.5, 0, 1, 0.5), Image.Resampling.BILINEAR)
a = noise.astype(float)
exact = (a[:-1, :-1] + a[1:, :-1] + a[:-1, 1:] + a[1:, 1:]) / 4
bias = float((np.asarray(moved)[:-1, :-1] - exact).mean())
print(f"noise, bilinear, moved by half a pixel each way: mean {bias:.2f}")
sys.exit(not (same and abs(bias + 0.38) < 0.01))
PYTHON
