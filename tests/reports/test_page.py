"""Pages need nothing but themselves, take names as text and numbers as they are, and say what their figures say."""

import base64
import copy
import io
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lia_adapter.codes import Codes
from lia_adapter.jobs.run import report_paths, write_results
from lia_adapter.jobs.train_encoder import write_encoder_results
from lia_adapter.lia import LIA
from lia_adapter.pictures import image_grid, paired_grid, png_bytes
from lia_adapter.reports.convert import write_convert_report
from lia_adapter.reports.encoder import write_encoder_report
from lia_adapter.reports.images import write_invert_report, write_reconstruct_report
from lia_adapter.reports.page import html_page, html_picture, loss_curves, write_page
from lia_adapter.reports.training import write_training_report
from tests import toys

EVIL = """"><script src=http://a.example/x.js>alert('1')</script><img src=x onerror=alert(2)>'&amp;&lt;b"""
X = torch.linspace(-1, 1, 2 * 3 * 64).reshape(2, 3, 8, 8)


class Page(HTMLParser):
    """A page as a browser sees it: its elements and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.styles, self._inside = "", "", ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self.styles += data
        else:
            self.text += data

    def attributes(self, name: str) -> list[str | None]:
        return [attributes[name] for _, attributes in self.elements if name in attributes]


def needs_nothing(page: str) -> Page:
    """Refuses a page that fetches or runs anything; what it shows is in it."""
    seen = Page(page)
    loads = ("script", "link", "iframe", "object", "embed", "base", "meta", "form", "video", "audio", "source", "use", "image")
    found = [element for element in seen.elements if element[0] in loads]
    viewport = {"name": "viewport", "content": "width=device-width,initial-scale=1"}
    assert found == [("meta", {"charset": "utf-8"}), ("meta", viewport)]
    addresses = ("src", "href", "xlink:href", "srcset", "data", "action", "poster", "background", "style")
    given = [str(value) for name in addresses for value in seen.attributes(name)]
    assert all(re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/=]+|color:#[0-9a-f]{3,6}", value) for value in given)
    assert not [name for _, attributes in seen.elements for name in attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import|expression", seen.styles)
    return seen


# -- figures to make pages of


def measure(value: float = 0.2, floor: float = 0.2, **more: Any) -> dict[str, Any]:
    return {"value": value, "floor": floor, "ratio": value / floor if floor else math.nan, **more}


def converted(**changes: Any) -> dict[str, Any]:
    """What `convert` measures where nothing can be told apart."""
    plain = {
        "sliced_wasserstein": measure(), "frechet": measure(), "frechet_images": measure(),
        "classifier": {"value": 0.51, "floor": 0.5, "excess": 0.01}, "round_trip": {"value": 1e-6},
        "typical_z": {"value": 1.1}, "seeds_raw": {"value": 0.975}, "seeds_white": {"value": 0.5},
        "samples": 10_000, "evaluation_seeds": 3, "images": 50, "image_features": "pixels", "image_layers": "all",
        "coupling": "dense", "parameters": 1234, "seconds": {"fit": 1.0, "measure": 2.0}, "losses": {"loss": [2.0, 1.0]},
    }  # fmt: skip
    return plain | changes


def encoded(**changes: Any) -> dict[str, Any]:
    """What `train_encoder` measures where all is well."""
    after = {
        "correlation": 0.95, "interval": [0.94, 0.96], "all": 0.61, "directions": 5, "images": 100, "mse": 0.01,
        "mse_of_real_images": 0.012,
    } | changes.pop("after", {})  # fmt: skip
    before = {"correlation": 0.0, "all": 0.01, "mse": 0.1, "mse_of_real_images": 0.2}
    search = {
        "images": 50, "steps": 100, "space": "y", "measure": "mean squared error", "rounding": 5e-6,
        "encoder": 0.037, "found": 0.024, "gain": 0.013, "share": 0.351, "mse": {"encoder": 0.037, "found": 0.024},
        "encoder_interval": [0.035, 0.039], "found_interval": [0.022, 0.026], "gain_interval": [0.0115, 0.0145],
        "share_interval": [0.311, 0.391],
    } | changes.pop("search", {})  # fmt: skip
    plain = {
        "before": before, "after": after, "losses": {"loss": [2.0, 1.0]}, "parameters": 10, "seconds": 1.0, "unreadable": {},
        "real_images": {"kind": "held-out", "held_out": 1000}, "search": search,
    }  # fmt: skip
    return plain | changes


def trained(**changes: Any) -> dict[str, Any]:
    """What `train` measures."""
    plain = {
        "parameters": 10, "images": 1000, "seconds": 1.0, "losses": {"loss": [2.0, 1.0]}, "curve": [[500, 9.0], [1000, 8.0]],
        "features": "pixels",
    }  # fmt: skip
    return plain | changes


@pytest.fixture(scope="module")
def toy() -> LIA:
    return toys.with_encoder(toys.stylegan())


def with_figures(toy: LIA, name: str = "toy.pkl", **metrics: Any) -> LIA:
    lia = copy.copy(toy)
    recipe = {"split": "all"}
    made_by = {"recipe": recipe, "data": {"images": 7}, "device": name, "features": name}
    lia.provenance = {"source": name, "encoder": made_by, "training": {"device": name}}
    lia.metrics = metrics
    return lia


def picture(out: Path) -> Path:
    """The name of a result, beside which its job left a picture."""
    write_results(out, png_bytes(paired_grid(X, -X)), {})
    return out


def convert_page(toy: LIA, out: Path, name: str = "toy.pkl", **changes: Any) -> str:
    figures = converted(image_features=name, **changes)
    return write_convert_report(with_figures(toy, name, **figures), picture(out)).read_text()


def encoder_page(toy: LIA, out: Path, name: str = "toy.pkl", **changes: Any) -> str:
    figures = encoded(**{"unreadable": {name: name}} | changes)
    return write_encoder_report(with_figures(toy, name, encoder=figures), picture(out)).read_text()


def training_page(toy: LIA, out: Path, name: str = "toy.pkl", **changes: Any) -> str:
    lia = with_figures(toy, name, training=trained(features=name, **changes))
    return write_training_report(lia, picture(out)).read_text()


def reconstruct_page(toy: LIA, out: Path, name: str = "toy.pkl", **changes: Any) -> str:
    figures = {"source": name, "lia": name, "count": 2, "mse": 0.5, "originals": name, "unreadable": {name: name}} | changes
    figures["shown"] = {"count": 2, "originals": True}
    return write_reconstruct_report(figures, picture(out.with_name("grid.json")).parent).read_text()


def invert_page(toy: LIA, out: Path, name: str = "toy.pkl", **changes: Any) -> str:
    about = {
        "lia": name, "data": name, "features": name, "encoder_sha256": "0", "steps": 10, "space": "y", "start": "mean",
    }  # fmt: skip
    means = {"start_loss": 2.0, "loss": 1.0, "mse": 1.0, "z_size": 1.0, "typicality": 0.5} | changes
    of_each = {key: torch.tensor([value, value]) for key, value in means.items()}
    codes = Codes((name, name), of_each, ({}, {}), "0", about, {name: name})
    return write_invert_report(codes, picture(out)).read_text()


NO_NUMBERS = {name: math.nan for name in ("encoder", "found", "gain", "share", "rounding")} | {
    f"{name}_interval": [math.nan, math.nan] for name in ("encoder", "found", "gain", "share")
}
PAGES: list[Callable[..., str]] = [convert_page, encoder_page, training_page, reconstruct_page, invert_page]
each_page = pytest.mark.parametrize("page", PAGES)


# -- self-contained, and names are text


@each_page
def test_a_page_needs_nothing_but_itself(toy: LIA, tmp_path: Path, page: Callable[..., str]) -> None:
    text = page(toy, tmp_path / "a.safetensors")
    seen = needs_nothing(text)
    assert "http" not in text and text.startswith("<!doctype html>") and text.count("<html") == text.count("</html>") == 1
    pictures = [element for element in seen.elements if element[0] == "img"]
    assert pictures and all(attributes["alt"] for _, attributes in pictures)
    stem = "grid" if page is reconstruct_page else "a"
    assert {path.name for path in tmp_path.iterdir()} == {f"{stem}.html", f"{stem}.json", f"{stem}.png"}


@each_page
def test_names_are_text_wherever_they_stand(toy: LIA, tmp_path: Path, page: Callable[..., str]) -> None:
    harmless = needs_nothing(page(toy, tmp_path / "a.safetensors"))
    seen = needs_nothing(page(toy, tmp_path / "<b>&amp;.safetensors", EVIL))
    assert [tag for tag, _ in seen.elements] == [tag for tag, _ in harmless.elements]
    assert EVIL in seen.text


@pytest.mark.parametrize("name", ["</title><script>", "a & b", '"', "a<!--b"])
def test_a_title_is_text_and_a_body_is_not(name: str) -> None:
    seen = needs_nothing(html_page(name, "<p>one &amp; <b>two</b></p>"))
    assert [tag for tag, _ in seen.elements] == ["html", "meta", "meta", "title", "style", "p", "b"]
    assert seen.text.strip() == f"{name}\none & two"


@pytest.mark.parametrize(("width", "shown"), [(8, 896), (900, 900), (451, 451), (450, 900), (901, 901), (2048, 2048), (1, 900)])
def test_a_picture_in_a_page_is_the_file_enlarged_by_a_whole_factor(width: int, shown: int) -> None:
    png = png_bytes(image_grid(torch.rand(1, 3, 2, width, generator=torch.Generator().manual_seed(0)) * 2 - 1))
    label, switch, (tag, attributes) = Page(html_picture(png, EVIL)).elements
    assert label[0] == "label" and switch == ("input", {"type": "checkbox", "aria-label": f"large: {EVIL}"})
    assert (tag, attributes["alt"], attributes["width"]) == ("img", EVIL, str(shown))
    kind, _, content = str(attributes["src"]).partition(",")
    assert kind == "data:image/png;base64" and base64.b64decode(content, validate=True) == png


# -- figures


def no_json(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    figures = {
        "a": math.nan, "b": [1.5, math.inf, (-math.inf, 2)], "c": {"d": {"e": math.nan}}, "f": "nan", "g": True, "h": None,
        "i": 10**400, "j": 1e308, "ü": "ü",
    }  # fmt: skip
    out = tmp_path / "a.json"
    write_results(out, b"png", figures)
    write_page(out, "a", "pägé")
    paths = report_paths(out)
    found = json.loads(paths["json"].read_text(), parse_constant=no_json)
    assert found == {
        "a": None, "b": [1.5, None, [None, 2]], "c": {"d": {"e": None}}, "f": "nan", "g": True, "h": None,
        "i": 10**400, "j": 1e308, "ü": "ü",
    }  # fmt: skip
    assert paths["png"].read_bytes() == b"png" and "pägé".encode() in paths["html"].read_bytes()
    assert math.isnan(figures["a"])  # type: ignore[arg-type]


def test_a_report_lies_beside_its_file(tmp_path: Path) -> None:
    for name, stem in (("f.safetensors", "f"), ("f.json", "f"), ("f", "f"), ("f.x.safetensors", "f.x"), ("f.pkl", "f.pkl")):
        expected = {ending: tmp_path / f"{stem}.{ending}" for ending in ("png", "html", "json")}
        assert report_paths(tmp_path / name) == expected


@each_page
def test_figures_of_a_diverged_run_still_make_a_page(toy: LIA, tmp_path: Path, page: Callable[..., str]) -> None:
    figures: dict[Callable[..., str], dict[str, Any]] = {
        convert_page: {"frechet_images": measure(math.nan), "losses": {"loss": [math.nan, 1.0, math.inf]}},
        encoder_page: {
            "after": {"mse": math.nan, "correlation": math.nan, "interval": [math.nan, math.nan]},
            "search": NO_NUMBERS,
        },
        training_page: {"curve": [[500, math.nan], [1000, math.nan]], "losses": {"loss": [math.nan]}},
        reconstruct_page: {"mse": math.nan},
        invert_page: {"typicality": math.nan, "loss": math.inf},
    }
    needs_nothing(page(toy, tmp_path / "a.safetensors", **figures[page]))
    (written,) = tmp_path.glob("*.json")
    json.loads(written.read_text(), parse_constant=no_json)


# -- verdicts


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"frechet": {"value": 1.0, "floor": 1.0, "ratio": 1.05}}, True),
        ({"frechet": {"value": 1.0, "floor": 1.0, "ratio": 1.0501}}, False),
        ({"sliced_wasserstein": {"value": 1.0, "floor": 1.0, "ratio": 1.0501}}, False),
        ({"frechet_images": {"value": 1.0, "floor": 1.0, "ratio": 1.0501}}, False),
        ({"classifier": {"value": 0.5, "floor": 0.5, "excess": 0.03}}, True),
        ({"classifier": {"value": 0.5, "floor": 0.5, "excess": 0.0301}}, False),
        # A ratio that is known roughly: what counts is the least that it may be.
        ({"frechet_images": measure(0.4, interval=[1.05, 3.0])}, True),
        ({"frechet_images": measure(0.4, interval=[1.0501, 3.0])}, False),
        ({"frechet_images": measure(0.2, interval=[0.5, 3.0])}, True),
    ],
)
def test_codes_are_told_apart_where_a_figure_passes_its_limit(
    toy: LIA, tmp_path: Path, changes: dict[str, Any], same: bool
) -> None:
    page = convert_page(toy, tmp_path / "a.safetensors", **changes)
    assert ("codes can't be told from the original's" in page) == same
    assert ("codes differ measurably" in page) != same
    assert ('class="n bad"' in page) != same and page.count('class="n good"') == 5 - (not same)


@pytest.mark.parametrize(
    ("interval", "rough"), [([0.5, 1.05], False), ([0.5, 1.0501], True), (None, False), ([1.2, 3.0], False)]
)
def test_few_pictures_are_no_proof(toy: LIA, tmp_path: Path, interval: list[float] | None, rough: bool) -> None:
    """Where codes can't be told apart, but pictures might be, that is said; where they differ, no more is needed."""
    more: dict[str, Any] = {} if interval is None else {"interval": interval}
    page = convert_page(toy, tmp_path / "a.safetensors", frechet_images=measure(0.22 if interval else 0.2, **more))
    assert ("so few of them do not tell" in page) == rough
    assert ("confidence of 95 %" in page) == (interval is not None)


