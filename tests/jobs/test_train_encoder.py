"""`train_encoder`: it learns, resumes to the same bits, agrees over processes, and leaves the generator alone."""

import contextlib
import copy
import dataclasses
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import squeezenet1_0

import lia_adapter
from lia_adapter import encoder
from lia_adapter.cli.words import encoder_lines
from lia_adapter.config import load_recipe
from lia_adapter.data import open_images
from lia_adapter.encoder import Encoder
from lia_adapter.errors import ConfigError, LIAError
from lia_adapter.export import export_graphs
from lia_adapter.generators import Discriminator, fingerprint, wrap
from lia_adapter.generators.base import checkpointed
from lia_adapter.generators.discriminator import lower_discriminator
from lia_adapter.inversion.loss import IMAGE_LOSS
from lia_adapter.jobs.train_encoder import train_encoder_lia
from lia_adapter.lia import LIA
from lia_adapter.loading import load
from lia_adapter.loop import Microbatch
from lia_adapter.metrics.images import mse
from lia_adapter.reports.encoder import encoder_verdict, real_images_words
from lia_adapter.resize import resize
from lia_adapter.training.encoder import EncoderTraining
from lia_adapter.training.encoder_checks import Checks
from lia_adapter.training.encoder_config import EncoderConfig
from tests import toys

ROOT = Path(__file__).parents[2]


def config(**changes: object) -> EncoderConfig:
    return load_recipe(EncoderConfig, "encoder", toys.QUICK_ENCODER | changes)


def converted(**changes: int) -> LIA:
    """A toy LIA without an encoder."""
    lia = toys.with_encoder(toys.stylegan(**changes))
    lia.encoder = lia.typicality = None
    return lia


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.pictures(tmp_path_factory.mktemp("pictures"), 24)


def drawn(lia: LIA, folder: Path, n: int = 400) -> Path:
    """A data set that the generator drew itself, so that it can be drawn again."""
    from lia_adapter.pictures import image_grid, save_png

    folder.mkdir(exist_ok=True)
    z = torch.randn(n, lia.generator.z_dim, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        x = lia.synthesize(lia.generator.mapping(z))
    for i, image in enumerate(x.split(1)):
        save_png(folder / f"{i:04d}.png", image_grid(image))
    return folder


def test_it_learns_to_encode_what_the_generator_draws(tmp_path: Path) -> None:
    lia = converted()
    for name, parameter in lia.generator.named_parameters():
        if name.endswith("torgb.weight"):  # so that its pictures fit into [-1, 1], and into PNGs
            parameter.mul_(0.2)
    before = fingerprint(lia.generator)
    data = drawn(lia, tmp_path / "drawn")
    settings = config(
        images=300 * 16, batch=16, width=16, width_max=64, split="not last 50", schedule="cosine", known_answers=200,
        learning_rate=3e-3,
    )  # fmt: skip
    trained = train_encoder_lia(lia, data, settings)
    figures = trained.metrics["encoder"]
    assert figures["after"]["correlation"] > 0.8 > figures["before"]["correlation"]
    assert figures["after"]["mse"] < 0.3 * figures["before"]["mse"]
    images = open_images(data, (8, 8), 3, split="last 50")
    x = torch.stack([item.x for item in map(images.load, range(50)) if item is not None])
    error = (trained.reconstruct(x) - x).square().mean()
    assert error == pytest.approx(figures["after"]["mse_of_real_images"], rel=1e-3)  # those 50 are what was held out
    assert fingerprint(trained.generator) == before
    assert trained.provenance["encoder"]["data"]["images"] == 350
    trained.save(tmp_path / "t.safetensors")
    again = load(tmp_path / "t.safetensors")
    assert torch.equal(again.encode(x), trained.encode(x))
    assert again.typicality is not None and trained.typicality is not None
    assert torch.equal(again.typicality(again.encode(x)), trained.typicality(trained.encode(x)))


def state_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "state.safetensors")


class Killed(Exception):
    pass


