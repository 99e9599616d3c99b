"""Training from scratch: the losses, that it learns, that it resumes to the same bits, and that processes agree."""

import json
import zipfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from lia_adapter.config import load_recipe
from lia_adapter.data import open_images, to_floats
from lia_adapter.errors import ConfigError, LIAError
from lia_adapter.jobs.convert import convert
from lia_adapter.jobs.train import recipe_stages, train, train_lia
from lia_adapter.lia import LIA
from lia_adapter.loading import load
from lia_adapter.loop import Microbatch
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.training import augment
from lia_adapter.training.adversarial import gradient_penalty
from lia_adapter.training.encoder_config import EncoderConfig
from lia_adapter.training.gan import GanTraining, path_lengths
from lia_adapter.training.gan_config import TrainConfig
from tests import toys
from tests.jobs.test_train_encoder import torchrun

CPU = torch.device("cpu")
QUICK = {
    "height": 8, "width": 8, "split": "all", "z_dim": 8, "y_dim": 8, "channel_base": 64, "images": 160, "batch": 8,
    "metric_images": 16, "metrics": 2, "ema_images": 50, "r1_every": 4, "path_every": 2, "path_weight": 2.0, "noise": True,
}  # fmt: skip


def config(**changes: object) -> TrainConfig:
    return load_recipe(TrainConfig, "toyfaces32", QUICK | changes)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.pictures(tmp_path_factory.mktemp("pictures"), 24)


# -- losses