@pytest.mark.parametrize(("error", "good"), [(0.0, True), (1e-4, True), (1.01e-4, False), (math.nan, False)])
def test_a_round_trip_is_good_up_to_a_ten_thousandth(toy: LIA, tmp_path: Path, error: float, good: bool) -> None:
    page = convert_page(toy, tmp_path / "a.safetensors", round_trip={"value": error})
    assert page.count('class="n good"') == 4 + good and page.count('class="n bad"') == 1 - good


def test_the_figures_themselves_are_told(toy: LIA, tmp_path: Path) -> None:
    page = convert_page(toy, tmp_path / "a.safetensors", frechet=measure(0.50001, 0.2), image_layers="lower")
    text = Page(page).text
    for words in (
        "largest ratio to the noise floor: 2.50", "× 2.500", "correlates 0.97 with", "0.975 (0.500)", "51.0%", "+1.0 points",
        "1.0e-06", "10,000 codes", "50 images a side", "at most 256 pixels a side", "1,234 parameters", "fitted in\n1 s",
    ):  # fmt: skip
        assert words in text, words


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({}, "of 50 held-out images 0.037 -&gt; 0.024 (0.0115 to 0.0145 less, 95 %): 35% (31 to 39) of it is"),
        ({}, "between 0.0115 and 0.0145 (95 %)"),
        ({}, "not see (1,000 are held out)"),
        ({}, '0.610<td class="n">1<td class="n">before: 0.010'),
        ({"gain_interval": [-0.0001, 0.0145]}, "gains nothing that 50 held-out images show"),
        ({"gain_interval": [1e-7, 2e-6], "gain": 1e-6}, "gains less on 50 held-out images than values rounded to 8 bits"),
        ({"measure": "loss"}, "What the training minimised, by images alone, of 50 held-out images"),
        ({"measure": "loss"}, "0.0370, 0.0240"),
    ],
)
def test_an_encoders_report_says_what_the_search_shows(toy: LIA, tmp_path: Path, search: dict[str, Any], words: str) -> None:
    assert words in encoder_page(toy, tmp_path / "a.safetensors", search=search)


