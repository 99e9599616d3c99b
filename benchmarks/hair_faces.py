"""Toy faces with their hair colour as the class, as a data-set zip: for a conditional checkpoint to measure on.

    python benchmarks/hair_faces.py hair.zip
    lia-adapt train toyfaces32 data=hair.zip split="not held out" c_dim=5 mapping=mlp images=200000 -o hair.safetensors
    python benchmarks/mapping.py hair.safetensors --fits 3

Classes are black, brown, auburn, blond, silver.
"""

import argparse
import io
import json
import zipfile
from pathlib import Path

from lia_adapter.data.toyfaces import FACTORS, ToyFaces

__all__ = ["write"]

_CLASSES = 5


def write(path: Path, count: int, side: int) -> None:
    """Writes faces 0, 1, ... and dataset.json.

    Args:
        path: Of the zip.
        count: Number of faces.
        side: Height and width.
    """
    faces = ToyFaces(range(count), (side, side), 3)
    colour = [factor.name for factor in FACTORS].index("hair_colour")
    labels = [
        [name, min(int(row[colour] * _CLASSES), _CLASSES - 1)] for name, row in zip(faces.names, faces.factors, strict=True)
    ]
    with zipfile.ZipFile(path, "w") as archive:
        for i, name in enumerate(faces.names):
            png = io.BytesIO()
            faces.original(i).save(png, "PNG")
            archive.writestr(name, png.getvalue())
        archive.writestr("dataset.json", json.dumps({"labels": labels}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--side", type=int, default=32)
    given = parser.parse_args()
    write(given.path, given.count, given.side)
