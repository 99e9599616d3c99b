"""`compare`: closed forms, pairing, intervals, resuming, and wrong inputs in one line each."""

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lia_adapter.errors import ConfigError, LIAError
from lia_adapter.jobs import compare_statistics
from lia_adapter.jobs.compare import compare
from lia_adapter.jobs.compare_measures import Measures
from lia_adapter.jobs.compare_methods import pairs
from lia_adapter.jobs.compare_statistics import MEASURES, verdicts
from lia_adapter.jobs.encode import encode
from lia_adapter.jobs.invert import invert_images
from lia_adapter.lia import LIA
from lia_adapter.metrics.distances import frechet_distance
from lia_adapter.metrics.features import load_features
from lia_adapter.metrics.images import mse
from lia_adapter.metrics.kernel import kernel_distance
from lia_adapter.metrics.networks import load_network, perceptual_distance
from lia_adapter.reports.compare import write_compare_report
from tests import toys
from tests.jobs.test_evaluate import tensors

COUNT = 11


@pytest.fixture(scope="module")
def lia() -> LIA:
    return toys.with_encoder(toys.stylegan())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.pictures(tmp_path_factory.mktemp("data") / "in", COUNT)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.squeezenet(tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def codes(lia: LIA, folder: Path) -> Path:
    path = folder.parent / "codes.safetensors"
    encode(lia, folder, path)
    return path


def darker(folder: Path, to: Path, by: float, suffix: str = ".png", size: tuple[int, int] = (8, 8)) -> Path:
    """The same pictures, but darker by about so many levels; the k-th by k more, so that not all differ alike."""
    to.mkdir()
    for k, path in enumerate(sorted(folder.glob("*.png"))):
        with Image.open(path) as image:
            levels = np.asarray(image.convert("RGB"), dtype=np.float64)
        made = Image.fromarray((levels - by - k).clip(0, 255).astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
        made.save(to / f"{path.stem}{suffix}")
    return to


def values(figures: dict[str, Any], name: str) -> dict[str, float]:
    return {key: figure["value"] for key, figure in figures["methods"][name]["figures"].items()}


def test_the_originals_themselves_are_perfect(lia: LIA, folder: Path, network: Path, tmp_path: Path) -> None:
    found = compare(
        lia, folder, also={"same": folder}, features=network, identity=network, out=tmp_path / "c.json", split="not last 1"
    )
    same = values(found, "same")
    assert (same["mse"], same["psnr"], same["perceptual"], same["kid"], same["swd"]) == (0, math.inf, 0, 0, 0)
    assert same["ssim"] == pytest.approx(1) and same["identity"] == pytest.approx(1)
    told = json.loads((tmp_path / "c.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert told["methods"]["same"]["figures"]["psnr"] == {"value": None, "interval": None}
    assert found["reference"] == "encoder" and found["images"]["count"] == COUNT - 1
    better = next(text for text in found["verdicts"] if text.startswith("same is better than encoder by"))
    assert "MSE" in better and "PSNR" not in " ".join(found["verdicts"])


def test_figures_are_those_of_the_images(lia: LIA, folder: Path, codes: Path, network: Path, tmp_path: Path) -> None:
    other = darker(folder, tmp_path / "other", 8)
    found = compare(lia, folder, codes={"coded": codes}, also={"dark": other}, features=network, batch=4)
    x, dark = tensors(folder).float(), tensors(other).float()
    drawn = lia.reconstruct(x)
    for name, made in {"encoder": drawn, "coded": drawn, "dark": dark}.items():
        assert values(found, name)["mse"] == pytest.approx(float(mse(made, x).mean()), rel=1e-4)
        with torch.no_grad():
            seen = perceptual_distance(load_network(network), made, x)
        assert values(found, name)["perceptual"] == pytest.approx(float(seen.mean()), rel=1e-3)
    assert found["of_each"]["dark"]["mse"] == pytest.approx(mse(dark, x).tolist(), rel=1e-4)
    gap = found["differences"]["dark"]["mse"]
    assert gap["value"] == pytest.approx(float((mse(dark, x) - mse(drawn, x)).mean()), rel=1e-4)
    assert gap["interval"][0] < gap["value"] < gap["interval"][1]
    for name in ("typicality", "prior_p", "lec"):
        assert values(found, "coded")[name] == pytest.approx(values(found, "encoder")[name], abs=1e-3)
    for name in ("seconds", "memory"):
        assert values(found, "encoder")[name] > 0 and name in found["methods"]["coded"]["left_out"]
    assert found["methods"]["dark"]["left_out"]["lec"] == "it has pictures and no codes"
    coded = next(text for text in found["verdicts"] if "no difference" in text and "coded" in text)
    assert "MSE" in coded and f"these {COUNT} images show" in coded
    assert not any(text.startswith(("coded is better", "coded is worse")) for text in found["verdicts"])


def test_edit_consistency_of_an_encoder_that_knows_is_zero(lia: LIA, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """An encoder that answers with the very code that was drawn comes back to it; one that is off by d, off by d."""
    mean, root = lia.whitening()
    last: list[torch.Tensor] = []
    synthesize = LIA.synthesize

    def draw(self: LIA, y: torch.Tensor, **options: Any) -> torch.Tensor:
        last.append(y)
        return synthesize(self, y, **options)

    wrong = root.double() @ torch.ones(16, dtype=torch.float64) * 0.5  # half a deviation in each whitened coordinate
    std, axes = torch.linalg.eigh(root.double())
    expected = float(((wrong @ axes) / std).abs().mean())
    for off, value in ((torch.zeros(16), 0.0), (wrong.float(), expected)):
        monkeypatch.setattr(LIA, "synthesize", draw)
        monkeypatch.setattr(LIA, "encode", lambda self, x, off=off: (last[-1] if last else mean.expand(len(x), -1)) + off)
        last.clear()
        found = compare(lia, folder, batch=COUNT)
        assert values(found, "encoder")["lec"] == pytest.approx(value, abs=2e-3)


def test_kid_is_the_kernel_distance_of_features(lia: LIA, folder: Path, tmp_path: Path) -> None:
    other = darker(folder, tmp_path / "other", 20)
    found = compare(lia, folder, also={"dark": other})

    def pixels(x: torch.Tensor) -> torch.Tensor:
        return x.float().repeat_interleave(2, dim=2).repeat_interleave(2, dim=3).flatten(1)

    real, dark = pixels(tensors(folder)), pixels(tensors(other))
    scale = real.square().mean().sqrt()
    expected = 1e3 * kernel_distance(real / scale, dark / scale)
    assert values(found, "dark")["kid"] == pytest.approx(expected, rel=1e-4)
    assert "fewer than 2 for each of the 768" in found["methods"]["dark"]["left_out"]["frechet"]


def test_the_frechet_distance_of_images_enough(lia: LIA, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_statistics, "_LEAST_SHARE", 0)
    other = darker(folder, tmp_path / "other", 20)
    found = compare(lia, folder, also={"dark": other, "same": folder})
    features = [load_features(None)(tensors(path).float()) for path in (folder, other)]
    assert values(found, "dark")["frechet"] == pytest.approx(frechet_distance(*features), rel=1e-4)
    assert values(found, "same")["frechet"] == pytest.approx(0, abs=1e-3)
    low, high = found["differences"]["dark"]["frechet"]["interval"]
    assert low < found["differences"]["dark"]["frechet"]["value"] < high


def test_names_pair_without_their_endings() -> None:
    assert pairs(["a/1.jpg", "b/1.jpg", "c.JPEG"], ["a/1.png", "c.webp", "1.png"]) == {0: 0, 2: 1}
    assert pairs(["x.png"], ["x.jpg", "x.webp"]) == {}  # nobody knows which
    assert pairs(["x.png"], ["x.jpg", "x.png"]) == {0: 1}
    assert pairs(["v1.0.png", "v1.1.png"], ["v1.1.png", "v1.0.bmp"]) == {0: 1, 1: 0}


def test_other_endings_other_sizes_and_missing_ones(lia: LIA, folder: Path, tmp_path: Path) -> None:
    other = darker(folder, tmp_path / "other", 4, ".bmp", (16, 16))
    (other / "003.bmp").unlink()
    (other / "005.bmp").write_bytes(b"no picture")
    (other / "extra.bmp").write_bytes((other / "000.bmp").read_bytes())
    found = compare(lia, folder, also={"large": other}, out=tmp_path / "c.json")
    assert found["images"]["count"] == COUNT - 2 and found["methods"]["large"]["resized"] == COUNT - 2
    assert found["images"]["left_out"]["003.png"] == "'large' does not have it"
    assert found["images"]["left_out"]["005.png"].startswith("that of 'large' cannot be read: it is not an image")
    assert list(found["images"]["left_out"]) == ["003.png", "005.png"]
    assert "003.png" not in found["of_each"]["name"]
    # Each pixel as 2x2 of them and back is the same picture, so all methods are those of the images that are left.
    kept = [i for i in range(COUNT) if i not in (3, 5)]
    x = tensors(folder)[kept].float()
    assert values(found, "encoder")["mse"] == pytest.approx(float(mse(lia.reconstruct(x), x).mean()), rel=1e-4)
    page = write_compare_report(found, tmp_path / "c.json").read_text()
    assert "9 pictures of large had another size" in page and "2 images left out" in page


def test_verdicts_need_an_interval_without_zero() -> None:
    def gap(value: float, low: float, high: float) -> dict[str, Any]:
        return {"value": value, "interval": [low, high]}

    differences = {
        "mse": gap(-1, -2, -0.5), "ssim": gap(-1, -2, -0.5), "kid": gap(0.1, -1, 2), "prior_p": gap(0.2, 0.1, 0.3),
        "psnr": {"value": math.inf, "interval": None}, "lec": {"value": 1.0, "interval": None},
    }  # fmt: skip
    said = verdicts({"reference": "a", "differences": {"b": differences}}, 40)
    assert said == [
        "b is better than a by MSE.",
        "b is worse than a by SSIM.",
        "Codes of b have a higher Prior p than those of a, which is neither better nor worse by itself.",
        "Between b and a there is no difference by KID and LEC that these 40 images show.",
    ]


def test_few_images_decide_nothing(lia: LIA, folder: Path) -> None:
    found = compare(lia, folder, also={"same": folder}, split="first 3")
    assert all(figure["interval"] is None for figure in found["differences"]["same"].values())
    assert len(found["verdicts"]) == 1 and "no difference" in found["verdicts"][0]


def test_a_stopped_run_goes_on(lia: LIA, folder: Path, codes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, measured = tmp_path / "c.json", list[str]()
    method = Measures.method

    def count(self: Measures, one: Any, progress: Any) -> Any:
        measured.append(one.name)
        return method(self, one, progress)

    def stop(name: str, done: int, total: int | None) -> None:
        if name == "measure same":
            raise KeyboardInterrupt

    monkeypatch.setattr(Measures, "method", count)
    options: dict[str, Any] = {"codes": {"coded": codes}, "also": {"same": folder}, "out": out}
    with pytest.raises(KeyboardInterrupt):
        compare(lia, folder, progress=stop, **options)
    parts = tmp_path / ".c.json.parts"
    assert measured == ["encoder", "coded", "same"] and len(list(parts.iterdir())) == 3  # the originals, and two methods
    seconds = compare(lia, folder, **options)
    assert measured[3:] == ["same"]
    assert not parts.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"c.{ending}" for ending in ("csv", "json", "png", "tex")]
    whole = compare(lia, folder, **(options | {"out": None}))
    for name in ("coded", "same"):
        assert values(seconds, name) == pytest.approx(values(whole, name), rel=1e-5)
    assert seconds["differences"] == whole["differences"]


def test_kept_figures_are_bound_to_what_they_are_of(
    lia: LIA, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, measured = tmp_path / "c.json", list[str]()
    method = Measures.method

    def count(self: Measures, one: Any, progress: Any) -> Any:
        measured.append(one.name)
        return method(self, one, progress)

    monkeypatch.setattr(Measures, "method", count)

    def stop(name: str, done: int, total: int | None) -> None:
        if name == "intervals":
            raise KeyboardInterrupt

    other = darker(folder, tmp_path / "other", 4)
    with pytest.raises(KeyboardInterrupt):
        compare(lia, folder, also={"dark": other}, out=out, progress=stop)
    for part in (tmp_path / ".c.json.parts").iterdir():  # a file that a full disk cut off
        part.write_bytes(part.read_bytes()[:-5])
    with pytest.raises(KeyboardInterrupt):
        compare(lia, folder, also={"dark": other}, out=out, progress=stop)
    assert measured == ["encoder", "dark"] * 2
    (other / "000.png").write_bytes((other / "000.png").read_bytes() + b"more")
    compare(lia, folder, also={"dark": other}, out=out)
    assert measured[4:] == ["dark"]


def test_what_is_written(lia: LIA, folder: Path, codes: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    name = "50 % <b>x_y</b>"
    found = compare(lia, folder, codes={name: codes}, out=tmp_path / "c.html")
    page = write_compare_report(found, out).read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"c.{ending}" for ending in ("csv", "html", "json", "png", "tex")
    ]
    assert not re.search(r'(src|href)="(?!data:)', page) and page.count("<img ") == 3 and "<b>x_y" not in page
    with Image.open(tmp_path / "c.png") as image:
        assert image.size == (8 * 8, 3 * 8)
        first = np.asarray(image, dtype=np.float64)[:8, :8]
    x = (tensors(folder)[0].permute(1, 2, 0).numpy() + 1) * 127.5
    assert np.abs(first - x).max() <= 1
    with open(tmp_path / "c.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    line = next(line for line in lines if line["method"] == name and line["measure"] == "mse")
    assert float(line["value"]) == values(found, name)["mse"] and line["reference"] == "encoder"
    tex = (tmp_path / "c.tex").read_text()
    assert r"50 \% \textless{}b\textgreater{}x\_y" in tex and r"\toprule" in tex
    rows = [line for line in tex.splitlines() if line.endswith(r"\\")]
    assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1 and len(rows) == 3
    assert set(values(found, name)) <= set(MEASURES)


def test_a_conditional_lia_and_one_without_an_encoder(tmp_path: Path, folder: Path) -> None:
    lia = toys.with_encoder(toys.stylegan(c_dim=3))
    found = compare(lia, folder, label=1)
    assert 0 <= values(found, "encoder")["prior_p"] <= 1
    plain = toys.stylegan()
    found = compare(plain, folder, also={"same": folder})
    assert found["reference"] == "same" and found["left_out"]["lec"] == "this file has no encoder"
    assert found["differences"] == {} and found["verdicts"] == []
    with pytest.raises(LIAError, match="nothing to compare"):
        compare(plain, folder)


def test_wrong_inputs_are_told_in_one_line(lia: LIA, folder: Path, codes: Path, network: Path, tmp_path: Path) -> None:
    others = toys.pictures(tmp_path / "others", 2)
    for path in sorted(others.iterdir()):
        path.rename(others / f"x{path.name}")
    stranger = toys.with_encoder(toys.stylegan(seed=3))
    half = toys.pictures(tmp_path / "half", 2)
    rest = darker(folder, tmp_path / "rest", 1)
    for path in half.iterdir():
        (rest / path.name).unlink()
    wrong: list[tuple[LIA, dict[str, Any], str]] = [
        (lia, {"codes": {"a": codes}, "also": {"a": folder}}, "two methods are called 'a'"),
        (lia, {"also": {"encoder": folder}}, "two methods are called 'encoder', which is the file's own encoder"),
        (lia, {"also": {"a\nb": folder}}, "expected a name in one line"),
        (lia, {"also": {"a": others}}, "the method 'a' has none of the images"),
        (lia, {"also": {"a": half, "b": rest}}, "no image of .* is there for all methods"),
        (lia, {"also": {"a": tmp_path / "nowhere"}}, "there is no .*nowhere, for the method 'a'"),
        (stranger, {"codes": {"a": codes}}, "codes of another generator"),
        (lia, {"lpips": True}, "lpips needs a network"),
        (lia, {"identity": tmp_path / "no.pth"}, "identity: "),
        (lia, {"out": tmp_path / "c.pdf"}, "must end in .json"),
        (lia, {"out": tmp_path / "no" / "c.json"}, "does not exist"),
    ]
    for one, options, message in wrong:
        with pytest.raises(LIAError, match=message) as told:
            compare(one, folder, **options)
        assert "\n" not in str(told.value)
    assert issubclass(ConfigError, LIAError)


@pytest.mark.parametrize("method", ["features", "multi-code", "tune"])
def test_what_a_method_keeps_beside_codes_is_drawn(tmp_path: Path, method: str) -> None:
    lia = toys.with_encoder(toys.stylegan(resolution=16))
    folder = toys.pictures(tmp_path / "in", 3, (16, 16))
    made = invert_images(lia, folder, tmp_path / "c.safetensors", f"invert-{method}", steps=6)
    found = compare(lia, folder, codes={"mine": tmp_path / "c.safetensors"})
    assert found["methods"]["mine"]["figures"]["mse"]["value"] == pytest.approx(float(made.tensors["mse"].mean()), rel=1e-3)


def test_codes_of_images_that_were_cut_otherwise_are_refused(lia: LIA, tmp_path: Path) -> None:
    folder = toys.pictures(tmp_path / "in", 3, (8, 12))
    encode(lia, folder, tmp_path / "c.safetensors", resize_mode="letterbox")
    with pytest.raises(ConfigError, match="'mine' are of images cut by letterbox, and compare reads these cut by crop"):
        compare(lia, folder, codes={"mine": tmp_path / "c.safetensors"})