def test_an_encoders_report_without_a_search_or_held_out_images(toy: LIA, tmp_path: Path) -> None:
    about = {"kind": "training", "held_out": 0, "why": "24 images are too few to hold any out"}
    lia = with_figures(toy, encoder=encoded(real_images=about) | {"search": None})
    page = write_encoder_report(lia, picture(tmp_path / "a.safetensors")).read_text()
    assert "of training images, as 24 images are too few to hold any out" in page and "was not looked at" in page


def test_the_last_picture_of_a_run_is_the_reports(toy: LIA, tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    for folder in (tmp_path / "a", tmp_path / "a" / "encoder"):
        folder.mkdir()
        for number, value in ((5, -1.0), (40, 1.0)):
            image_grid(torch.full((1, 3, 4, 4), value)).save(folder / f"reconstructions-{number:08d}.png")
    lia = with_figures(toy, encoder=encoded(), training=trained())
    write_encoder_results(lia, out, tmp_path / "a")
    for write in (write_encoder_report, write_training_report):
        sources = needs_nothing(write(lia, out).read_text()).attributes("src")
        png = base64.b64decode(str(sources[-1]).partition(",")[2])
        assert np.asarray(Image.open(io.BytesIO(png))).min() == 255


def test_what_is_not_at_hand_is_not_spoken_of(toy: LIA, tmp_path: Path) -> None:
    figures: dict[str, Any] = {"source": "c", "lia": None, "count": 1234, "mse": None, "originals": None, "unreadable": {}}
    shown = {"count": 2, "originals": False}
    page = write_reconstruct_report({**figures, "shown": shown}, picture(tmp_path / "grid.json").parent).read_text()
    assert "1,234 images of c, drawn by a wrapped generator." in page and "mean squared error" not in page
    assert "The first 2: what the generator draws." in page and "could not be read" not in page


# -- curves


def points(curve: str) -> list[np.ndarray]:
    """The polylines of an SVG, each [n, 2]."""
    return [
        np.array([[float(v) for v in point.split(",")] for point in str(attributes["points"]).split()])
        for tag, attributes in Page(curve).elements
        if tag == "polyline"
    ]


@pytest.mark.parametrize("losses", [{}, {"a": []}, {"a": [1.0]}, {"a": [math.nan] * 5}, {"a": [math.inf, 1.0, math.nan]}])
def test_without_two_numbers_there_is_no_curve(losses: dict[str, list[float]]) -> None:
    assert loss_curves(losses) == "<p>No steps were trained.</p>"


def test_a_curve_spans_its_frame_from_first_to_last_and_least_to_most() -> None:
    (found,) = points(loss_curves({"loss": [3.0, 1.0, 2.0]}))
    np.testing.assert_allclose(found, [[52, 8], [182, 138], [312, 73]])


@pytest.mark.parametrize("values", [[5.0] * 4, [0.0, 0.0], [1e-300, 2e-300], [1e300, 2e300], [-1e9, 1e9, 0.0]])
def test_curves_of_any_size_stay_in_their_frame(values: list[float]) -> None:
    (found,) = points(loss_curves({"loss": values}))
    assert np.isfinite(found).all()
    assert (found >= [52, 8]).all() and (found <= [312, 138]).all()


def test_numbers_that_are_not_finite_are_left_out_of_a_curve() -> None:
    curve = loss_curves({"a": [math.nan, 3.0, math.inf, 1.0, 2.0, -math.inf], "b": [math.nan], "c": [1.0, 2.0]})
    first, second = points(curve)
    np.testing.assert_allclose(first, [[52, 8], [182, 138], [312, 73]])
    assert len(second) == 2
    text = Page(curve).text
    assert "a: 3 → 2" in text and "c: 1 → 2" in text and "b: " not in text and "nan" not in curve


def test_each_curve_has_its_name_and_its_range() -> None:
    names = [f"loss <{i}>" for i in range(7)]
    seen = Page(loss_curves({name: [1.5, float(i)] for i, name in enumerate(names)}))
    assert len([tag for tag, _ in seen.elements if tag == "svg"]) == 7
    assert [label for label in seen.attributes("aria-label")] == [f"{name}: 1.5 → {i}" for i, name in enumerate(names)]
    assert all(f"{name}: 1.5 → {i}" in seen.text for i, name in enumerate(names))
    assert "601.5start" in Page(loss_curves({"a": [60.0, 1.5]})).text.replace("\n", "")  # most, least, and where it begins
