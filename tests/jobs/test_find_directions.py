"""`directions find`: what it learns from, what it measures, what it writes, and what it refuses."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from lia_adapter import ops
from lia_adapter.data import open_images
from lia_adapter.editing import Directions, read_directions
from lia_adapter.errors import LIAError
from lia_adapter.generators import broadcast, draw_reduced, style_sizes, styles_of, wrap
from lia_adapter.jobs import find_directions as job
from lia_adapter.jobs.find_directions import find_directions
from lia_adapter.lia import LIA
from lia_adapter.reports.directions import write_directions_report
from tests import toys

QUICK = {"samples": 400, "count": 3}
pytestmark = pytest.mark.usefixtures("reference_ops")


@pytest.fixture(scope="module")
def lia() -> LIA:
    with ops.using("reference"):
        return toys.with_encoder(toys.stylegan())


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes that are measured, of which 200 would take a second each."""
    monkeypatch.setattr(job, "_MOST", 16)


def judge(tmp_path: Path) -> str:
    (tmp_path / "judge.py").write_text(
        "def score(x):\n    m = x.mean(dim=(2, 3))\n    return {'bright': m.mean(dim=1), 'red': m[:, 0] - m[:, 2]}\n"
    )
    return f"{tmp_path / 'judge.py'}:score"


