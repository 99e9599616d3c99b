"""Every recipe that ships: it reads back, says how it is run, and runs two steps of each of its stages on stand-in data."""

import dataclasses
import importlib.resources
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import vgg16

from lia_adapter.config import has_table, load_recipe, recipe_names, to_toml
from lia_adapter.data import open_images
from lia_adapter.direction_keys import FIND_METHODS, FindConfig
from lia_adapter.editing.methods import METHODS
from lia_adapter.jobs.convert import convert
from lia_adapter.jobs.train import recipe_stages, train_lia
from lia_adapter.jobs.train_encoder import train_encoder
from lia_adapter.loading import load
from lia_adapter.training.encoder_search import search_from_codes
from lia_adapter.training.gan_config import TrainConfig
from tests import toys
from tests.recipe_comments import RECIPES, commented, config_of

LIKE_FFHQ128 = ("ffhq256", "lsun-bedroom128", "lsun-cat128")
"""Recipes whose stages go the same ways as that one's: they are trained where there is time."""
TRAINED = [path.stem for path in RECIPES if config_of(path.stem) is TrainConfig]
PAPER = ("ffhq128", "ffhq256", "lsun-cat128", "lsun-bedroom128", "lsun-car128x96")
# What makes a step small; sizes of images, splits, and all that decides how a step goes stay the recipe's own.
SMALL: dict[str, Any] = {
    "images": 4, "batch": 2, "channel_base": 512, "channel_max": 8, "z_dim": 16, "y_dim": 16, "metric_images": 4, "metrics": 1,
    "r1_every": 1, "path_every": 1, "encoder.images": 4, "encoder.batch": 2, "encoder.width": 4, "encoder.width_max": 8,
    "encoder.statistics_samples": 200, "encoder.known_answers": 4,
}  # fmt: skip


def text_of(name: str) -> str:
    return importlib.resources.files("lia_adapter._recipes").joinpath(f"{name}.toml").read_text()


@pytest.mark.parametrize("name", recipe_names())
def test_it_begins_with_its_command(name: str) -> None:
    first = text_of(name).splitlines()[0]
    own = re.escape(name)
    assert re.match(rf"# lia-adapt (train {own}\b|convert |invert |directions find |train-encoder .*--recipe {own}\b)", first)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_says_of_each_key_what_its_config_says(path: Path) -> None:
    assert path.read_text() == commented(path.stem, path.read_text()), "python -m tests.recipe_comments writes it"


@pytest.mark.parametrize("name", ["convert", "invert", "encoder", "toyfaces32"])
def test_one_recipe_of_each_kind_names_all_keys(name: str) -> None:
    keys = {field.name for field in dataclasses.fields(config_of(name))}
    assert keys == set(re.findall(r"^(?:# )?(\w+) = ", text_of(name).partition("[encoder]")[0], re.MULTILINE))


@pytest.mark.parametrize("name", recipe_names())
def test_what_is_printed_of_it_reads_back(name: str, tmp_path: Path) -> None:
    config = load_recipe(config_of(name), name)
    (tmp_path / "mine.toml").write_text(to_toml(config))
    assert load_recipe(config_of(name), str(tmp_path / "mine.toml")) == config
    assert to_toml(config) == commented(name, to_toml(config))


def test_the_recipe_of_a_command_holds_its_defaults() -> None:
    for name in ("convert", "invert", "encoder"):
        assert load_recipe(config_of(name), name) == config_of(name)()


def test_each_method_of_directions_has_a_recipe_of_its_own() -> None:
    names = [name for name in recipe_names() if name.startswith("directions-")]
    assert names == sorted(f"directions-{method}" for method in FIND_METHODS) and len(names) == len(METHODS) == 10
    for method in FIND_METHODS:
        text, config = text_of(f"directions-{method}"), load_recipe(FindConfig, f"directions-{method}")
        assert text.startswith(f"# lia-adapt directions find {method} ") and config.method == method


