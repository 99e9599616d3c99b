"""Jobs that learn from photographs or measure on them cut faces out alike: as if the faces had been cut out before."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from lia_adapter.data import open_images
from lia_adapter.errors import ConfigError
from lia_adapter.jobs.compare import compare
from lia_adapter.jobs.encode import encode
from lia_adapter.jobs.evaluate import evaluate
from lia_adapter.jobs.train_encoder import train_encoder_lia
from lia_adapter.lia import LIA
from tests import toys
from tests.jobs.test_train_encoder import config, converted

COUNT = 24


@pytest.fixture(scope="module")
def lia() -> LIA:
    return toys.with_encoder(toys.stylegan())


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.pictures(tmp_path_factory.mktemp("photographs") / "in", COUNT, (40, 60))


@pytest.fixture(scope="module")
def landmarks(photographs: Path) -> Path:
    face = [[26, 15], [34, 18], [29, 20], [25, 24], [31, 26]]
    names = sorted(path.name for path in photographs.iterdir())
    file = photographs.parent / "landmarks.json"
    file.write_text(json.dumps({name: [[x + i % 7, y - i % 5] for x, y in face] for i, name in enumerate(names)}))
    return file


@pytest.fixture(scope="module")
def faces(lia: LIA, photographs: Path, landmarks: Path) -> Path:
    """What the reader cuts out, as pictures of the generator's size."""
    folder, g = photographs.parent / "faces", lia.generator
    folder.mkdir()
    images = open_images(photographs, g.resolution, g.channels, align="ffhq", landmarks=landmarks)
    for i, name in enumerate(images.names):
        item = images.load(i)
        assert item is not None
        Image.fromarray(item.pixels.permute(1, 2, 0).numpy()).save(folder / name)
    return folder


def test_evaluate(lia: LIA, photographs: Path, landmarks: Path, faces: Path, tmp_path: Path) -> None:
    aligned = evaluate(lia, photographs, align="ffhq", landmarks=landmarks, out=tmp_path / "e.json")
    before = evaluate(lia, faces)
    assert aligned["of_each"]["mse"] == before["of_each"]["mse"] and aligned["images"]["align"] == "ffhq"
    assert evaluate(lia, photographs)["mse"] != aligned["mse"]


def test_compare(lia: LIA, photographs: Path, landmarks: Path, faces: Path, tmp_path: Path) -> None:
    codes = tmp_path / "codes.safetensors"
    encode(lia, photographs, codes, align="ffhq", landmarks=landmarks)
    of = compare(lia, photographs, codes={"codes": codes}, also={"faces": faces}, align="ffhq", landmarks=landmarks)
    mse = {name: method["figures"]["mse"]["value"] for name, method in of["methods"].items()}
    assert mse["codes"] == pytest.approx(mse["encoder"]) and mse["faces"] == 0
    with pytest.raises(ConfigError, match="aligned as ffhq has them, and compare reads these cut by crop"):
        compare(lia, photographs, codes={"codes": codes})
    encode(lia, photographs, codes)
    with pytest.raises(ConfigError, match="cut by crop, and compare reads these aligned as ffhq has them"):
        compare(lia, photographs, codes={"codes": codes}, align="ffhq", landmarks=landmarks)


def test_train_encoder(photographs: Path, landmarks: Path, faces: Path, tmp_path: Path) -> None:
    found = train_encoder_lia(converted(), photographs, config(align="ffhq", landmarks=str(landmarks)), folder=tmp_path)
    before = train_encoder_lia(converted(), faces, config())
    assert found.encoder is not None and before.encoder is not None
    ours, theirs = found.encoder.state_dict(), before.encoder.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    moved = landmarks.rename(tmp_path / "elsewhere.json")  # a run goes on by what is in the file
    seen: list[int] = []
    train_encoder_lia(
        converted(), photographs, config(align="ffhq", landmarks=str(moved)), folder=tmp_path,
        progress=lambda name, done, total: seen.append(done) if name == "encoder" else None,
    )  # fmt: skip
    moved.rename(landmarks)
    assert seen[0] == 20 * config().batch


def test_wrong_inputs(lia: LIA, photographs: Path, landmarks: Path) -> None:
    with pytest.raises(ConfigError, match="align.* landmarks|landmarks.* align"):
        evaluate(lia, photographs, align="ffhq")
    with pytest.raises(ConfigError, match="expected ffhq|ffhq"):
        config(align="mine", landmarks=str(landmarks))