def same(a: Directions, b: Directions) -> bool:
    return len(a) == len(b) and all(
        x.name == y.name and torch.equal(x.step.float(), y.step.float()) for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("method", ["pca", "sefa", "jacobian"])
def test_what_is_written(lia: LIA, tmp_path: Path, method: str) -> None:
    out, told = tmp_path / "d.safetensors", list[str]()
    found = find_directions(lia, method, overrides=QUICK, out=out, progress=lambda name, done, total: told.append(name))
    assert {path.name for path in tmp_path.iterdir()} == {"d.safetensors", "d.png", "d.json"}
    read = read_directions(out)
    assert same(found, read) and read.about["source"] == "toy.pkl" and read.about["recipe"]["method"] == method
    figures = json.loads((tmp_path / "d.json").read_text())
    agreement = np.array(figures["agreement"])
    assert np.allclose(np.diag(agreement), 1) and np.allclose(agreement, agreement.T) and agreement.max() <= 1 + 1e-6
    assert all(one["change"] > 0 and one["reach"] is not None for one in figures["directions"])
    with Image.open(tmp_path / "d.png") as picture:
        assert picture.size == (7 * 8, 3 * 3 * 8)
    page = write_directions_report(out).read_text()
    assert f"{method}-3" in page and "Nothing tells attributes" in page
    assert "measure directions" in told and same(found, find_directions(lia, method, overrides=QUICK))


def test_directions_of_styles_are_measured_and_drawn(lia: LIA, tmp_path: Path) -> None:
    keys = {"space": "s", "samples": 1500}
    found = find_directions(lia, "regress", scorer=judge(tmp_path), overrides=keys, out=tmp_path / "s.safetensors")
    same_in_y = find_directions(lia, "regress", scorer=judge(tmp_path), overrides={"samples": 1500})
    for one, other in zip(found, same_in_y, strict=True):
        assert one.space == "s" and one.styles == style_sizes(lia.generator) and one.about["reach"] is None
        assert one.about["r2"] == pytest.approx(other.about["r2"])
        # The unit differs, and so does what one of it does, but not what is changed beside.
        assert one.about["effect"] > 0 and one.about["leakage"] == pytest.approx(other.about["leakage"], abs=0.15)
    found = find_directions(lia, "pca", overrides={**QUICK, "space": "s"}, out=tmp_path / "p.safetensors")
    assert same(found, read_directions(tmp_path / "p.safetensors")) and all(one.about["change"] > 0 for one in found)
    assert np.allclose(np.diag(json.loads((tmp_path / "p.json").read_text())["agreement"]), 1)
    assert "pca-3" in write_directions_report(tmp_path / "p.safetensors").read_text()


def test_drawn_pictures_that_a_scorer_scores(lia: LIA, tmp_path: Path) -> None:
    out = tmp_path / "d.safetensors"
    found = find_directions(lia, "regress", scorer=judge(tmp_path), overrides={"samples": 1500}, out=out)
    assert found.names == ["bright", "red"]
    figures = json.loads((tmp_path / "d.json").read_text())
    assert figures["attributes"] == ["bright", "red"] and figures["codes"] == 16
    for i, one in enumerate(found):
        assert one.about["r2"] > 0.5 and one.about["effect"] > 0 and one.about["attribute"] == one.name
        assert figures["leakage"][i][i] == pytest.approx(1)
    assert "What else changes" in write_directions_report(out).read_text()


def test_a_scorer_measures_what_methods_without_attributes_found(lia: LIA, tmp_path: Path) -> None:
    found = find_directions(lia, "pca", scorer=judge(tmp_path), overrides=QUICK)
    assert all(one.about["attribute"] in ("bright", "red") and 0 <= one.about["monotone"] <= 1 for one in found)


def test_a_scorer_that_gives_no_numbers_leaves_the_table_empty(lia: LIA, tmp_path: Path) -> None:
    (tmp_path / "nan.py").write_text("def score(x):\n    return x.mean(dim=(1, 2, 3)) * float('nan')\n")
    out = tmp_path / "d.safetensors"
    find_directions(lia, "pca", scorer=f"{tmp_path / 'nan.py'}:score", overrides=QUICK, out=out)
    assert "score-1" in write_directions_report(out).read_text()


def test_identity_kept_by_a_network(lia: LIA, tmp_path: Path) -> None:
    from torchvision.models import squeezenet1_1

    out, file = tmp_path / "d.safetensors", toys.squeezenet(tmp_path)
    found = find_directions(
        lia, "regress", scorer=judge(tmp_path), identity=file, overrides={"samples": 1500, "space": "z"}, out=out
    )
    figures = json.loads((tmp_path / "d.json").read_text())
    assert figures["identity"]["network"].startswith("SqueezeNet")
    network = squeezenet1_1().eval()
    network.load_state_dict(load_file(file))
    mean, std = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]

    def seen(x: Tensor) -> Tensor:
        x = F.interpolate(x.clamp(-1, 1), size=(64, 64), mode="bilinear", antialias=True).clamp(-1, 1)
        found: Tensor = network.features(((x + 1) / 2 - mean) / std).mean(dim=(2, 3))
        return found

    ys, _ = job._bases(lia, figures["codes"])
    y = ys[:, 0]
    with torch.no_grad():
        for one in found:
            step = one.step.float() / one.about["effect"]
            sides = [lia.synthesize(lia.to_y(lia.to_z(y) + way * step)) for way in (-1, 1)]
            own = [lia.synthesize(lia.to_y(lia.to_z(y)))] * 2
            cosines = [F.cosine_similarity(seen(a), seen(b)).mean() for a, b in zip(own, sides, strict=True)]
            assert one.about["identity"] == pytest.approx(float(sum(cosines) / 2), abs=1e-4)
    page = write_directions_report(out).read_text()
    assert "<th title" in page and ">identity" in page and "Identity is by SqueezeNet" in page


