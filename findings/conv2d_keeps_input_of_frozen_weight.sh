#!/usr/bin/env bash
# torch's convolutions keep their input for the backward pass even where the weight is frozen; matrix products do not.
#
# Versions: torch 2.14.1, numpy 2.4.6; Python 3.11; CPU.
# Guess before the run: autograd drops the input of a convolution whose weight needs no gradient, as it does for a matrix product,
#   because the gradient with respect to the input needs the weight alone.
# Seen: the input is kept in both cases. For a matrix product it is kept only where the weight is trained. Whoever optimises the
#   input of a frozen network (GAN inversion, adversarial examples, feature visualisation) pays for every layer's input: in a
#   StyleGAN2 of 1024 x 1024 some 400 MB for one picture.
# Output seen:
#   conv2d            frozen: kept 16.0 MiB beside the weight    trained: kept 16.0 MiB
#   conv_transpose2d  frozen: kept 16.0 MiB beside the weight    trained: kept 16.0 MiB
#   matmul            frozen: kept 0.0 MiB beside the weight    trained: kept 16.0 MiB
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.14.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
import torch.nn.functional as F


def kept(operation, weight, trained):
    """MiB that a graph keeps beside the weight itself."""
    x = torch.randn(1, 64, 256, 256, requires_grad=True)
    weight = weight.detach().requires_grad_(trained)
    sizes = []

    def pack(t):
        if t.untyped_storage().data_ptr() != weight.untyped_storage().data_ptr():
            sizes.append(t.numel() * t.element_size())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        operation(x, weight)
    return sum(sizes) / 2**20


cases = {
    "conv2d": (lambda x, w: F.conv2d(x, w, padding=1), torch.randn(64, 64, 3, 3)),
    "conv_transpose2d": (lambda x, w: F.conv_transpose2d(x, w, stride=2), torch.randn(64, 64, 3, 3)),
    "matmul": (lambda x, w: x.flatten(2).transpose(1, 2) @ w, torch.randn(64, 64)),
}
found = {}
for name, (operation, weight) in cases.items():
    frozen, trained = kept(operation, weight, False), kept(operation, weight, True)
    found[name] = (round(frozen, 1), round(trained, 1))
    print(f"{name:<17} frozen: kept {frozen:.1f} MiB beside the weight    trained: kept {trained:.1f} MiB")
expected = {"conv2d": (16.0, 16.0), "conv_transpose2d": (16.0, 16.0), "matmul": (0.0, 16.0)}
if found != expected:
    sys.exit(f"this has changed: expected {expected}")
PYTHON