@pytest.mark.parametrize("adversarial", [0.0, 0.1])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, pictures: Path, adversarial: float) -> None:
    """Killed twice at other steps than a save's; weights, moments, running statistics, averages and the log end the same."""
    settings = config(save_seconds=0.0, adversarial_weight=adversarial, mirror=True, accumulate=2)
    lia = converted()

    def run(folder: Path, kill_at: int | None) -> LIA:
        def progress(name: str, done: int, total: int | None) -> None:
            if name == "encoder" and kill_at is not None and done == kill_at * settings.batch:
                raise Killed

        return train_encoder_lia(lia, pictures, settings, folder=folder, progress=progress)

    whole = run(tmp_path / "whole", None)
    for kill_at in (7, 13):
        with pytest.raises(Killed):
            run(tmp_path / "killed", kill_at)
    resumed = run(tmp_path / "killed", None)
    a, b = state_of(tmp_path / "whole"), state_of(tmp_path / "killed")
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert any("exp_avg_sq" in name for name in a) and any("running_var" in name for name in a)
    assert whole.metrics["encoder"]["losses"] == resumed.metrics["encoder"]["losses"]
    assert whole.encoder is not None and resumed.encoder is not None
    assert fingerprint(whole.encoder) == fingerprint(resumed.encoder)

    def log(folder: Path) -> list[dict[str, float]]:
        lines = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
        return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]

    assert log(tmp_path / "whole") == log(tmp_path / "killed")
    assert [line["step"] for line in log(tmp_path / "whole")] == list(range(1, 21))
    assert "batch = 8" in (tmp_path / "whole" / "recipe.toml").read_text()


def test_another_recipe_or_data_set_begins_anew(tmp_path: Path, pictures: Path) -> None:
    lia, begun = converted(), []
    runs: list[dict[str, object]] = [{}, {}, {"seed": 1}, {"split": "first 20"}]
    for changes in runs:
        seen: list[int] = []

        def progress(name: str, done: int, total: int | None, seen: list[int] = seen) -> None:
            seen += [done] if name == "encoder" else []

        train_encoder_lia(lia, pictures, config(**changes), folder=tmp_path / "run", progress=progress)
        begun.append(seen[0])
    assert begun == [0, 20 * config().batch, 0, 0]


_WORKER = """
import sys
from pathlib import Path
from tests import toys
from tests.jobs.test_train_encoder import config, converted
from lia_adapter import ranks
from lia_adapter.jobs.train_encoder import train_encoder_lia
import torch

torch.set_num_threads(1)
with ranks.process_group("cpu"):
    settings = config(precision="float64", adversarial_weight=0.1, mirror=True)
    train_encoder_lia(converted(), sys.argv[1], settings, folder=Path(sys.argv[2]))
"""


def torchrun(processes: int, script: Path, *args: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), str(script)]
    return subprocess.run(
        [*command, *map(str, args)], cwd=ROOT, capture_output=True, text=True, timeout=240, env=_environment(), check=False
    )


def _environment() -> dict[str, str]:
    import os

    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_two_processes_do_what_one_does(tmp_path: Path, pictures: Path) -> None:
    """20 steps in float64, with the discriminator: weights, moments and running statistics agree to 1e-9."""
    script = tmp_path / "worker.py"
    script.write_text(_WORKER)
    for processes in (1, 2):
        (tmp_path / str(processes)).mkdir()
        done = torchrun(processes, script, pictures, tmp_path / str(processes))
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = state_of(tmp_path / "1"), state_of(tmp_path / "2")
    assert one.keys() == two.keys()
    assert one["value.encoder.stem.weight"].dtype == torch.float64
    assert max(float((one[name].double() - two[name].double()).abs().max()) for name in one if one[name].numel()) < 1e-9


_DIES = """
import os, sys
from pathlib import Path
from tests.jobs.test_train_encoder import config, converted
from lia_adapter.errors import LIAError
from lia_adapter import ranks
from lia_adapter.jobs.train_encoder import train_encoder_lia

def progress(name, done, total):
    if name == "encoder" and done == 5 * config().batch and ranks.rank() == 1:
        os._exit(9)

try:
    with ranks.process_group("cpu"):
        train_encoder_lia(converted(), sys.argv[1], config(), folder=Path(sys.argv[2]), progress=progress)
except LIAError as error:
    print(error, file=sys.stderr, flush=True)
    sys.exit(2)
"""


