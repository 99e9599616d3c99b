import dataclasses
import hashlib
import json
import logging
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lia_adapter.config import (
    check_rates,
    check_seed,
    key,
    key_help,
    load_recipe,
    parse_overrides,
    parse_seeds,
    recipe_names,
    stored,
    to_toml,
)
from lia_adapter.errors import ConfigError
from lia_adapter.jobs.invert_config import InvertConfig
from lia_adapter.notes import say_once
from lia_adapter.training.convert_config import ConvertConfig
from lia_adapter.training.encoder_config import EncoderConfig
from lia_adapter.training.gan_config import TrainConfig


@dataclass(frozen=True)
class Config:
    steps: int
    lr: float = 1e-3
    name: str = "plain"
    mirror: bool = False
    seed: int | None = None
    decay: float | None = None
    note: str | None = None
    widths: tuple[int, ...] = (8, 16)

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ConfigError(f"steps = {self.steps} is negative; expected 0 or more.")


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "mine.toml"
    path.write_text("# a comment\nsteps = 3\nlr = 1\nwidths = [1, 2]\n")
    return str(path)


def test_a_recipe_is_read_and_typed(recipe: str) -> None:
    config = load_recipe(Config, recipe)
    assert config == Config(steps=3, lr=1.0, widths=(1, 2))
    assert type(config.lr) is float


def test_overrides_win(recipe: str) -> None:
    overrides = {"steps": 9, "seed": 4, "note": "x", "decay": None, "widths": (5,)}
    assert load_recipe(Config, recipe, overrides) == Config(9, 1.0, seed=4, note="x", widths=(5,))


