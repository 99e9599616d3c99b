"""What is said of z after a conversion: figures as they are, and no more than they show."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lia_adapter.cli.words import conversion_lines
from lia_adapter.config import load_recipe
from lia_adapter.jobs.convert import convert_lia, noise_picture
from lia_adapter.jobs.run import report_paths
from lia_adapter.lia import LIA
from lia_adapter.lia_file import read_header
from lia_adapter.reports.convert import write_convert_report
from lia_adapter.reports.prior import USUAL, number, prior_rows, prior_verdict
from lia_adapter.training.convert_config import ConvertConfig
from lia_adapter.training.mapping import fit_mapping
from tests import toys
from tests.reports.test_page import Page, convert_page, converted, needs_nothing, no_json, toy  # noqa: F401


def quick() -> ConvertConfig:
    return load_recipe(ConvertConfig, "convert", toys.QUICK)


def of_z(**changes: Any) -> dict[str, Any]:
    """What `convert` measures of a z that is usual."""
    ratio = {"value": 1.01, "floor": 1.0, "ratio": 1.01, "interval": [1.0, 1.02]}
    plain: dict[str, Any] = {name: ratio for name in USUAL} | {
        "z_classifier": {"value": 0.51, "floor": 0.5, "excess": 0.01, "interval": [0.0, 0.02]},
        "log_likelihood": {"value": -1.40, "gaussian": -1.42, "excess": 0.02, "interval": [0.019, 0.021]},
        "round_trip_float32": {"value": 2e-6}, "round_trip_z_float32": {"value": 3e-6}, "z_samples": 60_000,
        "noise": {"sigma": 0.0315, "psnr": 45.9, "images": 16}, "evaluation_seeds": 3,
    }  # fmt: skip
    return plain | changes


def off(ratio: float, low: float, high: float) -> dict[str, Any]:
    return {"value": ratio, "floor": 1.0, "ratio": ratio, "interval": [low, high]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "is usual: by all measures"),
        ({"z_size": off(1.1, 1.09, 1.11)}, "not usual: it differs from N(0, I) in Size of z, median."),
        ({"z_size": off(0.9, 0.89, 0.91)}, "not usual: it differs from N(0, I) in Size of z, median."),
        ({"z_spread_largest": off(1.2, 1.06, 1.3)}, "in Spread of z, largest."),
        ({"z_sliced_wasserstein": off(1.2, 0.8, 1.6)}, "3 evaluation seeds do not tell (Shape of z)"),
        ({"z_sliced_wasserstein": off(0.8, 0.5, 1.05)}, "is usual"),  # nearer than two sets of N(0, I) happen to be
        ({"z_sliced_wasserstein": off(1.0, 0.9, 1.1)}, "do not tell"),
        ({"z_classifier": {"value": 1, "floor": 0.5, "excess": 0.04, "interval": [0.031, 0.05]}}, "not usual"),
        (
            {"z_classifier": {"value": 1, "floor": 0.5, "excess": 0.04, "interval": [0.01, 0.07]}},
            "do not tell (Classifier of z)",
        ),
        # Of one seed there is no interval, and of what is not finite no figure.
        ({"z_size": {"value": 1.06, "floor": 1.0, "ratio": 1.06}}, "not usual"),
        ({"z_size": {"value": math.inf, "floor": 1.0, "ratio": math.inf}}, "not usual"),
        ({"z_size": {"value": None, "floor": 1.0, "ratio": None}}, "not usual"),
        ({"z_size": off(2, 1.9, 2.1), "z_spread": off(1.0, 0.9, 1.1)}, "in Size of z, median."),
    ],
)
def test_a_verdict_says_what_the_figures_show(changes: dict[str, Any], words: str) -> None:
    verdict = prior_verdict(of_z(**changes))
    assert words in verdict
    assert ("is usual" in verdict) == (words.startswith("is usual")) or "do not tell" in verdict


def test_the_report_tells_each_measure_and_what_is_right(toy: LIA, tmp_path: Path) -> None:  # noqa: F811
    figures = of_z(z_size={**off(1.234, 1.2, 1.3), "of each class": [0.9, None, 1.5]})
    page = convert_page(toy, tmp_path / "a.safetensors", **figures)
    text = Page(page).text
    for words in (
        "it differs from N(0, I) in Size of z, median.", "× 1.234", "1.2 to 1.3", "Of each class: 0: 0.900, 2: 1.500.", "51.0%",
        "-1.4", "-1.42", "+0.02", "2.0e-06 (3.0e-06)", "60,000 codes", "0.0315 standard deviations of y", "PSNR of 45.9 dB",
        "Size of z, 95 %", "Spread of z, largest", "Classifier of z", "Shape of z", "Likelihood",
    ):  # fmt: skip
        assert words in text, words
    assert "Usual z" not in text and "is usual" not in text
    assert page.count('class="n good"') == 5 + 6 and page.count('class="n bad"') == 1


def test_a_likelihood_is_good_where_it_is_above_a_gaussians() -> None:
    for excess, kind in (([0.001, 0.02], "good"), ([-0.02, -0.001], "bad"), ([-0.01, 0.01], "n")):
        m = {"value": -1.4, "gaussian": -1.4, "excess": sum(excess) / 2, "interval": excess}
        assert f'class="n{"" if kind == "n" else " " + kind}">{sum(excess) / 2:+.3g}' in prior_rows(of_z(log_likelihood=m))


def test_files_of_earlier_versions_have_no_figures_of_z(toy: LIA, tmp_path: Path) -> None:  # noqa: F811
    old = {name: value for name, value in converted().items() if not name.startswith(("z_", "log_"))}
    assert "z_size" not in conversion_lines(old) and "usual" not in conversion_lines(old)
    assert "N(0, I) in" not in convert_page(toy, tmp_path / "a.safetensors")


def test_the_terminal_tells_each_measure_in_a_line() -> None:
    lines = conversion_lines(converted() | of_z()).splitlines()
    names = {line.split()[0]: line for line in lines[:-1]}
    of_each = conversion_lines(converted() | of_z(z_size={**off(1, 1, 1), "of each class": [0.9, None, 1.5]}))
    assert "right is 1, 1; 0.9 to 1.5 for each class alone" in of_each
    assert names["z_size"].endswith("1.01, at 95 % 1.01: |z|^2 / d of the original's codes; right is 1, 1")
    assert "+0.010 above its noise floor; right is 0" in names["z_classifier"]
    assert "-1.4 nats a dimension; right is above a Gaussian's -1.4200" in names["log_likelihood"]
    assert "2.0e-06 with z in float32, 3.0e-06 for z -> y -> z" in names["round_trip_float32"]
    assert "45.9 dB in pictures" in names["noise"] and lines[-1].startswith("The z of the original's codes is usual")
    assert all(len(line) <= 120 for line in lines[:-1])


def test_what_is_too_large_is_said_in_words() -> None:
    assert number(None, ".3f") == number(math.nan, ".3f") == number(math.inf, ".3f") == "too large"
    assert number(-math.inf, ".3f", "too small") == "too small" and number(1.5, ".2f") == "1.50"
    huge = {"value": None, "floor": 1.0, "ratio": None}
    figures = of_z(
        **dict.fromkeys(("z_size", "z_size_95", "z_spread", "z_spread_largest", "z_sliced_wasserstein"), huge),
        log_likelihood={"value": None, "gaussian": -1.42, "excess": None}, round_trip_float32={"value": None},
    )  # fmt: skip
    lines = conversion_lines(converted() | figures)
    assert (
        "too large, at 95 % too large" in lines and "too small nats" in lines and "None" not in lines and "not usual" in lines
    )
    assert "too large" in prior_rows(figures) and "None" not in prior_rows(figures)


@pytest.mark.parametrize("factor", [1e-30, 1e30, 1e38])
def test_a_mapping_gone_wild_is_written_and_told(
    tmp_path: Path, reference_ops: None, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    """All files are whole and valid, whatever was measured."""

    def wild(*args: Any, **options: Any) -> Any:
        mapping, history = fit_mapping(*args, **options)
        mapping.colour.mul_(factor)
        return mapping, history

    monkeypatch.setattr("lia_adapter.jobs.convert.fit_mapping", wild)
    out = tmp_path / "f.safetensors"
    made = convert_lia(toys.stylegan(), quick(), out=out)
    page = write_convert_report(made, out).read_text()
    assert "not usual" in page and "is usual" not in page
    json.loads(report_paths(out)["json"].read_text(), parse_constant=no_json)
    header = read_header(out)
    json.dumps(header, allow_nan=False)
    assert "not usual" in conversion_lines(header["metrics"])


@pytest.mark.parametrize("c_dim", [0, 3])
def test_the_noise_is_shown(tmp_path: Path, reference_ops: None, c_dim: int) -> None:
    out = tmp_path / "f.safetensors"
    made = convert_lia(toys.stylegan(c_dim=c_dim), quick(), out=out)
    picture = noise_picture(made)
    assert picture.size == (8 * 8, 3 * 8)
    x, noisy, difference = np.asarray(picture.convert("L"), dtype=float).reshape(3, 8, 64)
    assert (x != noisy).any() and 100 < difference.mean() < 156  # about grey
    page = write_convert_report(made, out, picture).read_text()
    seen = needs_nothing(page)
    assert len([element for element in seen.elements if element[0] == "img"]) == 2
    assert ("Of each class" in seen.text) == (c_dim > 0)
    # Without the picture, the page is whole, too.
    seen = needs_nothing(write_convert_report(made, out).read_text())
    assert len([element for element in seen.elements if element[0] == "img"]) == 1
