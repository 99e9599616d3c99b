"""Attributes of images: from data sets that know them, and from tables that people write."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lia_adapter.data import ImageSet, open_images
from lia_adapter.data.attributes import read_attributes
from lia_adapter.data.toyfaces import FACTORS
from lia_adapter.errors import LIAError
from tests import toys


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    toys.pictures(tmp_path / "in" / "sub", 3)
    return open_images(tmp_path / "in", (8, 8), 3)


def table(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "a.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "rows",
    [
        "sub/000.png,1,2\nsub/001.png,3,4\nsub/002.png,5,6",
        "002.png,5,6\n000.png,1,2\n001.png,3,4\n",
        "000,1,2\r\n001,3,4\r\n002,5,6\r\n",
        '"sub/000.png","1","2"\n"001",3,4\n002.png , 5 , 6',
        "\n000,1,2\n\n001,3,4\n002,5,6\nnot there,7,8\n",
    ],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_table_names_images_in_several_ways(tmp_path: Path, images: ImageSet, rows: str, mark: str) -> None:
    names, values = read_attributes(images, table(tmp_path, f'{mark}image,smile,"age, in years"\n{rows}'))
    assert names == ("smile", "age, in years")
    assert values.tolist() == [[1, 2], [3, 4], [5, 6]] and values.dtype == torch.float64


def test_what_a_table_does_not_tell_is_nan(tmp_path: Path, images: ImageSet) -> None:
    _, values = read_attributes(images, table(tmp_path, "image,a,b\n000,,2\n002,-1e3, "))
    expected = [[math.nan, 2], [math.nan, math.nan], [-1000, math.nan]]
    assert np.array_equal(values.numpy(), np.array(expected), equal_nan=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no table"),
        ("image,a", "has no table"),
        ("image\n000\n", "has no table"),
        ("image;a\n000;1\n", "has no table"),
        ("image,a\n000,1,2\n", "has 3 columns for '000'; expected 2"),
        ("image,a,b\n000,1\n", "has 2 columns for '000'; expected 3"),
        ("image,a\n000,yes\n", "says 'a' = 'yes' of '000'; expected a number, or nothing"),
        ("image,a\nx,1\ny,2\n", "names none of the images of .*, such as 'sub/000.png'"),
        ("image,a\n000,\n001,\n", "has no number for any of the images"),
        ("image,a,a\n000,1,2\n", "two columns 'a'"),
        ("image,a,\n000,1,2\n", "no name for column 3"),
        ("image,a\n000,1\n".encode("utf-16"), "cannot read .* as a CSV"),
        (b"image,a\n\xff\xfe,1\n", "cannot read .* as a CSV"),
        ("image,a\n000," + "1" * 200_000 + "\n", "cannot read .* as a CSV"),
    ],
)
def test_tables_of_no_use(tmp_path: Path, images: ImageSet, text: str | bytes, words: str) -> None:
    with pytest.raises(LIAError, match=words) as caught:
        read_attributes(images, table(tmp_path, text))
    assert len(str(caught.value)) < 500


def test_a_table_that_is_not_there(tmp_path: Path, images: ImageSet) -> None:
    with pytest.raises(LIAError, match="there is no file"):
        read_attributes(images, tmp_path / "a.csv")
    with pytest.raises(LIAError, match="cannot read"):
        read_attributes(images, tmp_path)


def labelled(tmp_path: Path, labels: list[object]) -> ImageSet:
    folder = toys.pictures(tmp_path / "labelled", len(labels))
    pairs = [[f"{i:03d}.png", label] for i, label in enumerate(labels)]
    (folder / "dataset.json").write_text(json.dumps({"labels": pairs}))
    return open_images(folder, (8, 8), 3, split="last 2")


def test_labels_of_a_data_set(tmp_path: Path) -> None:
    names, values = read_attributes(labelled(tmp_path / "two", [0, 1, 0, 1]))
    assert names == ("label",) and values.tolist() == [[0], [1]]
    # Classes are those of all images, whatever the split; here of the last two.
    names, values = read_attributes(labelled(tmp_path / "many", [5, 2, 7, 5, 2]))
    assert values.shape == (2, len(names))
    names, values = read_attributes(labelled(tmp_path / "lists", [[0.5, 1], [2, 3], [4, 5]]))
    assert names == ("label-1", "label-2") and values.tolist() == [[2, 3], [4, 5]]


def test_images_without_labels(images: ImageSet) -> None:
    with pytest.raises(LIAError, match="holds no labels. Give a CSV by labels, or a scorer by scorer"):
        read_attributes(images)


def test_too_many_classes(tmp_path: Path) -> None:
    folder = toys.pictures(tmp_path / "in", 60)
    (folder / "dataset.json").write_text(json.dumps({"labels": [[f"{i:03d}.png", i] for i in range(60)]}))
    with pytest.raises(LIAError, match="has 60 classes; expected at most 50"):
        read_attributes(open_images(folder, (8, 8), 3))


def test_toy_faces_know_their_factors() -> None:
    names, values = read_attributes(open_images("toyfaces:40", (16, 16), 3))
    assert names == tuple(factor.name for factor in FACTORS) and values.shape == (40, len(FACTORS))
    assert bool(values.isfinite().all()) and float(values.std(dim=0).min()) > 0