def test_an_unknown_key_names_the_nearest(recipe: str) -> None:
    with pytest.raises(ConfigError, match="has no key 'step'; did you mean 'steps'\\? Known keys: steps, lr, "):
        load_recipe(Config, recipe, {"step": 3})
    with pytest.raises(ConfigError, match="has no key 'zzz'; Known keys"):
        load_recipe(Config, recipe, {"zzz": 3})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("steps", 1.0, "a whole number"),
        ("steps", True, "a whole number"),
        ("steps", "3", "a whole number"),
        ("steps", None, "a whole number"),
        ("steps", {"a": 1}, "a whole number"),
        ("lr", float("nan"), "a finite number"),
        ("lr", float("-inf"), "a finite number"),
        ("lr", 10**400, "a finite number"),
        ("lr", False, "a finite number"),
        ("name", 3, "text in quotes"),
        ("mirror", 1, "true or false"),
        ("seed", 1.5, "a whole number"),
        ("decay", "x", "a finite number"),
        ("note", 1, "text in quotes"),
        ("widths", [1, True], "a list of whole numbers"),
        ("widths", 3, "a list of whole numbers"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(recipe: str, key: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=f": {key} = .*; expected {expected}"):
        load_recipe(Config, recipe, {key: value})


def test_a_key_without_default_must_be_set(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("lr = 1.0")
    with pytest.raises(ConfigError, match="does not set 'steps'"):
        load_recipe(Config, str(tmp_path / "a.toml"))


def test_ranges_are_the_dataclass_s_own(recipe: str) -> None:
    with pytest.raises(ConfigError, match="is negative"):
        load_recipe(Config, recipe, {"steps": -1})


def test_an_unknown_recipe_names_the_shipped_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lia_adapter.config.recipe_names", lambda: ["convert", "encoder"])
    with pytest.raises(ConfigError, match="'convrt'; did you mean 'convert'\\? Shipped recipes: convert, encoder"):
        load_recipe(Config, "convrt")


def test_a_shipped_recipe_is_found_by_its_name() -> None:
    assert recipe_names() == sorted(file.stem for file in (Path(__file__).parents[1] / "recipes").glob("*.toml"))
    for name in recipe_names():
        with pytest.raises(ConfigError, match="has no key|does not set"):
            load_recipe(_Other, name)


@dataclass(frozen=True)
class _Other:
    a_key_of_no_recipe: int


@pytest.mark.parametrize("content", [b"steps = ", b"steps = 1\nsteps = 2", b"\xff", b"a = " + b"[" * 100_000])
def test_invalid_toml_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="bad.toml is not valid TOML") as caught:
        load_recipe(Config, str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the recipe .*none.toml"):
        load_recipe(Config, str(tmp_path / "none.toml"))


def test_overrides_are_toml_or_text() -> None:
    pairs = ["a=1", "b = 2.5", "c=true", 'd="1"', "e=cuda:0", "f=", "g=x=y", "h=1\ni=2", "a=3", "j=" + "[" * 100_000]
    parsed = parse_overrides(pairs)
    assert parsed.pop("j").startswith("[[")
    assert parsed == {"a": 3, "b": 2.5, "c": True, "d": "1", "e": "cuda:0", "f": "", "g": "x=y", "h": "1\ni=2"}
    for bad in ("steps", "=3", ""):
        with pytest.raises(ConfigError, match="expected key=value"):
            parse_overrides([bad])


def test_seeds() -> None:
    assert parse_seeds("0-3,70, 5,5") == [0, 1, 2, 3, 70, 5, 5]
    assert parse_seeds(str(2**32 - 1)) == [2**32 - 1]
    assert len(parse_seeds("1-100000")) == 100_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected numbers and ranges"),
        ("1,,2", "expected numbers and ranges"),
        ("-1", "expected numbers and ranges"),
        ("a", "expected numbers and ranges"),
        ("١", "expected numbers and ranges"),
        ("5-1", "write 1-5"),
        ("4294967296", "too large"),
        ("0-100000", "100,000 seeds"),
        ("0-99999,7", "100,000 seeds"),
        ("0-4294967295", "100,000 seeds"),
        ("9" * 6000, "expected numbers and ranges"),
    ],
)
def test_bad_seeds(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_seeds(text)


_text = st.text(st.characters(exclude_categories=["Cs"]))
_number = st.floats(allow_nan=False, allow_infinity=False)
_integer = st.integers(-(2**63), 2**63 - 1)


@given(
    st.builds(
        Config,
        steps=st.integers(0, 2**40),
        lr=_number,
        name=_text,
        mirror=st.booleans(),
        seed=st.none() | _integer,
        decay=st.none() | _number,
        note=st.none() | _text,
        widths=st.lists(_integer).map(tuple),
    )
)
def test_a_printed_config_reads_back(config: Config) -> None:
    parsed = tomllib.loads(to_toml(config))
    assert Config(**{**parsed, "widths": tuple(parsed["widths"])}) == config
    assert not {key for key in parsed if getattr(config, key) is None}


# -- what is said of a key, and what it was called


@dataclass(frozen=True, kw_only=True)
class Told:
    mode: str = key("how images come to the size", "crop", was="fit")
    label: int | None = key("of all images", None, none=-1)
    network: str | None = key("compares images", "vgg16", none="none")
    height: int = key("of the images")
    plain: int = 3


def test_what_is_said_of_keys_is_printed_beside_them() -> None:
    assert to_toml(Told(height=8, network=None)).splitlines() == [
        'mode = "crop"              # how images come to the size',
        '# label = "none"           # of all images',
        'network = "none"           # compares images',
        "height = 8                 # of the images",
        "plain = 3",
    ]
    assert [line for line, _ in key_help(Told)] == ["mode=crop", "label=none", "network=vgg16", "height", "plain=3"]


def test_none_is_what_is_left_out_or_said_as_none_or_as_it_was_said(tmp_path: Path) -> None:
    path = tmp_path / "told.toml"
    path.write_text("height = 8\n")
    assert load_recipe(Told, str(path)) == Told(height=8)
    for said in ({"label": "none"}, {"label": -1}, {"label": None}):
        assert load_recipe(Told, str(path), said).label is None
    assert load_recipe(Told, str(path), {"label": 0}).label == 0
    assert load_recipe(Told, str(path), {"network": "none"}).network is None
    for wrong in ({"height": "none"}, {"label": -1.0}, {"label": ""}):
        with pytest.raises(ConfigError, match="expected a whole number"):
            load_recipe(Told, str(path), wrong)
    path.write_text(to_toml(Told(height=8, network=None, label=5)))
    assert load_recipe(Told, str(path)) == Told(height=8, network=None, label=5)


def test_the_old_name_of_a_key_is_read_and_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "told.toml"
    path.write_text('height = 8\nfit = "stretch"\n')
    say_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert load_recipe(Told, str(path)).mode == load_recipe(Told, str(path)).mode == "stretch"
        assert load_recipe(Told, str(path), {"mode": "letterbox"}).mode == "letterbox"
    assert [record.getMessage() for record in caplog.records] == [
        "the key fit is called mode now; its old name is read for one more release"
    ]


def test_what_is_stored_keeps_its_words() -> None:
    assert stored(Told(height=8)) == {"fit": "crop", "label": -1, "network": "vgg16", "height": 8, "plain": 3}
    assert stored(Told(height=8, label=2, network=None)) == {
        "fit": "crop", "label": 2, "network": "none", "height": 8, "plain": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("cls", "recipe", "overrides", "expected"),
    [
        (
            ConvertConfig,
            "convert",
            {"steps": 800, "statistics_samples": 60_000, "coupling_learning_rate": 2e-4},
            "691a93ff6969ccc3",
        ),
        (EncoderConfig, "encoder", {"split": "all"}, "2e104f21f01fb9f3"),
        (EncoderConfig, "encoder-cpu", {"label": 3, "bits": 12, "split": "all"}, "b4839a9662e5f2dd"),
        (TrainConfig, "toyfaces32", {}, "ae879cf73c758903"),
        (TrainConfig, "ffhq128", {"features": "a.pth", "depth": 6}, "38d5394d963e41a0"),
        (TrainConfig, "faces64", {"resize_mode": "stretch"}, "d3a4ce3d0d0b2ff0"),
    ],
)
def test_runs_that_the_last_release_saved_are_known(cls: Any, recipe: str, overrides: dict[str, Any], expected: str) -> None:
    """The digests are the last release's: its keys decide whether a run goes on."""
    keys = json.dumps(stored(load_recipe(cls, recipe, overrides)), sort_keys=True)
    assert hashlib.sha256(keys.encode()).hexdigest().startswith(expected)


@pytest.mark.parametrize("cls", [ConvertConfig, EncoderConfig, TrainConfig, InvertConfig])
def test_every_key_is_explained(cls: Any) -> None:
    assert [name for name, said in key_help(cls) if not said] == []


def test_recipes_of_the_last_release_mean_what_they_meant(tmp_path: Path) -> None:
    path = tmp_path / "old.toml"
    path.write_text('height = 32\nwidth = 32\ndata = ""\nfit = "crop"\nbits = 0\ndepth = 0\nfeatures = "none"\n')
    config = load_recipe(TrainConfig, str(path))
    assert config == TrainConfig(height=32, width=32)
    assert (config.data, config.bits, config.depth, config.features) == (None, None, None, None)
    path.write_text('label = -1\nbits = 0\nfeatures = "none"\n')
    assert load_recipe(EncoderConfig, str(path)) == EncoderConfig(features=None)


def test_seeds_and_rates_are_checked_alike() -> None:
    for cls in (ConvertConfig, EncoderConfig, InvertConfig):
        for seed, message in ((-1, "expected at least 0"), (2**31, "expected less than 2")):
            with pytest.raises(ConfigError, match=f"seed is {seed}; {message}"):
                check_seed(dataclasses.replace(cls(), seed=seed))
    for rate in (0.0, 1.5):
        with pytest.raises(ConfigError, match=f"learning_rate is {rate}; expected more than 0 and at most 1"):
            check_rates(EncoderConfig(learning_rate=rate), "learning_rate")


def test_configs_need_no_torch() -> None:
    rooms = "jobs.invert_config", "training.convert_config", "training.encoder_config", "training.gan_config"
    lines = [*(f"import lia_adapter.{room}" for room in rooms), "import sys", "sys.exit('torch' in sys.modules)"]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def test_a_new_key_makes_no_other_run_of_one_that_was_saved() -> None:
    @dataclasses.dataclass(frozen=True)
    class Old:
        steps: int = key("how many", 3)

    @dataclasses.dataclass(frozen=True)
    class New(Old):
        speed: float = key("how fast", 1.0, new=True)

    assert stored(New()) == stored(Old()) and stored(New(speed=2.0)) == {"steps": 3, "speed": 2.0}
