#!/usr/bin/env bash
# A shard of torch.distributed.checkpoint (.distcp) looks like a torch zip file, and is many of them one after the other.
#
# Versions: torch 2.14.1, numpy 2.4.6; Python 3.11; one process, no GPU.
# Guess before the run: torch.load reads such a shard, which begins and ends as its own files do, and gives its last tensor, as the
#   directory of a zip file stands at the end.
# Seen: Python's zipfile opens a shard without a word and shows its last tensor alone. torch.load gives the first tensor of a small
#   one, also without a word, and calls a larger one, as valid as the other, corrupted. So two readers see two different tensors in
#   one file, and neither says that there are more.
# Output seen:
#   3 tensors, 3 zip files in the shard; zipfile shows 20 bytes of numbers; torch.load: a tensor of 3
#   40 tensors, 40 zip files in the shard; zipfile shows 168 bytes of numbers; torch.load: RuntimeError, corrupted
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys
import zipfile
from pathlib import Path

import torch
import torch.distributed.checkpoint as checkpoint


def look(count):
    """How a shard of so many tensors, of 3, 4, 5, ... float32 numbers, is seen."""
    shards = Path(sys.argv[1]) / f"of{count}"
    checkpoint.save({f"t{i:02d}": torch.zeros(3 + i) for i in range(count)}, checkpoint_id=shards)
    (shard,) = shards.glob("*.distcp")
    ends = shard.read_bytes().count(b"PK\5\6")
    with zipfile.ZipFile(shard) as opened:
        (size,) = [entry.file_size for entry in opened.infolist() if "/data/" in entry.filename]
    try:
        read = f"a tensor of {torch.load(shard, weights_only=True).numel()}"
    except RuntimeError as error:
        read = "RuntimeError, corrupted" if "corrupt" in str(error) else f"RuntimeError, {str(error)[:80]}"
    print(f"{count} tensors, {ends} zip files in the shard; zipfile shows {size} bytes of numbers; torch.load: {read}")
    return ends, size, read


found = look(3), look(40)
if found != ((3, 4 * 5, "a tensor of 3"), (40, 4 * 42, "RuntimeError, corrupted")):
    sys.exit("this has changed")
PYTHON