def test_a_process_that_dies_ends_the_job_with_a_message(tmp_path: Path, pictures: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(_DIES)
    done = torchrun(2, script, pictures, tmp_path / "run")
    assert done.returncode != 0
    assert "lost its connection to the others" in done.stderr or "exitcode: 9" in done.stderr.replace(" ", "").replace(
        "exitcode:9", "exitcode: 9"
    )


@pytest.mark.parametrize("space", ["y", "ys"])
def test_spaces(pictures: Path, space: str) -> None:
    trained = train_encoder_lia(converted(), pictures, config(space=space, images=16))
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    assert trained.encode(x).shape == ((2, 16) if space == "y" else (2, 4, 16))
    assert trained.reconstruct(x).shape == x.shape


def test_a_batch_of_one_and_bfloat16(pictures: Path) -> None:
    trained = train_encoder_lia(converted(), pictures, config(batch=1, images=10, precision="bfloat16", adversarial_weight=0.1))
    assert all(p.isfinite().all() and p.dtype == torch.float32 for p in trained.encoder.parameters())  # type: ignore[union-attr]


def test_accumulation_with_one_part_each_step_is_the_same_run(pictures: Path) -> None:
    """Without batch statistics in the way (a batch of one each), two parts of one sample are one batch of two."""
    runs = [train_encoder_lia(converted(), pictures, config(batch=4, images=12, accumulate=n, generated=0.0)) for n in (1, 2)]
    losses = [run.metrics["encoder"]["losses"]["loss"][0] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=0.3)  # other batch statistics, the same images


def test_a_class_conditional_generator_takes_labels_from_the_zip(tmp_path: Path, pictures: Path) -> None:
    names = sorted(path.name for path in pictures.iterdir())
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as file:
        for name in names:
            file.write(pictures / name, name)
        file.writestr("dataset.json", json.dumps({"labels": [[name, i % 3] for i, name in enumerate(names)]}))
    lia = converted(c_dim=3)
    trained = train_encoder_lia(lia, tmp_path / "d.zip", config(images=16, adversarial_weight=0.1))
    assert trained.encode(torch.zeros(2, 3, 8, 8)).shape == (2, 16)
    with pytest.raises(LIAError, match="label"):
        train_encoder_lia(lia, pictures, config(images=16))


def test_a_wrapped_generator_gets_a_fresh_discriminator(tmp_path: Path) -> None:
    generator = wrap(toys.Sprites(), mapping="style", synthesis="draw")
    lia = toys.with_encoder(LIA(generator))
    data = toys.pictures(tmp_path / "p", 8, (8, 12))
    trained = train_encoder_lia(lia, data, config(images=16, adversarial_weight=0.1))
    assert "loss/G" in trained.metrics["encoder"]["losses"]
    trained.save(tmp_path / "s.safetensors")
    x = torch.zeros(1, 3, 8, 12)
    assert torch.equal(load(tmp_path / "s.safetensors", generator=generator).encode(x), trained.encode(x))


def test_any_torchvision_network_is_the_perceptual_one(tmp_path: Path, pictures: Path) -> None:
    from safetensors.torch import save_file

    save_file(squeezenet1_0().state_dict(), tmp_path / "squeezenet1_0.safetensors")
    trained = train_encoder_lia(converted(), pictures, config(images=8, features=str(tmp_path / "squeezenet1_0.safetensors")))
    assert "loss/perceptual" in trained.metrics["encoder"]["losses"]
    assert "squeezenet1_0" in trained.provenance["encoder"]["features"].lower()


def test_the_python_call(pictures: Path) -> None:
    lia = converted()
    trained = lia_adapter.train_encoder(lia, pictures, overrides=toys.QUICK_ENCODER | {"images": 8})
    assert trained.encoder is not None and lia.encoder is None


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.pictures(tmp_path_factory.mktemp("many"), 120)


def test_some_images_are_held_out_where_nobody_says_which(tmp_path: Path, many: Path) -> None:
    """Their figures are theirs, and the training does not see them: with others in their place it is the same."""
    settings = config(images=40, batch=4, pyramid_weight=0.0)
    lia, kept = converted(), open_images(many, (8, 8), 3, split="held out")
    trained = train_encoder_lia(lia, many, settings, folder=tmp_path / "run")
    figures = trained.metrics["encoder"]
    assert figures["real_images"] == {"kind": "held-out", "held_out": 10}
    assert trained.provenance["encoder"]["data"]["images"] == 110
    x = torch.stack([item.x for item in map(kept.load, range(10)) if item is not None])
    errors = (trained.reconstruct(x) - x).square().mean(dim=(1, 2, 3))
    assert float(errors.mean()) == pytest.approx(figures["after"]["mse_of_real_images"], rel=1e-3)
    search = figures["search"]
    assert search["images"] == 10 and search["encoder"] == pytest.approx(float(errors.mean()), rel=1e-3)
    assert 0 < search["gain"] and search["found"] == pytest.approx(search["encoder"] - search["gain"])
    assert trained.coordinates is None and (tmp_path / "run" / "search.png").stat().st_size > 0
    assert "held-out images" in encoder_verdict(figures) and "(10 are held out)" in real_images_words(figures)
    others = tmp_path / "others"
    others.mkdir()
    for path in many.iterdir():
        (others / path.name).write_bytes(b"broken" if path.name in kept.names[1:] else path.read_bytes())
    again = train_encoder_lia(lia, others, settings)
    assert again.encoder is not None and trained.encoder is not None
    assert fingerprint(again.encoder) == fingerprint(trained.encoder)


@pytest.mark.parametrize(
    ("n", "split", "words"),
    [
        (24, "not held out", "training images, as 24 images are too few to hold any out"),
        (120, "all", "training images, as the split 'all' holds none out"),
        (120, "first 100", "real images that the training did not see (20 are held out)"),
    ],
)
def test_what_real_images_are_is_said(pictures: Path, many: Path, n: int, split: str, words: str) -> None:
    figures = train_encoder_lia(converted(), pictures if n == 24 else many, config(split=split, images=8)).metrics["encoder"]
    assert real_images_words(figures) == words and words in encoder_lines(figures)
    assert (" training images " in encoder_verdict(figures)) == words.startswith("training")


@pytest.mark.parametrize(("n", "goes_on"), [(24, True), (120, False)])
def test_a_run_of_before_does_not_change_its_images(tmp_path: Path, pictures: Path, many: Path, n: int, goes_on: bool) -> None:
    """One that was begun when nothing was held out begins anew where something is now, unless it is told split=all."""
    lia, data, begun = converted(), pictures if n == 24 else many, []
    for split in ("all", "not held out", "not held out", "all"):
        seen: list[int] = []

        def progress(name: str, done: int, total: int | None, seen: list[int] = seen) -> None:
            seen += [done] if name == "encoder" else []

        train_encoder_lia(lia, data, config(split=split, images=40), folder=tmp_path / "run", progress=progress)
        begun.append(seen[0] > 0)
    assert begun == [False, goes_on, True, goes_on]


def test_a_float64_training_with_a_network_and_labels_is_searched(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    data = toys.pictures(tmp_path / "d", 8, (32, 32))
    (data / "dataset.json").write_text(json.dumps({"labels": [[f"{i:03d}.png", i % 3] for i in range(8)]}))
    save_file(squeezenet1_0().state_dict(), tmp_path / "squeezenet1_0.safetensors")
    features = str(tmp_path / "squeezenet1_0.safetensors")
    settings = config(images=8, split="first 4", precision="float64", features=features, space="ys", prior_weight=0.1)
    search = train_encoder_lia(converted(c_dim=3, resolution=32), data, settings).metrics["encoder"]["search"]
    assert search["images"] == 4 and search["measure"] == "loss" and search["space"] == "ys" and search["gain"] > 0


def test_what_cannot_be_trained_is_refused(tmp_path: Path, pictures: Path) -> None:
    with pytest.raises(LIAError, match="lia-adapt convert"):
        train_encoder_lia(toys.stylegan(), pictures, config())
    with pytest.raises(ConfigError, match="batch is 8; expected a multiple of 1 processes × accumulate 3"):
        train_encoder_lia(converted(), pictures, config(accumulate=3))
    with pytest.raises(LIAError, match="the training diverged"):
        train_encoder_lia(converted(), pictures, config(pixel_weight=1e38, learning_rate=1.0))
    for key, value in {"space": "w", "resize_mode": "pad", "schedule": "linear", "batch": 0, "learning_rate": 0.0}.items():
        with pytest.raises(ConfigError, match=key):
            config(**{key: value})


def test_the_papers_recipe_is_the_default_and_the_cpu_one_differs_where_it_says() -> None:
    assert load_recipe(EncoderConfig, "encoder") == EncoderConfig()
    small = load_recipe(EncoderConfig, "encoder-cpu")
    assert small.features is None and small.adversarial_weight == 0 and small.steps == 1563


@pytest.mark.parametrize("adversarial", [0.0, 0.1])
def test_a_batch_that_is_drawn_in_parts_has_the_same_gradients(pictures: Path, adversarial: float) -> None:
    """Also with a discriminator, which compares the images of a batch with one another, and with blocks that are run again."""
    found = []
    for at_once, drawing in ((8, contextlib.nullcontext), (3, contextlib.nullcontext), (3, checkpointed)):
        lia = converted()
        images = open_images(pictures, (8, 8), 3)
        training = EncoderTraining(lia, images, config(precision="float64", adversarial_weight=adversarial), None)
        training.at_once, training.drawing = at_once, drawing
        told: list[int] = []
        losses = training.step(Microbatch(0, range(8), None, told.append))
        losses["loss"].backward()
        gradients = torch.cat([p.grad.flatten() for p in training.module.parameters() if p.grad is not None])
        found.append((gradients, {name: value.item() for name, value in losses.items()}))
        assert told == list(range(at_once, 8, at_once)) + [8]
    for gradients, values in found[1:]:
        torch.testing.assert_close(gradients, found[0][0], rtol=1e-9, atol=1e-12)
        assert values == pytest.approx(found[0][1], rel=1e-9)


def test_without_a_network_the_loss_is_that_of_invert(pictures: Path) -> None:
    training = EncoderTraining(converted(), open_images(pictures, (8, 8), 3), config(), None)
    assert training.loss == IMAGE_LOSS


def test_an_encoder_that_keeps_the_inputs_of_its_stages_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients are the same, and batch normalisation sees each batch once."""
    whole = Encoder((32, 32), 3, 6, 4, width=4).double().train()
    lean = copy.deepcopy(whole)
    x = torch.randn(5, 3, 32, 32, dtype=torch.float64)
    whole(x).square().sum().backward()
    monkeypatch.setattr(encoder, "_LARGE", 1)
    lean(x).square().sum().backward()
    for a, b in zip(whole.parameters(), lean.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12)
    for name, buffer in whole.named_buffers():
        torch.testing.assert_close(buffer, lean.get_buffer(name), rtol=1e-12, atol=1e-12)


def test_a_large_checkpoints_discriminator_judges_reduced_images() -> None:
    whole = toys.stylegan(resolution=64).discriminator
    assert isinstance(whole, Discriminator)
    lower = lower_discriminator(whole, 16)
    assert lower.resolution == (16, 16) and lower.names == ["b16", "b8"]
    assert torch.equal(lower.get_parameter("b16.conv1.weight"), whole.get_parameter("b16.conv1.weight"))
    assert lower(torch.zeros(2, 3, 16, 16)).shape == (2, 1)
    assert lower_discriminator(whole, 64) is whole


def test_a_plan_is_kept_for_a_resumed_run(tmp_path: Path) -> None:
    settings = config(images=10**6, known_answers=1000, batch=10)
    plan = Checks.planned(settings, images=10**6, drawing=1.0, encoding=0.1, searching=0.1, accumulate=2)
    assert (plan.seconds, plan.known_answers, plan.usual, plan.searched) == (120.0, 14, 900, 12)  # of 300 s and of 120 s
    small = Checks.planned(config(images=10), images=10, drawing=0.1, encoding=0.01, searching=1.0, accumulate=1)
    assert (small.seconds, small.usual, small.searched) == (8.0, 10, 3)  # of 20 s
    plan.keep(tmp_path / "run" / "checks.json", "this run")
    assert Checks.kept(tmp_path / "run" / "checks.json", "this run") == plan
    assert Checks.kept(tmp_path / "run" / "checks.json", "another") is None
    of_before = json.loads((tmp_path / "run" / "checks.json").read_text())
    del of_before["searched"]
    (tmp_path / "run" / "checks.json").write_text(json.dumps(of_before))
    assert Checks.kept(tmp_path / "run" / "checks.json", "this run") == dataclasses.replace(plan, searched=10)
    (tmp_path / "run" / "checks.json").write_text("{")
    assert Checks.kept(tmp_path / "run" / "checks.json", "this run") is None


@pytest.mark.parametrize("adversarial", [0.0, 0.1])
@pytest.mark.parametrize("space", ["y", "ys"])
def test_the_prior_s_weight_adds_its_loss_and_its_gradient(pictures: Path, adversarial: float, space: str) -> None:
    """By the formula on the codes of the same batch; 0 leaves the run as it is."""
    found = {}
    for weight in (0.0, 2.0):
        lia = converted()
        images = open_images(pictures, (8, 8), 3)
        settings = config(
            precision="float64", adversarial_weight=adversarial, space=space, prior_weight=weight, generated=0.0
        )  # fmt: skip
        training = EncoderTraining(lia, images, settings, None)
        losses = training.step(Microbatch(0, range(8), None, lambda done: None))
        found[weight] = losses, torch.autograd.grad(losses["loss"], list(training.encoder.parameters()))
        codes = copy.deepcopy(training.encoder)(training._floats(training.source.stream.batch(range(8), None)[0], resize))
    losses, gradients = found[2.0]
    assert lia.mapping is not None and "loss/prior" not in found[0.0][0]
    z = lia.to_z(codes.reshape(-1, 16)).double()
    second = 0.97 * torch.eye(16) + 0.03 * z.t() @ z / len(z)
    second = second + 1e-3 * max(1.0, float(second.trace()) / 16) * torch.eye(16)
    expected = ((1 + second.square().sum() / 16) / 2).log() - torch.linalg.slogdet(second)[1] / 16
    torch.testing.assert_close(losses["loss/prior"], expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(losses["loss"], found[0.0][0]["loss"] + 2 * expected, rtol=1e-6, atol=1e-9)
    assert any(not torch.equal(a, b) for a, b in zip(gradients, found[0.0][1], strict=True))


def test_the_prior_s_weight_in_a_whole_run(tmp_path: Path) -> None:
    """Conditional, in bfloat16; a mapping of which it is not known whether it trains stays as it is."""
    data = toys.pictures(tmp_path / "d", 8)
    (data / "dataset.json").write_text(json.dumps({"labels": [[f"{i:03d}.png", i % 3] for i in range(8)]}))
    lia = converted(c_dim=3)
    assert lia.mapping is not None
    lia.mapping.requires_grad_(True)
    before = fingerprint(lia.mapping)
    runs = [
        train_encoder_lia(lia, data, config(images=200, prior_weight=weight, precision="bfloat16"), folder=tmp_path / "run")
        for weight in (0.1, 30.0)  # the second finds the state of the first and begins anew
    ]
    first, second = (run.metrics["encoder"]["losses"]["loss/prior"] for run in runs)
    assert len(first) == len(second) == 25 and second[-1] < first[-1]
    assert fingerprint(lia.mapping) == before and all(p.grad is None and p.requires_grad for p in lia.mapping.parameters())
    with pytest.raises(LIAError, match="prior_weight is 0.1, but this checkpoint has no invertible mapping.*lia-adapt convert"):
        train_encoder_lia(toys.stylegan(), data, config(prior_weight=0.1))


def test_more_passes_are_better_and_go_wherever_the_file_goes(tmp_path: Path) -> None:
    """On images that the generator drew, two passes after the first bring them nearer; the file and the graph say the same."""
    lia = converted(resolution=16)
    folder = drawn(lia, tmp_path / "d")
    settings = config(images=3000, batch=32, passes=3, split="not first 64", learning_rate=3e-3, ema_images=500)
    trained = train_encoder_lia(lia, folder, settings)
    assert trained.encoder is not None and isinstance(trained.encoder, Encoder)
    images = open_images(folder, (16, 16), 3, split="first 64")
    x = torch.stack([item.x for item in map(images.load, range(64)) if item is not None])
    codes = trained.encode(x)
    first, last = (mse(trained.synthesize(y), x).mean() for y in (trained.encoder(x), codes))
    assert last < 0.9 * first
    trained.save(tmp_path / "f.safetensors")
    torch.testing.assert_close(load(tmp_path / "f.safetensors", device="cpu").encode(x), codes)
    export_graphs(trained, "torch", tmp_path / "graphs")
    graph = torch.export.load(tmp_path / "graphs" / "encoder.pt2").module()
    torch.testing.assert_close(graph(x), codes, rtol=1e-4, atol=1e-4)
