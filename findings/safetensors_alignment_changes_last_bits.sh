#!/usr/bin/env bash
# The length of a safetensors file's metadata text decides the last bits of what a dense layer answers for a single sample.
#
# Versions: torch 2.14.1 (CPU, MKL), safetensors 0.8.0, numpy 2.4.6; Python 3.11; x86-64 with AVX-512.
# Guess before the run: weights that compare equal bit for bit give answers that are equal bit for bit, on one machine, at one batch
#   size, with one thread.
# Seen: safe_open maps the file, and its tensors begin where the header happens to end: at a multiple of 8 bytes, not of 16. For a
#   single sample, F.linear runs a matrix-vector kernel whose order of additions depends on whether the weight lies at a multiple
#   of 16. So the same weights, saved with a metadata text of another length, give other last bits; from two samples on they do
#   not. A "bit-identical" test of a saved and reloaded network may pass or fail with the text of a version number. A clone() after
#   reading cures it.
# Output seen:
#   text of  4 bytes: weight at 0 modulo 16, equal to what was saved: True; one sample equal: True, two samples equal: True
#   text of  8 bytes: weight at 8 modulo 16, equal to what was saved: True; one sample equal: False, two samples equal: True
#   (and so on, by turns)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 safetensors==0.8.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import safetensors
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.set_num_threads(1)
torch.manual_seed(0)
weight, one, two = torch.randn(512, 512), torch.randn(1, 512), torch.randn(2, 512)
found = set()
for length in range(0, 32, 4):
    save_file({"weight": weight}, "w.safetensors", metadata={"text": "x" * length})
    with safetensors.safe_open("w.safetensors", "pt") as file:
        read = file.get_tensor("weight")
    place = read.data_ptr() % 16
    same = torch.equal(read, weight)
    alone = torch.equal(F.linear(one, read), F.linear(one, weight))
    together = torch.equal(F.linear(two, read), F.linear(two, weight))
    cloned = torch.equal(F.linear(one, read.clone()), F.linear(one, weight))
    print(
        f"text of {length:2} bytes: weight at {place} modulo 16, equal to what was saved: {same}; "
        f"one sample equal: {alone}, two samples equal: {together}"
    )
    found.add((place, same, alone, together, cloned))
if found != {(0, True, True, True, True), (8, True, False, True, True)}:
    sys.exit(f"this has changed: {sorted(found)}")
PYTHON