def test_all_that_are_promised_are_there() -> None:
    assert {"toyfaces32", "faces64", *PAPER} == set(TRAINED)


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_settings(name: str) -> None:
    """LIA, sec. 5: loss weights, optimiser and split."""
    config, encoder = recipe_stages(name)
    assert encoder is not None and has_table(name, "encoder")
    assert (config.mapping, config.r1_gamma, config.mixing) == ("additive", 10.0, 0.9)
    assert (encoder.images, encoder.batch, encoder.learning_rate, encoder.schedule) == (12_000_000, 128, 1e-4, "quarters")
    assert (encoder.pixel_weight, encoder.vgg_weight, encoder.adversarial_weight, encoder.r1_gamma) == (1.0, 5e-5, 0.1, 10.0)
    faces = name.startswith("ffhq")
    assert config.mirror == encoder.mirror == faces
    # Of LSUN the paper names no images for tests: the encoder's are held out by themselves.
    assert (config.split, encoder.split) == (("first 65000", "first 65000") if faces else ("all", "not held out"))


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of VGG16's shape, in place of the download."""
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("vgg") / "vgg16.safetensors"
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in vgg16().state_dict().items()}
    save_file(
        {key: torch.zeros(shape) if "classifier" in key else 0.05 * torch.randn(shape) for key, shape in shapes.items()}, path
    )
    return path


@pytest.fixture
def short_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the search after training gains is told elsewhere; here it takes two steps, too."""
    monkeypatch.setattr("lia_adapter.jobs.train_encoder.search_from_codes", partial(search_from_codes, steps=2))


@pytest.mark.usefixtures("short_search")
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LIKE_FFHQ128)) for name in TRAINED])
def test_two_steps_of_each_stage(name: str, tmp_path: Path, vgg: Path) -> None:
    config, _ = recipe_stages(name)
    data = (
        "toyfaces:20" if config.data == "toyfaces" else str(toys.pictures(tmp_path / "data", 6, (config.height, config.width)))
    )
    changes = SMALL | {"data": data, "encoder.features": str(vgg) if name == "ffhq128" else "none"}
    for key in ("split", "encoder.split"):  # stand-in data are few
        if recipe_stages(name)[0 if key == "split" else 1].split != "all":  # type: ignore[union-attr]
            changes |= {key: "not last 2"}
    lia = train_lia(*recipe_stages(name, changes), torch.device("cpu"))
    lia.save(tmp_path / "trained.safetensors")
    again = load(tmp_path / "trained.safetensors")
    x = again.sample(range(2))
    assert x.shape == (2, 3, config.height, config.width)
    assert again.reconstruct(x).shape == x.shape and torch.isfinite(again.to_z(again.encode(x))).all()


@pytest.mark.usefixtures("short_search")
def test_cars_are_never_square(tmp_path: Path) -> None:
    """128x96 through all of it: stage 1 with StyleGAN's mapping, convert, train_encoder, encode, reconstruct, invert."""
    data = toys.pictures(tmp_path / "cars", 6, (96, 128))
    stages = {key: value for key, value in SMALL.items() if not key.startswith("encoder.")}
    config, _ = recipe_stages("lsun-car128x96", stages | {"data": str(data), "mapping": "mlp"})
    train_lia(config, None, torch.device("cpu")).save(tmp_path / "cars.safetensors")
    converted = convert(tmp_path / "cars.safetensors", overrides=toys.QUICK)
    lia = train_encoder(converted, data, overrides=toys.QUICK_ENCODER | {"images": 16})
    images = open_images(data, (96, 128), 3)
    x = torch.stack([item.x for item in map(images.load, range(2)) if item is not None])
    y = lia.encode(x)
    assert x.shape == lia.reconstruct(x).shape == lia.sample([1, 2]).shape == (2, 3, 96, 128)
    torch.testing.assert_close(lia.to_y(lia.to_z(y)), y, atol=1e-4, rtol=1e-4)
    assert lia.invert(x, steps=2).images.shape == x.shape
