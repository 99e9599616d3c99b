#!/usr/bin/env bash
# Of frames that come from an iterator, Pillow writes a GIF and a WebP whole, and of an APNG the first frame alone, without an error.
#
# Versions: pillow 13.0.0; Python 3.11.
# Guess before the run: GIF and APNG merge frames that repeat and WebP keeps all 8; a list and an iterator give the same file;
#   durations add up to 8 x 40 ms.
# Seen: all three merge frames that repeat and keep the time that they last, so that the number of frames in a file is not the number
#   given. APNG looks through append_images twice, so that of an iterator nothing is left for the second time: the file is an
#   ordinary PNG of the first frame, and no error is raised. Whoever films a walk through a generator's codes by a generator
#   expression gets a film as .gif and .webp, and a still as .png.
# Output seen:
#   GIF  list      6 frames, 320 ms
#   GIF  iterator  6 frames, 320 ms
#   PNG  list      6 frames, 320 ms
#   PNG  iterator  1 frames
#   WEBP list      6 frames, 320 ms
#   WEBP iterator  6 frames, 320 ms
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pillow==13.0.0
"$folder/venv/bin/python" - <<'PYTHON'
import io
import sys

from PIL import Image, ImageSequence

frames = [Image.new("RGB", (16, 16), (30 * i, 0, 0)) for i in (0, 1, 1, 2, 3, 3, 4, 5)]
seen = []
for kind in ("GIF", "PNG", "WEBP"):
    for given, rest in (("list", frames[1:]), ("iterator", (frame for frame in frames[1:]))):
        file = io.BytesIO()
        frames[0].save(file, kind, save_all=True, append_images=rest, duration=40, loop=0)
        times = []
        with Image.open(io.BytesIO(file.getvalue())) as film:
            for frame in ImageSequence.Iterator(film):
                frame.load()
                times.append(frame.info.get("duration"))
        total = "" if None in times else f", {sum(times):.0f} ms"
        seen.append(f"{kind:<4} {given:<9} {len(times)} frames{total}")
        print(seen[-1])
expected = """GIF  list      6 frames, 320 ms
GIF  iterator  6 frames, 320 ms
PNG  list      6 frames, 320 ms
PNG  iterator  1 frames
WEBP list      6 frames, 320 ms
WEBP iterator  6 frames, 320 ms""".splitlines()
sys.exit(seen != expected)
PYTHON
