"""Conditional checkpoints: one class of them, and images that have no labels."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from lia_adapter.cli.main import main
from lia_adapter.data import open_images
from lia_adapter.errors import ConfigError, LIAError
from lia_adapter.jobs.convert import convert
from lia_adapter.loading import load
from tests import toys


def second_of_three(n: int) -> torch.Tensor:
    return torch.eye(3)[1].expand(n, 3)


def test_one_class_draws_and_judges_what_the_conditional_network_does(tmp_path: Path) -> None:
    path = toys.checkpoint(tmp_path / "c.pkl", c_dim=3)
    all_, one = load(path), load(path, label=1)
    assert one.generator.c_dim == 0
    x = all_.sample(range(4), c=second_of_three(4))
    assert torch.equal(one.sample(range(4)), x)
    assert all_.discriminator is not None and one.discriminator is not None
    assert torch.equal(one.discriminator(x), all_.discriminator(x, second_of_three(4)))


def test_an_adapter_of_one_class_finds_its_class_again(tmp_path: Path) -> None:
    path = toys.checkpoint(tmp_path / "c.pkl", c_dim=3)
    converted = convert(load(path, label=1).generator, overrides=toys.QUICK)
    assert converted.mapping is not None and converted.mapping.c_dim == 0
    runner, out = CliRunner(), tmp_path / "one.safetensors"
    quick = [f"{key}={value}" for key, value in toys.QUICK.items()]
    done = runner.invoke(main, ["convert", str(path), "--class", "1", "-o", str(out), "--adapter-only", *quick])
    assert done.exit_code == 0, done.output
    lia = load(out, generator=path)
    assert lia.generator.c_dim == 0 and lia.sample([0]).isfinite().all()
    y = lia.generator.mapping(torch.ones(2, 6))
    assert torch.equal(y, load(path).generator.mapping(torch.ones(2, 6), second_of_three(2)))


def test_a_dense_mapping_of_one_class_starts_from_the_network_of_that_class() -> None:
    lia = toys.stylegan(c_dim=3)
    from lia_adapter.generators import build, of_class

    state = {f"generator.{name}": tensor for name, tensor in lia.generator.state_dict().items()}
    generator, _ = build("stylegan2", of_class(lia.config, 1) | {"discriminator": None}, state)
    converted = convert(generator, overrides=toys.QUICK | {"coupling": "dense", "steps": 0})  # type: ignore[arg-type]
    z = torch.randn(500, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted, found = generator.mapping(z), converted.to_y(z)  # type: ignore[union-attr]
        other = lia.generator.mapping(z, torch.eye(3)[0].expand(500, 3))
    distances = [float((y - found).square().mean()) for y in (wanted, other)]
    assert distances[0] < 0.5 * distances[1]


def test_images_without_labels_can_be_of_one_class(tmp_path: Path) -> None:
    folder = toys.pictures(tmp_path / "images", 3)
    with pytest.raises(LIAError, match="needs a label"):
        open_images(folder, (8, 8), 3, c_dim=3)
    images = open_images(folder, (8, 8), 3, c_dim=3, label=1)
    labels = images.labels(range(3))
    assert labels is not None and torch.equal(labels, second_of_three(3))
    for label, c_dim in ((3, 3), (-1, 3), (0, 0)):
        with pytest.raises(ConfigError, match="class of the images"):
            open_images(folder, (8, 8), 3, c_dim=c_dim, label=label)


@pytest.mark.parametrize(("c_dim", "wanted", "expected"), [(3, "3", "0 to 2"), (0, "0", "unconditional")])
def test_a_class_that_is_not_there(tmp_path: Path, c_dim: int, wanted: str, expected: str) -> None:
    path = toys.checkpoint(tmp_path / "c.pkl", c_dim=c_dim)
    done = CliRunner().invoke(main, ["convert", str(path), "--class", wanted, "-o", str(tmp_path / "x.safetensors")])
    assert isinstance(done.exception, ConfigError) or done.exit_code == 2
    assert expected in (done.output + str(done.exception))