def test_identity_is_left_out_for_a_reason(lia: LIA, tmp_path: Path) -> None:
    out = tmp_path / "d.safetensors"
    find_directions(lia, "pca", overrides=QUICK, out=out)
    assert "left out: no network was given" in write_directions_report(out).read_text()
    found = find_directions(lia, "pca", identity=toys.squeezenet(tmp_path), overrides=QUICK, out=out)
    assert "left out: nothing tells attributes" in write_directions_report(out).read_text()
    assert not any("identity" in one.about for one in found)
    with pytest.raises(LIAError, match="identity: .*missing"):
        find_directions(lia, "pca", identity=tmp_path / "missing.pth", overrides=QUICK)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Sixty pictures of a colour each, of which a table says how red they are, and of some nothing."""
    folder, random = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    colours = random.integers(0, 256, (70, 3))
    for i, colour in enumerate(colours):
        Image.new("RGB", (8, 8), tuple(map(int, colour))).save(folder / f"{i:02d}.png")
    lines = [f"{i:02d},{c[0] if i < 60 else ''},{int(c[0] > 127)}" for i, c in enumerate(colours)]
    (tmp_path / "t.csv").write_text("image,red,very red\n" + "\n".join(lines))
    (folder / "05.png").write_bytes(b"junk")
    return folder


@pytest.mark.parametrize("space", ["y", "z", "s"])
@pytest.mark.parametrize("method", ["regress", "boundary"])
def test_photographs_with_a_table(lia: LIA, photographs: Path, tmp_path: Path, method: str, space: str) -> None:
    found = find_directions(
        lia, method, data=photographs, labels=tmp_path / "t.csv", overrides={"space": space, "samples": 400},
        out=tmp_path / "d.safetensors",
    )  # fmt: skip
    assert found.names == ["red", "very red"] and {one.space for one in found} == {space}
    if method == "regress":
        assert found["red"].about["images"] == 59 and found["very red"].about["images"] == 69
    # What readers say of codes is what is measured by.
    assert json.loads((tmp_path / "d.json").read_text())["attributes"] == ["red", "very red"]
    write_directions_report(tmp_path / "d.safetensors")
    images = open_images(photographs, (8, 8), 3)
    x = torch.stack([item.x for i in (0, 1, 2, 3) if (item := images.load(i)) is not None])
    code = lia.to_z(lia.encode(x)) if space == "z" else lia.encode(x).double()
    if space == "s":
        code = styles_of(lia.generator, broadcast(code.float(), lia.generator.num_ws)).double()
    one = found["red"]
    assert one.reader is not None and bool((code @ one.reader.double() + one.bias).isfinite().all())


def test_two_folders(lia: LIA, tmp_path: Path) -> None:
    for name, colour in {"smiling": (200, 100, 100), "serious": (100, 100, 200)}.items():
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.new("RGB", (8, 8), (colour[0] + i, *colour[1:])).save(tmp_path / name / f"{i}.png")
    found = find_directions(lia, "difference", data=tmp_path / "smiling", than=tmp_path / "serious", overrides={"samples": 400})
    assert found.names == ["smiling"] and found["smiling"].about["images"] == [4, 4]
    ys = [
        lia.encode(torch.stack([i.x for i in map(open_images(tmp_path / n, (8, 8), 3).load, range(4)) if i]))
        for n in ("smiling", "serious")
    ]
    towards = ys[0].mean(dim=0) - ys[1].mean(dim=0)
    assert float(torch.nn.functional.cosine_similarity(found["smiling"].step.float(), towards, dim=0)) > 0.999
    with pytest.raises(LIAError, match="the same images"):
        find_directions(lia, "difference", data=tmp_path / "smiling", than=tmp_path / "smiling", overrides={"samples": 400})
    with pytest.raises(LIAError, match="without labels; leave it out"):
        find_directions(lia, "difference", data=tmp_path / "smiling", than=tmp_path / "serious", labels="x.csv")


def test_a_conditional_lia_in_z(tmp_path: Path) -> None:
    lia = toys.with_encoder(toys.stylegan(c_dim=3))
    found = find_directions(
        lia, "regress", scorer=judge(tmp_path), overrides={"space": "z", "samples": 300}, out=tmp_path / "d.safetensors"
    )
    assert [one.space for one in found] == ["z", "z"] and all(one.about["reach"] is not None for one in found)
    folder = toys.pictures(tmp_path / "in", 60)
    (folder / "dataset.json").write_text(json.dumps({"labels": [[f"{i:03d}.png", i % 3] for i in range(60)]}))
    found = find_directions(lia, "regress", data=folder, overrides={"space": "z", "samples": 300})  # read by the encoder
    assert found.names == ["class-0", "class-1", "class-2"] and all("leakage" in one.about for one in found)


def test_pictures_larger_than_are_looked_at(
    lia: LIA, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The encoder takes them whole.
    monkeypatch.setattr(job, "draw_reduced", partial(draw_reduced, max_side=4))
    found = find_directions(lia, "regress", data=photographs, labels=tmp_path / "t.csv", overrides={"samples": 400})
    assert "effect" in found["red"].about


def test_a_generator_alone_of_any_kind(tmp_path: Path) -> None:
    sprites = toys.Sprites()
    wrapped = wrap(sprites, mapping="style", synthesis=sprites.draw, z_dim=6, y_dim=10, num_ws=1)
    for method in ("pca", "jacobian"):
        found = find_directions(wrapped, method, overrides=QUICK, out=tmp_path / "d.safetensors")
        assert len(found) == 3 and found.found[0].about["reach"] is None
        write_directions_report(tmp_path / "d.safetensors")
    with pytest.raises(LIAError, match="style_layers"):
        find_directions(wrapped, "pca", overrides={**QUICK, "space": "s"})
    with pytest.raises(LIAError, match="style_layers"):
        find_directions(wrapped, "sefa", overrides=QUICK)
    for c_dim in (0, 3):
        find_directions(toys.stylegan(c_dim=c_dim, channels=1).generator, "pca", overrides=QUICK)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("magic", {}, "there is no method 'magic'"),
        ("pca", {"overrides": {"count": 17}}, "y has 16 entries"),
        ("pca", {"overrides": {"layers": [4]}}, "layers has 4; this generator's are 0 to 3"),
        ("pca", {"overrides": {"space": "z"}}, "pca finds directions of y"),
        ("sefa", {"overrides": {"space": "s"}}, "sefa finds directions of y"),
        ("pca", {"overrides": {"space": "s", "layers": [6]}}, "layers has 6; this generator's are 0 to 4"),
        ("pca", {"data": "photos"}, "pca needs no photographs; leave data out"),
        ("sefa", {"labels": "a.csv"}, "leave labels out"),
        ("boundary", {}, "give data with labels, or scorer"),
        ("boundary", {"labels": "a.csv"}, "labels tells of images: give these by data"),
        ("boundary", {"than": "x"}, "than is for difference"),
        ("regress", {"data": "missing"}, "missing"),
        ("difference", {"data": "a"}, "compares two groups of photographs"),
        ("pca", {"scorer": "missing.py:score"}, "is not a file"),
        ("pca", {"out": "d.pkl"}, "must end in .safetensors"),
    ],
)
def test_searches_that_cannot_be(lia: LIA, method: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(LIAError, match=words):
        find_directions(lia, method, **({"overrides": {"samples": 400}} | options))


def test_a_file_that_lacks_something(tmp_path: Path) -> None:
    plain = toys.stylegan()
    with pytest.raises(LIAError, match="directions of z need an invertible mapping"):
        find_directions(plain, "regress", scorer=judge(tmp_path), overrides={"space": "z"})
    with pytest.raises(LIAError, match="which this file lacks. Run lia-adapt train-encoder"):
        find_directions(plain, "regress", data=toys.pictures(tmp_path / "in", 2))


def test_a_mapping_that_gives_each_layer_its_own(shared: Path) -> None:
    from lia_adapter.loading import load

    lia = load(shared / "checkpoints" / "idinvert_generator.pth")
    for method in ("pca", "sefa", "jacobian"):
        with pytest.raises(LIAError, match="each of its 6 layers a y of its own|layers a y of its own"):
            find_directions(lia, method, overrides=QUICK)