def test_gradient_penalty_of_a_quadratic() -> None:
    x = torch.randn(5, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    a = torch.randn(2, 3, 4, dtype=torch.float64)
    penalty = gradient_penalty((a * x.square()).sum(dim=(1, 2, 3))[:, None] / 2, x)
    expected = (a * x).square().sum(dim=(1, 2, 3)).mean()
    torch.testing.assert_close(penalty, expected)
    penalty.backward()
    torch.testing.assert_close(x.grad, 2 * a.square() * x.detach() / 5)


def test_path_lengths_of_a_linear_generator() -> None:
    matrix = torch.randn(3, 4, 2 * 5 * 6, dtype=torch.float64, requires_grad=True)  # [num_ws, y_dim, C H W]
    ys = torch.randn(7, 3, 4, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(7, 2, 5, 6, dtype=torch.float64)
    x = torch.einsum("nld,ldp->np", ys, matrix).unflatten(1, [2, 5, 6])
    lengths = path_lengths(x, ys, direction)
    jacobian = torch.einsum("ldp,np->nld", matrix, direction.flatten(1)) / 30**0.5
    torch.testing.assert_close(lengths, jacobian.square().sum(2).mean(1).sqrt())
    assert torch.autograd.grad(lengths.sum(), matrix)[0].abs().sum() > 0


@pytest.mark.parametrize("mapping", ["additive", "mlp"])
def test_one_pass_gives_both_players_the_gradients_of_two(pictures: Path, mapping: str) -> None:
    """Against the plain way: each player's loss from a pass of its own, in float64."""
    settings = config(mapping=mapping, precision="float64", mixing=0.5, r1_every=1, path_every=1)
    training = GanTraining(settings, open_images(pictures, (8, 8), 3), CPU)
    training.players.path_mean.fill_(0.3)
    part = Microbatch(0, range(8))
    losses = training.step(part)
    losses["loss"].backward()
    found = {name: p.grad for name, p in training.players.named_parameters() if p.requires_grad}

    generator, discriminator = training.generator, training.discriminator
    rows = list(range(8))
    x = to_floats(training.stream.batch(part.numbers)[0]).double().requires_grad_(True)
    drawn = generator.synthesis(training._ys(0, 0, rows, None), noise_mode=training._noise(0, 1, rows))
    ys = training._ys(0, 4, rows[:4], None)
    again = generator.synthesis(ys, noise_mode=training._noise(0, 5, rows[:4]))
    direction = torch.randn(8, 3, 8, 8, generator=training._random(0, 6), dtype=torch.float64)[:4]
    lengths = path_lengths(again, ys, direction)
    mean = 0.3 + 0.01 * (lengths.mean().detach() - 0.3)
    torch.testing.assert_close(training.players.path_mean, mean)
    fool = F.softplus(-discriminator(drawn)).mean() + settings.path_weight * (lengths - mean).square().mean()
    logits = discriminator(x)
    tell = F.softplus(discriminator(drawn.detach())).mean() + F.softplus(-logits).mean()
    tell = tell + settings.r1_gamma / 2 * gradient_penalty(logits, x)
    for player, loss in (("generator", fool), ("discriminator", tell)):
        module = training.players.get_submodule(player)
        names = [name for name, _ in module.named_parameters()]
        expected = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True, allow_unused=True)
        for name, gradient in zip(names, expected, strict=True):
            own = found[f"{player}.{name}"]
            torch.testing.assert_close(
                own if own is not None else torch.zeros([]), gradient if gradient is not None else torch.zeros([])
            )
    value = F.softplus(-discriminator(drawn)).mean() + tell + settings.path_weight * (lengths - mean).square().mean()
    torch.testing.assert_close(losses["loss"], value)


def test_regularisers_come_now_and_then_with_their_whole_weight(pictures: Path) -> None:
    training = GanTraining(config(r1_every=4, path_every=2), open_images(pictures, (8, 8), 3), CPU)
    losses = [training.step(Microbatch(i, range(8 * i, 8 * i + 8))) for i in range(8)]
    assert [bool(values["loss/r1"]) for values in losses] == [i % 4 == 0 for i in range(8)]
    assert [bool(values["loss/path"]) for values in losses] == [i % 2 == 0 for i in range(8)]


# -- runs


@pytest.mark.parametrize("mapping", ["additive", "affine", "dense", "mlp"])
def test_it_learns_what_pictures_look_like(pictures: Path, mapping: str) -> None:
    lia = train_lia(config(mapping=mapping, data=str(pictures), images=1600, metrics=4, metric_images=24), None, CPU)
    curve = lia.metrics["training"]["curve"]
    assert [shown for shown, _ in curve] == [400, 800, 1200, 1600]
    untrained = train_lia(config(mapping=mapping, data=str(pictures), images=8, metrics=1, metric_images=24), None, CPU)
    start = untrained.metrics["training"]["curve"][-1][1]
    assert curve[-1][1] < 0.5 * start


@pytest.mark.parametrize("mapping", ["additive", "affine", "dense"])
def test_the_generator_learns_with_a_mapping_that_has_an_inverse(tmp_path: Path, pictures: Path, mapping: str) -> None:
    lia = train_lia(config(mapping=mapping, data=str(pictures)), None, CPU)
    assert isinstance(lia.mapping, InvertibleMapping) and lia.mapping is lia.generator.mapping
    z = torch.randn(16, 8, dtype=torch.float64)
    y = lia.to_y(z)
    torch.testing.assert_close(lia.to_z(y), z, atol=1e-5, rtol=1e-5)
    assert (y - z).abs().mean() > 0.05  # it bends
    lia.save(tmp_path / "a.safetensors")
    again = load(tmp_path / "a.safetensors")
    assert torch.equal(again.sample(range(4)), lia.sample(range(4)))
    assert torch.equal(again.to_z(y), lia.to_z(y))
    torch.testing.assert_close(again.y_mean, lia.to_y(torch.randn(20_000, 8)).mean(dim=0), atol=0.1, rtol=0)
    with pytest.raises(LIAError, match="nothing to convert"):
        convert(lia.generator)


def test_without_one_it_is_a_checkpoint_to_convert(tmp_path: Path, pictures: Path) -> None:
    lia = train("toyfaces32", pictures, QUICK | {"mapping": "mlp", "depth": 2})
    assert lia.mapping is None
    lia.save(tmp_path / "plain.safetensors")
    assert torch.equal(load(tmp_path / "plain.safetensors").sample(range(4)), lia.sample(range(4)))
    with pytest.raises(LIAError, match="lia-adapt convert"):
        lia.save(tmp_path / "adapter.safetensors", adapter_only=True)
    converted = convert(tmp_path / "plain.safetensors", overrides=toys.QUICK)
    assert converted.mapping is not None and converted.mapping.coupling == "flow"


def test_half_precision_halves_the_file(tmp_path: Path, pictures: Path) -> None:
    lia = train_lia(config(data=str(pictures), mapping="mlp", images=8), None, CPU)
    for half in (False, True):
        lia.save(tmp_path / f"{half}.safetensors", half=half)
    sizes = {
        half: sum(t.numel() * t.element_size() for t in load_file(tmp_path / f"{half}.safetensors").values())
        for half in (False, True)
    }
    assert sizes[False] == 2 * sizes[True]
    a, b = (load(tmp_path / f"{half}.safetensors").sample(range(4)) for half in (False, True))
    torch.testing.assert_close(a, b, atol=0.02, rtol=0)


def state_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "state.safetensors")


class Killed(Exception):
    pass


@pytest.mark.parametrize("changes", [{}, {"mapping": "mlp", "augment_target": 0.01, "mirror": True, "accumulate": 2}])
def test_a_killed_run_goes_on_to_the_same_bits(
    tmp_path: Path, pictures: Path, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed twice, at other steps than those of the regularisers; weights, moments, averages and the log end the same."""
    monkeypatch.setattr(augment, "_HORIZON", 100)  # so that augmentation is strong after a few steps
    settings = config(save_seconds=0.0, data=str(pictures), **changes)

    def run(folder: Path, kill_at: int | None) -> LIA:
        def progress(name: str, done: int, total: int | None) -> None:
            if name == "generator" and kill_at is not None and done == kill_at * settings.batch:
                raise Killed

        return train_lia(settings, None, CPU, folder=folder, progress=progress)

    whole = run(tmp_path / "whole", None)
    for kill_at in (7, 13):
        with pytest.raises(Killed):
            run(tmp_path / "killed", kill_at)
    resumed = run(tmp_path / "killed", None)
    a, b = state_of(tmp_path / "whole"), state_of(tmp_path / "killed")
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert {"value.path_mean", "value.augment.p"} <= a.keys()
    assert a["value.path_mean"] > 0 and (a["value.augment.p"] > 0) == ("augment_target" in changes)
    for key in ("losses", "curve"):
        assert whole.metrics["training"][key] == resumed.metrics["training"][key]
    assert torch.equal(whole.sample(range(4)), resumed.sample(range(4)))


_WORKER = """
import sys
from pathlib import Path
import torch
from lia_adapter import ranks
from lia_adapter.training import augment
from lia_adapter.jobs.train import train_lia
from tests.jobs.test_train import config

torch.set_num_threads(1)
augment._HORIZON = 100  # so that augmentation is strong after a few steps
with ranks.process_group("cpu"):
    settings = config(precision="float64", augment_target=0.01, mirror=True, seed=1, data=sys.argv[1])
    train_lia(settings, None, torch.device("cpu"), folder=Path(sys.argv[2]))
"""


def test_two_processes_do_what_one_does(tmp_path: Path, pictures: Path) -> None:
    """20 steps in float64 with augmentation, R1, path lengths and minibatch statistics: weights and moments agree to 1e-9."""
    script = tmp_path / "worker.py"
    script.write_text(_WORKER)
    for processes in (1, 2):
        (tmp_path / str(processes)).mkdir()
        done = torchrun(processes, script, pictures, tmp_path / str(processes))
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = state_of(tmp_path / "1"), state_of(tmp_path / "2")
    assert one["value.augment.p"] > 0
    assert one.keys() == two.keys() and one["value.generator.synthesis.b4.const"].dtype == torch.float64
    assert max(float((one[name].double() - two[name].double()).abs().max()) for name in one if one[name].numel()) < 1e-9


# -- other shapes


def test_oblong_gray_and_conditional(tmp_path: Path) -> None:
    """Both stages at 8x12 in gray with three classes: nothing is square, and labels come from the data."""
    folder = toys.pictures(tmp_path / "pictures", 24, (8, 12))
    names = sorted(path.name for path in folder.iterdir())
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as file:
        for name in names:
            file.write(folder / name, name)
        file.writestr("dataset.json", json.dumps({"labels": [[name, i % 3] for i, name in enumerate(names)]}))
    settings = config(width=12, channels=1, c_dim=3, data=str(tmp_path / "d.zip"))
    lia = train_lia(settings, load_recipe(EncoderConfig, "encoder", toys.QUICK_ENCODER), CPU)
    lia.save(tmp_path / "f.safetensors")
    again = load(tmp_path / "f.safetensors")
    assert again.generator.resolution == (8, 12) and again.generator.c_dim == 3
    c = F.one_hot(torch.arange(3), 3).float()
    x = again.sample(range(3), c=c)
    assert x.shape == (3, 1, 8, 12)
    assert (again.sample(range(3), c=c.roll(1, 0)) - x).abs().max() > 1e-3
    y = again.encode(x)
    assert again.reconstruct(x).shape == x.shape and again.to_z(y, c).shape == (3, 8)


# -- what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mapping": "flow"}, "expected one of additive, affine, dense, mlp"),
        ({"z_dim": 4}, "an invertible mapping needs them equal"),
        ({"width": 10, "height": 17}, "multiples of 2"),
        ({"channel_base": 4}, "at least the shorter side, 8"),
        ({"images": -1}, "expected at least 0"),
        ({"mixing": 1.5}, "expected 0 to 1"),
        ({"batch": 9, "accumulate": 2}, "expected a multiple of"),
        ({"data": "there/is/none"}, "there is no"),
        ({"data": ""}, "Give data"),
    ],
)
def test_what_cannot_be_trained(pictures: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(LIAError, match=message):
        train_lia(config(**({"data": str(pictures)} | changes)), None, CPU)


def test_keys_of_the_second_stage() -> None:
    _, encoder = recipe_stages("toyfaces32", {"encoder.images": 123})
    assert encoder is not None and encoder.images == 123 and encoder.schedule == "cosine"
    assert recipe_stages("toyfaces32", {"mapping": "mlp"})[1] is None
    with pytest.raises(ConfigError, match="must be converted first"):
        recipe_stages("toyfaces32", {"mapping": "mlp", "encoder.images": 1})
    with pytest.raises(ConfigError, match="has no key 'imges'; did you mean 'images'"):
        recipe_stages("toyfaces32", {"encoder.imges": 1})
